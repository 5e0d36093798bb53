"""A pair: an image and its known-good picture as one array; what the runtime without torch needs of it too."""

from ultra_dsmoe.runtime.pairing import COLOURS, PAIR, blank_like, halves, stacked

__all__ = ["COLOURS", "PAIR", "blank_like", "halves", "stacked"]
