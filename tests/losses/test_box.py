"""The host's box loss is the paper's: 1 - IoU + centre distance + aspect ratio."""

from __future__ import annotations

import math

import pytest
import torch
from ultralytics.utils.metrics import bbox_iou


def ciou(a: list[float], b: list[float]) -> float:
    """[DSMoE] Eq. 33, 34 for two boxes (x1, y1, x2, y2), written out."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    (wa, ha), (wb, hb) = ((c[2] - c[0], c[3] - c[1]) for c in (a, b))
    iou = inter / (wa * ha + wb * hb - inter)
    rho2 = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diag2 = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    v = 4 / math.pi**2 * (math.atan(wb / hb) - math.atan(wa / ha)) ** 2
    return 1 - iou + rho2 / diag2 + v * v / (1 - iou + v)


@pytest.mark.parametrize(
    ("a", "b"),
    [([0, 0, 4, 2], [1, 1, 3, 5]), ([0, 0, 10, 10], [2, 2, 6, 8]), ([0, 0, 1, 3], [5, 5, 9, 6])],
)
def test_the_hosts_ciou_is_the_papers(a: list[float], b: list[float]) -> None:
    got = 1 - bbox_iou(torch.tensor([a]).float(), torch.tensor([b]).float(), xywh=False, CIoU=True)
    assert float(got) == pytest.approx(ciou(a, b), abs=1e-5)
