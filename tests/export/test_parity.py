"""Net and file run side by side: every image, in batches, before and behind suppression, with the experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from parity_checks import IMAGES, shifted

from ultra_dsmoe.errors import DataError
from ultra_dsmoe.export import parity
from ultra_dsmoe.export.parity import ParityReport, Suppression, compare
from ultra_dsmoe.nn.neck.expert_gate import GATE_FLOOR


def test_the_worst_image_is_named(toy: Any, file: Path) -> None:
    net, plant = toy
    calls = iter(range(5))
    plant(lambda p, g: shifted(slice(0, 4), 0.1 if next(calls) == 3 else 0.02, 0)(p, g))
    report = compare(net, file, IMAGES)
    assert (report.box_image, report.box_px) == (3, pytest.approx(0.1, rel=1e-3))


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 7])
def test_every_image_is_compared_whatever_the_batch(toy: Any, file: Path, batch: int) -> None:
    net, plant = toy
    sizes = []
    plant(lambda p, g: sizes.append(len(p)) or (p, g))
    one = compare(net, file, IMAGES)
    report = compare(net, file, IMAGES, batch)
    assert set(sizes[5:]) == {batch}
    assert report.routes == one.routes
    assert len(set(report.routes)) > 1, "all images alike would hide a mix-up"
    plant(lambda p, g: shifted(slice(0, 4), 0.1, (5 - 1) % batch)(p, g) if len(p) == batch else (p, g))
    assert compare(net, file, IMAGES, batch).box_px == pytest.approx(0.1, rel=1e-3)


def test_suppressed_files_are_compared_after_suppression(toy: Any, file: Path) -> None:
    """The host's suppression of the net's predictions is what a file with its own must give, in any order."""
    net, plant = toy
    nms = Suppression(conf=0.05, max_det=7)
    plant(lambda p, g: (parity._suppressed(p, nms)[:, ::-1], g))
    report = compare(net, file, IMAGES, nms=nms)
    assert (report.box_px, report.score) == (0, 0)
    found = parity._suppressed(parity.torch_runner(net)(IMAGES)[0], nms)
    assert found.shape == (5, 7, 6)
    assert (found[..., 4] > 0).any()
    plant(lambda p, g: (parity._suppressed(p, nms) * np.array([1, 1, 1, 1, 0.9, 1], np.float32), g))
    assert compare(net, file, IMAGES, nms=nms).score > 1e-3


def test_other_experts_are_told_with_their_image(toy: Any, file: Path) -> None:
    net, plant = toy
    calls = iter(range(5))
    plant(lambda p, g: (p, [np.roll(g[0], 1, 1)] if next(calls) >= 2 else g))
    report = compare(net, file, IMAGES)
    image, ours, theirs = report.other_route
    assert (image, report.experts_equal) == (2, False)
    assert ours == report.routes[2]
    assert theirs == (tuple(sorted((n + 1) % 6 for n in ours[0])),)
    assert not report.agrees()
    plant(lambda p, g: (p, []))
    assert compare(net, file, IMAGES).experts_equal is None, "the file does not show them"


def test_the_class_that_moved_most_is_named(toy: Any, file: Path) -> None:
    net, plant = toy
    scores = parity.torch_runner(net)(IMAGES)[0][:, 4:]
    number = int(scores.max((0, 2)).argmax())  # the gate may leave the other at 0
    highest = scores[:, number].max()
    plant(shifted(slice(4 + number, 5 + number), 0.125, 0))
    report = compare(net, file, IMAGES)
    assert (report.score, report.box_px, report.share_class) == (pytest.approx(0.125), 0.0, number)
    assert report.share == pytest.approx(0.125 / highest)
    assert report.mixed_up == ()
    assert report.images == 5


GOOD = {"images": 1, "box_px": 0.01, "score": 1e-3, "experts_equal": None, "routes": (), "share": 1e-2}


def test_what_agrees_by_hand() -> None:
    assert ParityReport(**GOOD).agrees()
    wrong = {"box_px": 0.011, "score": 1.1e-3, "share": 0.011, "experts_equal": False, "compared": False}
    for name, value in {**wrong, "finite": False, "mixed_up": ("class 0 is another",)}.items():
        assert not ParityReport(**{**GOOD, name: value}).agrees(), name
    assert ParityReport(**{**GOOD, "box_px": 1.0}).agrees(box_px=1.0)
    assert ParityReport(**{**GOOD, "score": 0.5, "share": 0.5}).agrees(score=0.5, share=0.5)
    assert str(ParityReport(**GOOD)) == "1 images: boxes within 0.01 px, scores within 0.001, experts not shown"


def test_corners_by_hand() -> None:
    found = parity._corners(np.float32([[[10], [20], [4], [6], [0.5]]]))
    assert found.flatten().tolist() == [8, 17, 12, 23, 0.5]


def test_an_expert_counts_from_half_the_floor_on() -> None:
    gate = np.float32([[0, GATE_FLOOR, 1, GATE_FLOOR / 4], [0.5, 0, 0, 0.5]])
    assert parity._route([gate], 0) == ((1, 2),)
    assert parity._route([gate, gate], 1) == ((0, 3), (0, 3))


def test_one_to_one_heads_run_where_the_file_did() -> None:
    net = SimpleNamespace(model=[SimpleNamespace(one2one_cv2=[1])], end2end=True)
    for final in (False, True):
        parity._select_head(net, final)
        assert net.end2end is final
    other = SimpleNamespace(model=[SimpleNamespace()])
    parity._select_head(other, True)
    assert not hasattr(other, "end2end")


def test_suppression_by_hand() -> None:
    """Two boxes of one class that overlap by 0.82, one of another class on the same place, one low, one apart."""
    rows = [(50, 50, 20, 20, 0.9, 0.0), (52, 50, 20, 20, 0.8, 0.0), (50, 50, 20, 20, 0.0, 0.7), (50, 90, 9, 9, 0.2, 0)]
    predictions = np.float32(rows).T[None]
    found = parity._suppressed(predictions, Suppression(max_det=4))
    np.testing.assert_allclose(found[0, :, 4:], [[0.9, 0], [0.7, 1], [0, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(found[0, 0, :4], [40, 40, 60, 60])
    wider = parity._suppressed(predictions, Suppression(conf=0.1, iou=0.9, max_det=4))
    np.testing.assert_allclose(wider[0, :, 4], [0.9, 0.8, 0.7, 0.2], atol=1e-6)
    alone = parity._suppressed(predictions, Suppression(agnostic=True, max_det=4))
    np.testing.assert_allclose(alone[0, :, 4], [0.9, 0, 0, 0], atol=1e-6)
    assert parity._suppressed(predictions, Suppression(max_det=1)).shape == (1, 1, 6)


def test_without_images_there_is_nothing_to_say(toy: Any, file: Path) -> None:
    with pytest.raises(DataError, match="images: expected at least one image, got none"):
        compare(toy[0], file, IMAGES[:0])


def test_the_net_is_left_as_it_is(toy: Any, file: Path) -> None:
    net = toy[0].train()
    assert compare(net, file, IMAGES).box_px == 0
    assert net.training


def test_a_net_without_gates_says_nothing_of_experts(toy: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = torch.nn.Module()
    net.model = torch.nn.ModuleList([torch.nn.Identity()])
    net.forward = lambda x: x.flatten(2).repeat(1, 2, 1)
    monkeypatch.setattr(parity, "exported_runner", lambda path, gates, before_nms=False: parity.torch_runner(net))
    report = compare(net, file, IMAGES)
    assert (report.experts_equal, report.routes[0]) == (None, ())


def test_what_suppression_chooses_from_is_compared_where_it_is_shown(toy: Any, file: Path, monkeypatch: Any) -> None:
    """Here the file's suppression is right and all that it throws away is wrong."""
    net, nms = toy[0], Suppression(conf=0.05, max_det=7)
    true = parity.torch_runner(net)

    def runner(path: Path, gates: int, before_nms: bool = False) -> Callable[..., Any]:
        if before_nms:
            return lambda x: (parity._corners(true(x)[0]) + np.float32([[[0]] * 4 + [[0.5]] * 2]), [])
        return lambda x: (parity._suppressed(true(x)[0], nms), true(x)[1])

    monkeypatch.setattr(parity, "exported_runner", runner)
    for final in (True, False):
        report = compare(net, file, IMAGES, nms=nms, final=final)
        assert (report.box_px, report.score) == (0, pytest.approx(0.5))


def test_a_report_begins_without_differences() -> None:
    report = ParityReport(1, 0.0, 0.0, None, ())
    assert (report.box_image, report.score_image, report.other_route) == (0, 0, None)
    assert (report.share, report.share_class) == (0, 0)
    assert (report.mixed_up, report.compared, report.finite) == ((), True, True)
