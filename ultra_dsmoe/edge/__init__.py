"""What an old card can run, without torch and without the host: linter, recipes, preflight."""
