"""Readers of archives and of foreign label formats."""
