"""Exported files: comparison with the net they come from."""
