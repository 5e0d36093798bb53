"""Sharpness of the gate: what is fitted on which images, what it changes, and what is written."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.evaluate.evaluation import Evaluation, ImageStats
from ultra_dsmoe.explain import sharpness
from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.explain.sharpness import calibrate, cells, checkpoint_with, halves, sharpened, subset
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate

IMAGES = 40


def made_up(skill: float, seed: int = 0) -> ImageStats:
    """Return matches on images of one object each, which is found with this probability."""
    rng = np.random.default_rng(seed)
    tp = [np.full((1, 10), rng.random() < skill) for _ in range(IMAGES)]
    one = [np.zeros(1) for _ in range(IMAGES)]
    return ImageStats([f"{i // 2}_{i % 2}.png" for i in range(IMAGES)], tp, [rng.random(1) for _ in one], one, one)


class Stub:
    """Stands in for an evaluation: what is found depends on the temperature in force, and peaks at half the trained."""

    groups = r"^(\d+)_"
    path = Path("best.pt")

    def __init__(self, tau: float = 0.1, peak: float = 0.05, topk: int = 2) -> None:
        self.net, self.args, self.peak = torch.nn.Sequential(ExpertGate(8, 4, topk)), {"data": "a.yaml"}, peak
        self.net[0].set_tau(tau)
        self.seen: list[float] = []

    def run(self, switch: Any) -> ImageStats:
        with switch:
            self.seen.append(self.net[0].tau.item())
        return made_up(0.9 - 0.2 * abs(np.log2(self.seen[-1] / self.peak)))


def test_the_best_on_the_fitting_half_is_judged_on_the_other() -> None:
    stub = Stub()
    found = calibrate(stub, 200, seed=3)
    assert sorted(stub.seen) == pytest.approx([0.1 / f for f in reversed(sharpness.FACTORS)], rel=1e-5)
    assert found.factor == 2
    assert found.taus == pytest.approx([0.05])
    assert stub.net[0].tau.item() == pytest.approx(0.1), "the net keeps its own"
    fitting = halves(made_up(1), stub.groups, 3)
    trained, best = made_up(0.7), made_up(0.9)
    assert found.tried[2] == pytest.approx(100 * mean_ap(subset(best, fitting)), abs=1e-3)
    assert found.base == pytest.approx(100 * mean_ap(subset(trained, ~fitting)), abs=1e-3)
    change = 100 * (mean_ap(subset(best, ~fitting)) - mean_ap(subset(trained, ~fitting)))
    assert found.effect.change == pytest.approx(change, abs=1e-3)
    assert found.effect.ranges[0][0] <= change[0] <= found.effect.ranges[0][1]
    assert f"fitted on {IMAGES // 2} images, judged on the other {IMAGES // 2}; " in found.notes[0]
    table = {row[0]: row[1] for row in cells(found)}
    assert (table["x 1.00"], table["x 2.00"], table["x 4.00"]) == ("as trained", "best", "")


def test_an_equal_one_does_not_replace_the_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    monkeypatch.setattr(stub, "run", lambda switch: made_up(0.8))
    found = calibrate(stub, 200)
    assert (found.factor, found.taus, found.effect.change) == (1, pytest.approx([0.1]), (0, 0))
    assert ["x 1.00", "as trained, best"] in [row[:2] for row in cells(found)]


def test_temperatures_stay_where_training_keeps_them() -> None:
    for tau in (0.012, 0.9):
        stub = Stub(tau)
        calibrate(stub, 200)
        assert len(stub.seen) == 5
        assert all(0.01 <= seen <= 1 for seen in stub.seen)
    with pytest.raises(ConfigError, match=r"temperature of the gate: expected a number from 0.01 to 1, got 2"):
        stub.net[0].set_tau(2)


def test_halves_are_of_boards_and_differ_by_seed() -> None:
    stats = made_up(1)
    one = halves(stats, Stub.groups, 0)
    assert one.sum() == IMAGES // 2
    assert (one[::2] == one[1::2]).all(), "images of one board stay together"
    assert (halves(stats, None, 0)[::2] != halves(stats, None, 0)[1::2]).any()
    assert (one != halves(stats, Stub.groups, 1)).any()
    assert (one == halves(stats, Stub.groups, 0)).all()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="model: expected a network whose gate weighs at least two experts, got best"):
        calibrate(Stub(topk=1), 200)
    one = made_up(1)
    one.files = [f"board_{name}" for name in one.files]
    with pytest.raises(
        DataError, match="data: expected two halves with labelled objects each, got 40 images, 1 groups"
    ):
        halves(one, r"^(board)", 0)


def test_the_same_experts_are_chosen_and_weighed_otherwise() -> None:
    gate = ExpertGate(8, 16, 4).eval()
    feat = torch.randn(6, 8, 4, 4)
    with torch.no_grad():
        before = gate(feat)
        with sharpened([gate], 4):
            sharp = gate(feat)
        again = gate(feat)
    assert torch.equal(before > 0, sharp > 0)
    assert (sharp.amax(1) > before.amax(1) + 1e-3).all()
    assert torch.equal(again, before)


def test_a_written_checkpoint_differs_in_the_gate_alone(checkpoint: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.pt"
    new.write_bytes(checkpoint_with(checkpoint, [0.05]))
    old, net = (YOLO(str(p)).model for p in (checkpoint, new))
    (gate,) = blocks(net, ExpertGate)
    assert gate.tau.item() == pytest.approx(0.05, rel=1e-3)
    differ = [
        k for (k, a), b in zip(old.state_dict().items(), net.state_dict().values(), strict=True) if not a.equal(b)
    ]
    assert [name.rsplit(".", 1)[1] for name in differ] == ["log_tau"]
    assert Evaluation({"model": str(new), "device": "cpu"}).args["imgsz"] == 64, "how it was trained stays"


def test_the_moving_average_of_an_unfinished_run_is_changed_too(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=False)
    last = tmp_path / "last.pt"
    torch.save({**content, "ema": deepcopy(content["model"])}, last)
    new = tmp_path / "new.pt"
    new.write_bytes(checkpoint_with(last, [0.05]))
    assert blocks(YOLO(str(new)).model, ExpertGate)[0].tau.item() == pytest.approx(0.05, rel=1e-3)
