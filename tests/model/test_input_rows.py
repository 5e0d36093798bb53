"""Which rows a row reads: by number, counted back, and none for the image."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from ultra_dsmoe.model.input_rows import input_rows


@pytest.mark.parametrize(
    ("i", "f", "expected"), [(0, -1, []), (2, -1, [1]), (2, 0, [0]), (3, [2, 0], [2, 0]), (3, [-1, -3], [2, 0])]
)
def test_rows_read(i: int, f: Any, expected: list[int]) -> None:
    net = nn.Module()
    net.model = nn.Sequential(*(nn.Identity() for _ in range(4)))
    row: Any = net.model[i]
    row.i, row.f = i, f
    assert input_rows(net, row) == [net.model[j] for j in expected]
