"""Exported files: comparison with the net they come from, INT8, engines, and a runtime without torch.

Nothing is imported here: `runtime` and `engine` run on boxes that have no torch.
"""
