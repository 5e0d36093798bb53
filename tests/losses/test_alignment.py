"""Cell labels against plain loops over boxes and cells; the alignment loss by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ultra_dsmoe.losses import alignment_loss, cell_labels
from ultra_dsmoe.losses.alignment import IGNORE


def by_loops(cls: Any, boxes: Any, batch_idx: Any, shape: Any) -> torch.Tensor:
    """The definition, cell by cell: smallest covering box; along an axis without a covered centre, its own cell."""
    b, h, w = shape
    labels = [[[IGNORE] * w for _ in range(h)] for _ in range(b)]
    best = [[[math.inf] * w for _ in range(h)] for _ in range(b)]
    for c, (cx, cy, bw, bh), i in zip(cls.tolist(), boxes.tolist(), batch_idx.tolist(), strict=True):
        rows = [r for r in range(h) if abs((r + 0.5) / h - cy) <= bh / 2] or [min(int(cy * h), h - 1)]
        cols = [q for q in range(w) if abs((q + 0.5) / w - cx) <= bw / 2] or [min(int(cx * w), w - 1)]
        cells = [(r, q) for r in rows for q in cols]
        for r, q in cells:
            if bw * bh < best[int(i)][r][q]:
                best[int(i)][r][q], labels[int(i)][r][q] = bw * bh, int(c)
    return torch.tensor(labels)


def random_boxes(m: Any, b: Any) -> Any:
    size = torch.rand(m, 2) ** 2 * 0.7 + 0.01
    centre = torch.rand(m, 2)
    return torch.randint(5, (m,)).float(), torch.cat([centre, size], 1), torch.randint(b, (m,)).float()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 10, 10), (2, 7, 13)])
def test_labels_match_the_loops(shape: Any) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        cls, xywh, index = random_boxes(12, shape[0])
        got = cell_labels(cls, xywh, index, shape)
        assert got.dtype == torch.long
        assert torch.equal(got, by_loops(cls, xywh, index, shape))


def test_no_boxes() -> None:
    empty = cell_labels(torch.zeros(0), torch.zeros(0, 4), torch.zeros(0), (2, 3, 4))
    assert (empty == IGNORE).all()
    assert empty.shape == (2, 3, 4)
    one = cell_labels(torch.zeros(1), torch.tensor([[0.5, 0.5, 1.0, 1.0]]), torch.ones(1), (2, 2, 2))
    assert one.tolist() == [[[-1, -1], [-1, -1]], [[0, 0], [0, 0]]]  # image 0 has none


def test_smallest_box_wins_whatever_the_order() -> None:
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5], [0.125, 0.125, 0.25, 0.25]])
    wanted = [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        got = cell_labels(torch.tensor(order), boxes[order], torch.zeros(3), (1, 4, 4))
        assert got[0].tolist() == wanted


def test_tiny_boxes_take_their_own_cell() -> None:
    boxes = torch.tensor([[0.30, 0.55, 1e-4, 1e-4], [1.0, 1.0, 1e-3, 1e-3], [0.0, 0.0, 0.0, 0.0]])
    got = cell_labels(torch.tensor([3, 4, 2]), boxes, torch.zeros(3), (1, 4, 4))[0]
    assert got[2, 1] == 3
    assert got[3, 3] == 4  # a centre on the border belongs to the last cell
    assert got[0, 0] == 2
    assert (got == IGNORE).sum() == 13


def test_a_thin_box_labels_its_whole_row() -> None:
    scratch = torch.tensor([[0.5, 0.30, 1.0, 1e-3]])
    got = cell_labels(torch.tensor([1]), scratch, torch.zeros(1), (1, 4, 4))[0]
    assert got.tolist() == [[-1] * 4, [1] * 4, [-1] * 4, [-1] * 4]


@pytest.mark.parametrize("turned", [False, True])
def test_a_box_that_ends_on_centres_covers_both(turned: bool) -> None:
    box = [[0.5, 0.25, 1.0, 0.25]] if turned else [[0.25, 0.5, 0.25, 1.0]]  # 1/8 to 3/8 of four cells
    got = cell_labels(torch.tensor([1]), torch.tensor(box), torch.zeros(1), (1, 4, 4))[0]
    assert torch.equal(got.T if turned else got, torch.tensor([[1, 1, -1, -1]] * 4))


def test_boxes_in_half_precision_find_their_cell_in_full() -> None:
    box = torch.tensor([[0.9, 0.9, 0.0, 0.0]]).half()  # 0.8999 x 1000 would round to 900
    got = cell_labels(torch.tensor([1]), box, torch.zeros(1), (1, 1000, 1000))[0]
    assert (got >= 0).nonzero().tolist() == [[899, 899]]


def test_loss_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, :, 0, 0] = torch.tensor([0.0, math.log(3)])  # p = (1/4, 3/4)
    labels = torch.tensor([[[0, 1, 1, IGNORE]]])
    class0, class1 = math.log(4), math.log(2)
    assert alignment_loss(logits, labels).item() == pytest.approx((class0 + class1) / 2)


def test_classes_weigh_equally() -> None:
    """Ninety cells of one class count as much as one of the other."""
    logits = torch.zeros(1, 3, 7, 13)
    labels = torch.zeros(1, 7, 13, dtype=torch.long)
    labels[0, 0, 0] = 1
    logits[0, 0] = 5.0  # right for class 0, wrong for class 1
    each = [F.cross_entropy(torch.tensor([[5.0, 0, 0]]), torch.tensor([c])).item() for c in (0, 1)]
    assert alignment_loss(logits, labels).item() == pytest.approx(sum(each) / 2, rel=1e-5)


def test_a_class_alone_is_the_mean() -> None:
    """Classes that are absent do not count, be they few or many."""
    for classes, height in ((3, 2), (3, 9), (9, 3)):
        labels = torch.full((1, height, 2), IGNORE)
        labels[0, 0] = 1
        assert alignment_loss(torch.zeros(1, classes, height, 2), labels).item() == pytest.approx(math.log(classes))


def test_half_precision_is_summed_in_fp32() -> None:
    logits, labels = 8 * torch.randn(1, 3, 40, 40).half(), torch.randint(3, (1, 40, 40))
    got = alignment_loss(logits, labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, alignment_loss(logits.float(), labels))


def test_limits() -> None:
    labels = torch.randint(3, (2, 4, 4))
    right = 50 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert alignment_loss(right, labels).item() == pytest.approx(0, abs=1e-6)
    assert alignment_loss(torch.zeros(2, 3, 4, 4), labels).item() == pytest.approx(math.log(3))
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    none = alignment_loss(logits, torch.full((2, 4, 4), IGNORE))
    assert none.item() == 0
    none.backward()
    assert not logits.grad.any()
    single = alignment_loss(torch.randn(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    assert single.item() == 0  # one class has nothing to be told from


def test_gradients() -> None:
    labels = torch.tensor([[[0, 2, IGNORE], [1, 1, 0]]])
    logits = torch.randn(1, 3, 2, 3, requires_grad=True)
    alignment_loss(logits, labels).backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[..., 0, 2].any()  # the ignored cell
    direction, step = torch.randn_like(logits), 1e-2
    with torch.no_grad():
        ahead, behind = (alignment_loss(logits + s * direction, labels).item() for s in (step, -step))
    assert (logits.grad * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-3, abs=1e-4)
    wild = (1e4 * torch.randn(1, 3, 2, 3)).requires_grad_()
    alignment_loss(wild, labels).backward()
    assert torch.isfinite(wild.grad).all()
