"""The benchmark of a classifier's training step: what it times trains, in its phase; its bars."""

from __future__ import annotations

import json
from types import ModuleType

import torch


def test_every_step_trains_in_its_phase(classify_step: ModuleType) -> None:
    for mode, channels in (("train", 3), ("always", 4)):
        net = classify_step.net_with(mode)
        assert net.yaml["channels"] == channels
        net.head.phase = "alignment"
        before = net.model[11].linear.weight.detach().clone()
        step = classify_step.step_of(net, classify_step.drawn_batch(2, 64, 4))
        step()
        assert not torch.equal(net.model[11].linear.weight, before)
        assert torch.isfinite(net.model[11].linear.weight).all()


def test_all_of_it(classify_step: ModuleType, interleaved: ModuleType) -> None:
    steps = classify_step.steps(2, 64)
    assert list(steps) == [
        "yolov8n-cls",
        *(f"{m}, {p}" for m in ("train", "always") for p in ("warm-up", "alignment", "fusion")),
    ]
    times = {name: interleaved.Timing(2.0, 3.0, 1.0) for name in steps}
    times["train, fusion"] = interleaved.Timing(2.8, 3.0, 1.0)
    found = {bar.what: bar.holds for bar in classify_step.bars(times)}
    assert found.pop("step, train, fusion") is False
    assert all(found.values())
    assert len(found) == 5
    json.dumps(classify_step.content(times))
