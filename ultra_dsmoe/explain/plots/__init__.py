"""Pictures of what the package measures, one per file, on one canvas."""
