"""Which rows of a network a row reads."""

from __future__ import annotations

from typing import Any

from torch import nn


def input_rows(net: Any, row: Any) -> list[nn.Module]:
    """Return the rows of a net that one of them reads, in its order; the image is none."""
    places = [i if i >= 0 else row.i + i for i in ([row.f] if isinstance(row.f, int) else row.f)]
    return [net.model[i] for i in places if i >= 0]
