"""Blocks that bring a picture and its two texts together, one per file."""
