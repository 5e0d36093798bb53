"""Head blocks, one per file."""
