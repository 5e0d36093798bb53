"""The detector: transfer of stock weights, text, fusing, copies, errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from net_checks import NAMES, described, hub, run
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel, load_checkpoint, yaml_model_load

from ultra_dsmoe.errors import ConfigError, ShapeError, WeightsError
from ultra_dsmoe.model import transfer
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.settings import read, write
from ultra_dsmoe.nn.base import TextFoldMixin
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics
from ultra_dsmoe.text import Taxonomy, TextBank

Build = Callable[..., DSMoEModel]
Batch = Callable[..., dict[str, Tensor]]
WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "weights" / "yolov8n_coco_from_int8.pt"
PAIRS = [("yolov8n", "yolov8n-dsmoe"), ("yolo26n", "yolo26n-dsmoe")]


def pretrained(name: str) -> DetectionModel:
    """Return a stock net with statistics and class weights as if it had been trained."""
    net = DetectionModel(f"{name}.yaml", verbose=False)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.2, 0.2)
            m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
    net.names = {i: f"class {i}" for i in range(80)}
    return net.eval()


# transfer -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stock_name", "name"), PAIRS)
def test_a_pretrained_net_starts_as_that_net(stock_name: str, name: str, build: Build) -> None:
    stock, net = pretrained(stock_name), build(name, nc=80)
    images = torch.rand(2, 3, 96, 64)
    expected = run(stock, images)
    assert not torch.allclose(run(net, images), expected, atol=1e-2)
    net.load(stock)
    moved = transfer.fitted(net, stock)[0].state_dict()
    assert len(moved) == len(stock.state_dict())
    ours = net.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in moved.items()), "a tensor of the stock net did not arrive"
    torch.testing.assert_close(run(net, images), expected, rtol=0, atol=1e-4)  # the hub starts at zero


@pytest.mark.parametrize(("stock_name", "name"), PAIRS)
def test_another_number_of_classes_keeps_the_hidden_layers(stock_name: str, name: str, build: Build) -> None:
    stock, net = pretrained(stock_name), build(name, nc=6)
    net.load(stock)
    head, other = net.model[-1], stock.model[-1]
    assert head.class_width == other.cv3[0][-1].in_channels == 80, "the host's own width for 6 classes is 64"
    for branch in ("cv3", "one2one_cv3") if name.startswith("yolo26") else ("cv3",):
        for ours, theirs in zip(getattr(head, branch), getattr(other, branch), strict=True):
            hidden = {k: v for k, v in theirs.state_dict().items() if not k.startswith("2.")}
            mine = ours.state_dict()
            assert all(torch.equal(mine[k], v) for k, v in hidden.items())
            assert mine["2.weight"].shape[0] == 6
    assert run(net, torch.rand(1, 3, 64, 64)).shape == (1, 10, 84)


def test_transfer_leaves_the_source_alone(build: Build) -> None:
    stock = pretrained("yolov8n")
    before = deepcopy(stock.state_dict())
    build("yolov8n-dsmoe", nc=80).load(stock)
    assert all(torch.equal(v, before[k]) for k, v in stock.state_dict().items())
    assert list(stock.state_dict()) == list(before)


def test_rows_of_one_of_ours_are_not_moved(build: Build) -> None:
    source, net = build("yolov8n-dsmoe"), build("yolov8n-dsmoe")
    net.load(source)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in net.state_dict().items())


@pytest.mark.realdata
def test_coco_weights_of_yolov8n(build: Build) -> None:
    if not WEIGHTS.is_file():
        pytest.skip("the weights are not beside the project")
    stock, net = load_checkpoint(WEIGHTS)[0], build("yolov8n-dsmoe", nc=80)
    net.load(stock)
    images = torch.rand(1, 3, 160, 160)
    torch.testing.assert_close(run(net, images), run(stock, images), rtol=0, atol=1e-3)
    few = build("yolov8n-dsmoe", nc=6)
    few.load(stock)
    assert torch.equal(few.model[-1].cv3[0][1].conv.weight, stock.model[-1].cv3[0][1].conv.weight)


@pytest.mark.parametrize(
    ("stock_name", "name"), [("yolov8s", "yolov8n-dsmoe"), ("yolo11n", "yolov8n-dsmoe"), ("yolov8n", "dsmoe-n")]
)
def test_weights_of_another_architecture(stock_name: str, name: str, build: Build) -> None:
    net = build(name, nc=80)
    before = deepcopy(net.state_dict())
    with pytest.raises(WeightsError, match=rf"pretrained weights: expected a checkpoint of .*, got {stock_name}.yaml"):
        net.load(DetectionModel(f"{stock_name}.yaml", verbose=False))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "half-loaded"


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("yolov8n.yaml", "(these weights go into yolov8n-dsmoe.yaml)"),
        ("yolo26n.yaml", "(these weights go into yolo26n-dsmoe.yaml)"),
        ("yolo11n.yaml", ""),
    ],
)
def test_refused_weights_name_the_net_that_takes_them(file: str, hint: str, build: Build) -> None:
    stock = DetectionModel(file, verbose=False)
    with pytest.raises(WeightsError) as e:
        build().load(stock)
    assert str(e.value).startswith(
        f"pretrained weights: expected a checkpoint of dsmoe-n.yaml{' ' + hint if hint else ''}, got"
    )
    if hint:
        build(hint.split()[-1][:-6], nc=80).load(stock)  # and it does


# several views --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(96, 64), (160, 160)])
def test_several_views_are_those_of_the_host(shape: tuple[int, int], build: Build) -> None:
    stock, net = pretrained("yolov8n"), build("yolov8n-dsmoe", nc=80)
    net.load(stock)  # from here on both are the same function
    images = torch.rand(2, 3, *shape)
    with torch.no_grad():
        expected, once = stock(images, augment=True)[0], stock(images)[0]
        found = net.eval()(images, augment=True)[0]
    assert expected.shape[-1] > once.shape[-1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_views_are_found_where_they_are(build: Build) -> None:
    """The hub moves between views too: boxes of a mirrored view come back to their own side."""
    net = build(nc=2)
    images = torch.rand(1, 3, 128, 128)
    seen: list[Tensor] = []
    net.eval()._predict_once = lambda x: (seen.append(x), (torch.full((1, 6, 21 * 16), 10.0), None))[1]
    with torch.no_grad():
        boxes = net(images, augment=True)[0][0, :4]
    assert [tuple(x.shape[-2:]) for x in seen] == [(128, 128), (128, 128), (96, 96)]
    full, mirrored, small = boxes.split([20 * 16, 21 * 16, 5 * 16], -1)
    assert full.unique().tolist() == [10.0]
    torch.testing.assert_close(mirrored[:, 0], torch.tensor([128 - 10 / 0.83, *[10 / 0.83] * 3]))
    torch.testing.assert_close(small[:, 0], torch.full((4,), 10 / 0.67))


def test_an_end_to_end_net_keeps_to_one_view(build: Build) -> None:
    net, images = build("yolo26n-dsmoe", nc=3).eval(), torch.rand(1, 3, 64, 64)
    net.model[-1].end2end = True
    with torch.no_grad():
        torch.testing.assert_close(net(images, augment=True)[0], net(images)[0])


# plain weights --------------------------------------------------------------------------------------------------------


def test_a_plain_state_dict_comes_back(build: Build) -> None:
    """Text of another width, and a taxonomy, have sizes that no model YAML knows."""
    net, images = build(nc=3), torch.rand(1, 3, 64, 64)
    vectors = np.eye(3, 32, dtype=np.float32)
    net.set_text(TextBank(("scratch", "dent", "stain"), (("a",), ("b",), ("c",)), "test:32", vectors, "0"))
    net.set_taxonomy(Taxonomy.parse(NAMES, {"marks": ["scratch", "dent"]}))
    other = build(nc=3)
    other.fold_text()
    run(other, images)
    assert not torch.allclose(hub(other, images), hub(net, images), atol=1e-3)
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(hub(other, images), hub(net, images))
    assert other.state_dict().keys() == net.state_dict().keys()
    assert other.blocks(HyperbolicFusion)[0].parent_radius.requires_grad
    net.load_state_dict(build(nc=3).state_dict())  # and back to neither
    assert net.blocks(HyperbolicFusion)[0].members.shape == (0, 3)


def test_a_state_dict_of_other_classes_is_refused(build: Build) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        build(nc=3).load_state_dict(build(nc=4).state_dict())


# copies, fusing -------------------------------------------------------------------------------------------------------


def test_copies_after_a_training_forward(build: Build, batch: Batch) -> None:
    net = described(build(nc=3))
    net.train()(batch(nc=3)["img"])
    assert any(getattr(m, "aux", None) for m in net.modules())
    images = torch.rand(1, 3, 64, 64)
    for clone in (deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert not any(getattr(m, "aux", None) for m in clone.modules())
        assert clone.text_info == net.text_info
        assert torch.equal(run(clone, images), run(net, images))
        net.train()


@pytest.mark.parametrize("name", ["dsmoe-n", "yolov8n-dsmoe", "yolo26n-dsmoe"])
def test_fusing_changes_no_prediction(name: str, build: Build) -> None:
    net = build(name)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.2, 0.2)
            m.running_var.uniform_(0.5, 2)
        if type(m).__name__ == "HubInject":
            nn.init.ones_(m.bn.weight)
    images = torch.rand(2, 3, 64, 64)
    expected = run(net, images)
    fused = deepcopy(net).fuse(verbose=False)
    assert fused.is_fused()
    assert all(m.folded for m in fused.modules() if isinstance(m, TextFoldMixin))
    torch.testing.assert_close(run(fused, images), expected, rtol=0, atol=1e-4)
    for p in fused.blocks(TextSemantics)[0].parameters():
        nn.init.zeros_(p)
    torch.testing.assert_close(run(fused, images), expected, rtol=0, atol=1e-4)  # the text is not read any more


def test_training_unfolds(build: Build, batch: Batch) -> None:
    net = build()
    net.fold_text()
    net.train()
    assert not any(m.folded for m in net.blocks(TextFoldMixin))
    net(batch())[0].sum().backward()
    assert net.blocks(TextSemantics)[0].project.weight.grad.abs().sum() > 0


# routing --------------------------------------------------------------------------------------------------------------


def test_modes_agree_and_topk_takes_effect(build: Build) -> None:
    net, images = build(), torch.rand(2, 3, 64, 64)
    gather = hub(net, images)
    net.set_moe_mode("dense")
    torch.testing.assert_close(hub(net, images), gather, rtol=0, atol=1e-5)
    net.set_topk(1)
    one = hub(net, images)
    assert (one - gather).abs().max() > 1e-3
    net.set_moe_mode("gather")
    torch.testing.assert_close(hub(net, images), one, rtol=0, atol=1e-5)
    assert net.options["topk"] == 1
    assert [g.k for g in DSMoEModel(net.yaml, nc=6, verbose=False).blocks(ExpertGate)] == [1]


def test_a_row_with_a_k_of_its_own_follows_too() -> None:
    cfg = yaml_model_load("dsmoe-n.yaml")
    rows = {row[2]: row for row in cfg["head"]}
    rows["ExpertGate"][3] = [8, 3]
    rows["SparseMoE"][3] = [8]
    net = DSMoEModel(cfg, nc=3, verbose=False)
    assert [m.k for m in (*net.blocks(ExpertGate), *net.blocks(SparseMoE))] == [3, 3]
    own = read(net)
    net.set_topk(2)
    again = DSMoEModel(net.yaml, nc=3, verbose=False)
    assert [m.k for m in (*again.blocks(ExpertGate), *again.blocks(SparseMoE))] == [2, 2]
    write(net, own)
    assert [m.k for m in DSMoEModel(net.yaml, nc=3, verbose=False).blocks(SparseMoE)] == [3]
    rows["SparseMoE"][3] = [8, 5]
    with pytest.raises(ConfigError, match="topk in model YAML row SparseMoE: expected none, or 3 as its gate has, got"):
        DSMoEModel(cfg, nc=3, verbose=False)


def test_a_k_that_one_gate_cannot_have_changes_none() -> None:
    head = [[-1, 1, "SparseMoE", [8, 2]], [-1, 1, "SparseMoE", [4, 2]], [[3, 4], 1, "Detect", ["nc"]]]
    rows = [[-1, 1, "Conv", [16, 3, 2]]] * 3
    net = DSMoEModel({"nc": 2, "backbone": rows, "head": head}, verbose=False)
    with pytest.raises(ConfigError, match="topk: expected 'auto' or an integer from 1 to 4"):
        net.set_topk(6)
    assert [m.k for m in net.blocks(SparseMoE)] == [2, 2]
    assert net.yaml["head"][0][3] == [8, 2]


def test_a_net_built_from_the_yaml_of_another_leaves_that_one_alone(build: Build) -> None:
    first = build()
    before = deepcopy(first.yaml)
    second = DSMoEModel(first.yaml, nc=2, ch=1, verbose=False)
    second.set_topk(2)
    second.set_gamma(1.5)
    assert first.yaml == before
    assert first.options["topk"] == "auto"
    assert first.gamma == 1
    assert (second.options["topk"], second.gamma, second.yaml["nc"], second.yaml["channels"]) == (2, 1.5, 2, 1)


@pytest.mark.parametrize("name", ["dsmoe-n", "yolov8n-dsmoe"])
def test_fresh_experts_of_all_kinds_have_one_scale(name: str, build: Build) -> None:
    net = build(name).train()
    (moe,) = net.blocks(SparseMoE)
    seen: dict[str, Tensor] = {}
    moe.register_forward_hook(lambda _m, x, _y: seen.update(map=x[0][0], text=x[0][1]))
    blurred = nn.functional.interpolate(torch.rand(4, 3, 20, 20), 160, mode="bilinear")
    with torch.no_grad():
        net(0.9 * blurred + 0.1 * torch.rand(4, 3, 160, 160))
        x = seen["map"]
        everyone = torch.arange(moe.cross.experts).expand(len(x), -1)
        cross = moe.cross(x.unsqueeze(1), everyone, moe.cross.text_bias(seen["text"])).std()
        for expert in (moe.local, moe.wide):
            assert 0.75 < expert(x).std() / cross < 1.33  # 0.17 and 0.22 before


@pytest.mark.parametrize("topk", [0, 33, -1, 2.5, "all", True, None])
def test_wrong_topk_changes_nothing(topk: Any, build: Build) -> None:
    net = build()
    with pytest.raises(ConfigError, match="topk: expected 'auto' or an integer from 1 to 32"):
        net.set_topk(topk)
    assert net.blocks(ExpertGate)[0].k == 5
    assert net.options["topk"] == "auto"


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(70, 64), (64, 33)])
def test_images_must_be_multiples_of_the_stride(shape: tuple[int, int], build: Build) -> None:
    message = f"input image: expected height and width that are multiples of 32, got {shape[0]}x{shape[1]}"
    with pytest.raises(ShapeError, match=message):
        build()(torch.rand(1, 3, *shape))
