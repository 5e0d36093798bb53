"""Neck blocks, one per file."""
