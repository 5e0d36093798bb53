"""Every model YAML of the package: it builds, trains a step, keeps to its budget and survives saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from net_checks import fake_batch
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

CFG = Path(__file__).resolve().parents[2] / "cfg" / "models"
MODELS = {
    "dsmoe.yaml": ["dsmoe"],
    "dsmoe-conv.yaml": ["dsmoe-n", "dsmoe-s", "dsmoe-m"],
    "dsmoe-concat.yaml": ["dsmoe-concat"],
    "dsmoe-p2.yaml": ["dsmoe-p2"],
    "yolov8-dsmoe.yaml": ["yolov8n-dsmoe", "yolov8s-dsmoe"],
    "yolo26-dsmoe.yaml": ["yolo26n-dsmoe", "yolo26s-dsmoe"],
}
# No experts, and sizes of 128: tests/nn/test_tmodel.py; no text: test_gasnet.py; two images: test_reference.py.
ELSEWHERE = ["smodel.yaml", "tmodel.yaml", "gasnet.yaml", "yolov8-gasnet.yaml", "yolo26-gasnet.yaml"]
ELSEWHERE += ["yolov8-ref.yaml", "yolo11-ref.yaml", "yolo26-ref.yaml", "dsmoe-ref.yaml"]
ELSEWHERE += [
    "pfa-cls.yaml",
    "yolov8-pfa-cls.yaml",
    "yolo11-pfa-cls.yaml",
]  # classifiers: tests/model/test_classifier.py
NAMES = [name for names in MODELS.values() for name in names]
STRIDES = {"dsmoe-p2": [4.0, 8.0, 16.0, 32.0]}
BUDGETS = {"dsmoe": 32.0, "dsmoe-s": 28.6, "dsmoe-n": 8.0}  # GFLOPs at 640, the YAML's own number of classes
SIZE, NC = 64, 80


def build(name: str) -> DSMoEModel:
    net: Any = YOLO(f"{name}.yaml").model
    net.args = get_cfg()
    return net


def predictions(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(images)[0]


def train_step(net: DSMoEModel, batch: dict[str, Tensor]) -> Tensor:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    loss, _ = net.train()(batch)
    loss.sum().backward()
    optimizer.step()
    return loss.detach()


def test_the_sweep_covers_every_yaml_of_the_package() -> None:
    assert sorted([*MODELS, *ELSEWHERE]) == sorted(str(p.relative_to(CFG)) for p in CFG.rglob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_builds_trains_a_step_and_survives_saving(name: str, tmp_path: Path) -> None:
    net, batch = build(name), fake_batch(2, SIZE, NC)
    assert type(net) is DSMoEModel
    assert net.stride.tolist() == STRIDES.get(name, [8.0, 16.0, 32.0])
    anchors = sum(int(SIZE / s) ** 2 for s in net.stride.tolist())
    assert predictions(net, batch["img"]).shape == (2, 4 + NC, anchors)

    before = {k: v.clone() for k, v in net.named_parameters()}
    assert torch.isfinite(train_step(net, batch)).all()
    moved = [k for k, p in net.named_parameters() if not torch.equal(p, before[k])]
    assert len(moved) > len(before) / 3

    path = tmp_path / "net.pt"
    torch.save({"model": net, "train_args": {"task": "detect", "model": name}}, path)
    loaded = YOLO(path).model
    assert type(loaded) is DSMoEModel
    expected = predictions(net, batch["img"])
    assert torch.equal(predictions(loaded, batch["img"]), expected)
    assert not torch.allclose(predictions(build(name), batch["img"]), expected, atol=1e-6), "any net would pass"


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_left_out_of_the_graph(name: str) -> None:
    net = build(name)
    net.set_topk(32)  # an expert that no image chose has no gradient
    loss, _ = net.train()(fake_batch(2, SIZE, NC))
    loss.sum().backward()
    trained = {k: p for k, p in net.named_parameters() if p.requires_grad and p.numel()}  # no taxonomy: no parents
    assert not [k for k, p in trained.items() if p.grad is None]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_and_a_batch_of_odd_shape_pass(name: str) -> None:
    net = build(name).eval()
    one = predictions(net, torch.rand(1, 3, SIZE, SIZE + 32))
    assert torch.isfinite(one).all()
    assert one.shape[0] == 1


@pytest.mark.parametrize(("name", "budget"), BUDGETS.items())
def test_stays_within_its_budget(name: str, budget: float) -> None:
    *_, gflops = build(name).info()
    assert 0.5 * budget < gflops <= budget, f"{name}: {gflops:.2f} GFLOPs of {budget}"


@pytest.mark.parametrize("name", ["dsmoe-n", "yolov8n-dsmoe", "yolo26n-dsmoe"])
def test_reported_work_is_that_of_the_chosen_experts(name: str) -> None:
    net = build(name)
    *_, chosen = net.info(imgsz=320)
    assert [m.k for m in net.blocks(SparseMoE)] == [5]
    net.set_topk(1)
    *_, one = net.info(imgsz=320)
    net.set_topk(10)
    *_, ten = net.info(imgsz=320)
    net.set_moe_mode("dense")
    *_, dense = net.info(imgsz=320)
    assert one < chosen < ten < dense
    assert (ten - chosen) / (chosen - one) == pytest.approx(5 / 4, rel=1e-3), "work grows with k in equal steps"
    assert net.training, "reporting must not change the mode"


def test_scale_letters_change_the_width_as_the_host_does() -> None:
    params = [sum(p.numel() for p in build(n).parameters()) for n in ("dsmoe-n", "dsmoe-s", "dsmoe-m")]
    assert params[0] < params[1] / 2 < params[2] / 2


def test_both_spellings_of_a_scale_resolve() -> None:
    assert [p.shape for p in build("dsmoen").parameters()] == [p.shape for p in build("dsmoe-n").parameters()]


def test_the_hub_enters_the_levels_as_the_paper_says() -> None:
    """[DSMoE] Eq. 28, 29: Y is the projected O, and each level the C2f of Y, resized, beside the encoder's map."""
    net = build("dsmoe-concat").eval()
    seen: dict[int, Tensor] = {}
    for i in (4, 7, 11, 20, 24, 26, 29):
        net.model[i].register_forward_hook(lambda m, _x, out: seen.__setitem__(m.i, out))
    predictions(net, torch.rand(1, 3, 2 * SIZE, SIZE))
    with torch.no_grad():
        y = net.model[21](seen[20])
        large, small = y.repeat_interleave(2, 2).repeat_interleave(2, 3), y.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        for level, resized, shallow in ((24, large, 4), (26, y, 7), (29, small, 11)):
            wanted = net.model[level](torch.cat([resized, seen[shallow]], 1))
            torch.testing.assert_close(seen[level], wanted, atol=1e-6, rtol=1e-6)
    assert net.model[-1].f == [24, 26, 29, 12]
