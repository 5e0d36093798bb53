"""Layers that compare an image with a known-good picture of the same product."""
