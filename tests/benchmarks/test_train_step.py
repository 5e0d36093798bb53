"""The training benchmark: counted work against work by hand, steps that train, its bars and arguments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

C, PIXELS, N = 8, 6, 10


def test_convolution_gradients_are_counted_by_group(train_step: ModuleType) -> None:
    mapping = {torch.ops.aten.convolution_backward: train_step.conv_backward_flops}
    for groups, image_gradient in ((1, True), (8, True), (8, False), (4, True)):
        x = torch.randn(2, 8, 5, 5, requires_grad=image_gradient)
        weight = torch.randn(8, 8 // groups, 3, 3, requires_grad=True)
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            F.conv2d(x, weight, padding=1, groups=groups).sum().backward()
        forward = 2 * 2 * 8 * 25 * 9 * (8 // groups)
        assert counter.get_total_flops() == forward * (3 if image_gradient else 2)


def test_ideal_by_hand(train_step: ModuleType) -> None:
    chosen = torch.tensor([[True, False, True, True], [False, True, False, True]])
    macs = (14 * 8 + 64) + 3 * 64 + 3 * (64 + 72)
    assert train_step.ideal_flops(chosen, 8, 5) == 3 * 2 * macs * 5


def test_routes(train_step: ModuleType) -> None:
    gate = train_step.routes(16, 32, 5)
    torch.testing.assert_close(gate.sum(1), torch.ones(16))
    assert ((gate > 0).sum(1) == 5).all()
    assert len({tuple(row.nonzero().flatten().tolist()) for row in gate}) > 10


def test_only_the_chosen_pairs_are_computed(train_step: ModuleType) -> None:
    executed, ideal = train_step.work(C, PIXELS, N, 2)
    assert ideal <= executed <= train_step.WORK_AIM * ideal
    everything, most = train_step.work(C, PIXELS, N, N)
    assert everything > 2 * executed
    assert everything <= train_step.WORK_AIM * most


def test_a_step_moves_the_net(train_step: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    stock = train_step.torch.optim.SGD
    monkeypatch.setattr(train_step.torch.optim, "SGD", lambda p, **k: built.append(list(p)) or stock(built[0], **k))
    device = torch.device("cpu")
    net = train_step.net_of("dsmoe-n", device)
    step = train_step.step_of(net, train_step.drawn_batch(2, 64, net.yaml["nc"], device))
    before = [p.detach().clone() for p in built[0]]
    step()
    moved = sum(not torch.equal(a, b) for a, b in zip(before, built[0], strict=True))
    assert moved > 0.5 * len(before)
    assert all(torch.isfinite(p).all() for p in built[0])


def test_drawn_boxes_lie_in_their_images(train_step: ModuleType) -> None:
    batch = train_step.drawn_batch(3, 64, 5, torch.device("cpu"))
    centres, sizes = batch["bboxes"].split(2, 1)
    assert ((centres - sizes / 2 >= 0) & (centres + sizes / 2 <= 1) & (sizes > 0)).all()
    assert batch["img"].shape == (3, 3, 64, 64)
    assert sorted(batch["batch_idx"].unique().tolist()) == [0, 1, 2]
    assert 0 <= batch["cls"].min() <= batch["cls"].max() < 5


def test_whole_run(
    train_step: ModuleType,
    interleaved: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[str, dict[str, torch.Tensor]]] = []
    times = {"dsmoe-s": interleaved.Timing(130.0, 150.0, 120.0), "yolov8s": interleaved.Timing(100.0, 100.0, 100.0)}
    monkeypatch.setattr(train_step.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(train_step, "work", lambda: (130, 100))
    monkeypatch.setattr(train_step, "net_of", lambda name, device: SimpleNamespace(name=name, yaml={"nc": 7}))
    monkeypatch.setattr(train_step, "step_of", lambda net, data: asked.append((net.name, data)) or (lambda: None))
    monkeypatch.setattr(train_step, "interleave", lambda steps, repeats, warm_up: times)
    file = tmp_path / "step.json"
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--json", str(file), "--batch", "3", "--imgsz", "64"])
    train_step.main()
    out = capsys.readouterr().out.splitlines()
    assert [name for name, _ in asked] == ["dsmoe-s", "yolov8s"]
    assert all(data["img"].shape == (3, 3, 64, 64) and 4 < data["cls"].max() < 7 for _, data in asked)
    assert out[-2] == "work over that of the chosen pairs: 1.300, aim <= 1.2: MISSED"
    assert out[-1] == "step of dsmoe-s over yolov8s: 1.300 (median 1.500, processor 1.200), aim <= 1.3: holds"
    found = json.loads(file.read_text())
    assert found["work_over_ideal"] == 1.3
    assert found["step_over_peer"] == {"minimum": 1.3, "median": 1.5, "processor": 1.2}
    assert (found["device"], found["batch"], found["imgsz"]) == ("cpu", 3, 64)


def test_defaults_by_device(train_step: ModuleType) -> None:
    assert (train_step.parsed([], False).batch, train_step.parsed([], False).imgsz) == train_step.ON_CPU
    assert (train_step.parsed([], True).batch, train_step.parsed([], True).imgsz) == (16, 640)


def test_usage(train_step: ModuleType, usage_error: Callable[..., str]) -> None:
    assert "--batch: expected an integer of at least 1, got 0" in usage_error(train_step, "--batch", "0")
    assert "--imgsz: expected a multiple of 32, got 100" in usage_error(train_step, "--imgsz", "100")
