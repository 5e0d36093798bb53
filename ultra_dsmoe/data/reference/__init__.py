"""Known-good pictures: which belongs to an image, how it is laid on it, and whether it shows the same product."""
