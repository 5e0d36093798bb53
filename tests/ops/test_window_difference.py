"""Difference over a window: by hand, against a loop, shifts of a pixel and of parts of one, both directions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ultra_dsmoe.ops.window_difference import window_difference


def by_loop(image: Tensor, reference: Tensor, window: int) -> Tensor:
    """Return the distance from the other's range, position by position, the larger of both ways."""
    out, r = torch.zeros_like(image), window // 2
    for b, c, i, j in torch.cartesian_prod(*map(torch.arange, image.shape)).tolist():
        near = (slice(max(i - r, 0), i + r + 1), slice(max(j - r, 0), j + r + 1))
        for x, other in ((image, reference), (reference, image)):
            value, around = x[b, c, i, j], other[b, c][near]
            gap = max(around.min() - value, value - around.max(), torch.tensor(0.0))
            out[b, c, i, j] = max(out[b, c, i, j], gap)
    return out


@pytest.mark.parametrize("window", [1, 3, 5])
def test_value(window: int) -> None:
    image, reference = torch.rand(2, 2, 2, 6, 7)
    assert torch.equal(window_difference(image, reference, window), by_loop(image, reference, window))


def test_a_window_of_one_is_the_absolute_difference() -> None:
    image, reference = torch.rand(2, 2, 3, 8, 8)
    torch.testing.assert_close(window_difference(image, reference, 1), (image - reference).abs())


@pytest.mark.parametrize(("window", "shift"), [(3, 1), (5, 2), (7, 3)])
def test_a_shift_within_the_window_is_no_difference(window: int, shift: int) -> None:
    reference = torch.rand(1, 1, 24, 24)
    image = reference.roll((shift, -shift), (2, 3))
    inside = (..., slice(shift, -shift), slice(shift, -shift))
    assert not window_difference(image, reference, window)[inside].any()
    assert (image - reference).abs()[inside].mean() > 0.1
    beyond = reference.roll((window, window), (2, 3))
    assert window_difference(beyond, reference, window)[inside].any()


def test_a_shift_of_half_a_pixel_is_none_either() -> None:
    """The best match over whole pixels leaves a rest at every edge."""
    reference = (torch.rand(1, 1, 12, 12) > 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    image = (reference + reference.roll(1, 3)) / 2
    inside = (..., slice(1, -1))
    assert not window_difference(image, reference, 3)[inside].any()
    best = torch.stack([(image - reference.roll(s, 3)).abs() for s in (-1, 0, 1)]).amin(0)
    assert best[inside].max() == 0.5


@pytest.mark.parametrize("missing", [True, False])
def test_a_thin_line_shows_whether_it_is_missing_or_too_much(missing: bool) -> None:
    line = torch.zeros(1, 1, 9, 9)
    line[..., 4] = 1
    pair = (torch.zeros_like(line), line) if missing else (line, torch.zeros_like(line))
    assert torch.equal(window_difference(*pair, 3), line)


def test_is_never_more_than_the_best_match() -> None:
    image, reference = torch.rand(2, 1, 1, 16, 16)
    padded = F.pad(reference, (1, 1, 1, 1), value=9.0), F.pad(image, (1, 1, 1, 1), value=9.0)
    ways = [
        torch.stack([(x - p[..., i : i + 16, j : j + 16]).abs() for i in range(3) for j in range(3)]).amin(0)
        for x, p in zip((image, reference), padded, strict=True)
    ]
    assert (window_difference(image, reference, 3) <= torch.maximum(*ways)).all()
