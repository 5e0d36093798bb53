"""Attention blocks that neck and head share."""
