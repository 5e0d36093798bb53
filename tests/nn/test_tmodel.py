"""T- and S-model as nets: levels, sizes, the ablations' switches, image sizes, what the distiller finds."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from net_checks import fake_batch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import CBAM, DecoupledDetect, DualAttention, NeckBlock, ResidualFusion, SwinStage

NC, SIZE = 4, 128
LEVELS = {"tmodel": [4.0, 8.0, 16.0, 32.0, 64.0, 128.0], "smodel": [4.0, 8.0, 16.0, 32.0]}
MEGABYTES = {"tmodel-m": 81.6, "smodel-m": 25.1}  # of the paper, two bytes per parameter at four classes
MILLIONS = {"tmodel-s": 21.4, "smodel-s": 7.1, "tmodel-n": 8.9, "smodel-n": 3.2}
SMALL = ["tmodel-n", "smodel-n"]
Change = Callable[[dict[str, Any]], object]
SWITCHES: dict[str, Change] = {
    "residual_path": lambda d: d["dsmoe"].update(residual_path=False),
    "neck_down": lambda d: d["dsmoe"].update(neck_down=False),
    "decoupled": lambda d: d["dsmoe"].update(detector="decoupled"),
    "coupled": lambda d: d["dsmoe"].update(detector="coupled"),
    "cbam": lambda d: d["dsmoe"].update(attention="cbam"),
    "no attention": lambda d: d["dsmoe"].update(attention="none"),
}


def build(name: str, change: Change | None = None, nc: int = NC) -> DSMoEModel:
    d = yaml_model_load(f"{name}.yaml")
    if change:
        change(d)
    torch.manual_seed(0)
    net = DSMoEModel(d, nc=nc, verbose=False)
    net.args = get_cfg()
    return net


def millions(net: nn.Module) -> float:
    return sum(p.numel() for p in net.parameters()) / 1e6


def predictions(net: DSMoEModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(images)[0]


def raw(output: Any) -> tuple[Tensor, Tensor]:
    """Return boxes and scores of a training forward, whatever the host's version wraps them in."""
    if isinstance(output, dict):
        return output["boxes"], output["scores"]
    joined = torch.cat([level.flatten(2) for level in output], 2)
    return joined[:, :-NC], joined[:, -NC:]


@pytest.mark.parametrize(("name", "size"), MEGABYTES.items())
def test_sizes_are_the_papers(name: str, size: float) -> None:
    net = build(name)
    assert net.stride.tolist() == LEVELS[name.split("-")[0]]
    assert 2 * millions(net) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(("name", "size"), MILLIONS.items())
def test_sizes_of_the_smaller_scales(name: str, size: float) -> None:
    assert millions(build(name)) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize("scale", ["n", "s", "m"])
def test_a_pair_has_equal_widths_and_the_teacher_is_deeper(scale: str) -> None:
    student, teacher = (yaml_model_load(f"{family}-{scale}.yaml")["scales"][scale] for family in ("smodel", "tmodel"))
    assert student[1:] == teacher[1:]
    assert student[0] < teacher[0]


@pytest.mark.parametrize("name", SMALL)
def test_levels_and_blocks(name: str) -> None:
    net, levels = build(name), LEVELS[name.split("-")[0]]
    assert net.stride.tolist() == levels
    head = net.model[-1]
    assert (type(head), head.detector) == (DecoupledDetect, "decoupled_da")
    assert len(net.blocks(SwinStage)) == len(levels) - 3, "convolutions up to P4"
    assert len(net.blocks(ResidualFusion)) == len(levels), "at every input of the neck"
    assert len(net.blocks(NeckBlock)) == 2 * (len(levels) - 1)
    anchors = sum(int(SIZE / s) ** 2 for s in levels)
    assert predictions(net, torch.rand(1, 3, SIZE, SIZE)).shape == (1, 4 + NC, anchors)


@pytest.mark.parametrize("name", SMALL)
def test_fusion_paths_read_levels_in_order(name: str) -> None:
    """The depthwise strides are powers of two by position, so each list must be of successive levels."""
    net = build(name)
    shapes: dict[int, int] = {}
    for row in net.model:
        row.register_forward_hook(lambda m, _x, y: shapes.update({m.i: y.shape[-1]} if isinstance(y, Tensor) else {}))
    net.eval()(torch.rand(1, 3, 256, 256))
    for row in net.blocks(ResidualFusion):
        sizes = [shapes[i] for i in row.f]
        assert sizes == [sizes[-1] * 2**k for k in reversed(range(len(sizes)))]


@pytest.mark.parametrize("name", SMALL)
def test_every_level_ends_in_an_attention(name: str) -> None:
    """What the distiller compares: the attention of the rows that the detectors read, as wide as their maps."""
    net = build(name)
    rows = [net.model[i] for i in net.model[-1].f]
    for row, stem in zip(rows, net.model[-1].stems, strict=True):
        assert isinstance(row, NeckBlock)
        assert isinstance(row.attention, DualAttention)
        assert row.attention.channel_in.in_channels == stem[0].conv.in_channels


@pytest.mark.parametrize("name", SMALL)
def test_trains_a_step(name: str) -> None:
    net, batch = build(name), fake_batch(2, SIZE, NC)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss, _ = net.train()(batch)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.sum().item())
    assert losses[-1] < losses[0]
    # A fresh attention is the identity, so nothing behind its closing scales has a gradient in the very first step.
    dead = [k for k, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)]
    # No box falls on some levels, and P7 of this image is a single cell, which has no relative position.
    head = f"model.{len(net.model) - 1}.cv2."
    assert not [k for k in dead if not k.startswith(head) and not k.startswith("model.12.")]


def test_mixed_precision_is_finite() -> None:
    net = build("tmodel-n")
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = net.train()(fake_batch(2, SIZE, NC))
    loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert torch.isfinite(net.half().eval()(torch.rand(1, 3, SIZE, SIZE).half())[0]).all()


@pytest.mark.parametrize(("name", "switch"), [*(("smodel-n", s) for s in SWITCHES), ("tmodel-n", "neck_down")])
def test_a_switch_changes_the_net_and_the_rest_stays(name: str, switch: str) -> None:
    full, ablated = build(name), build(name, SWITCHES[switch])
    assert millions(ablated) < millions(full)
    assert ablated.stride.tolist() == full.stride.tolist()
    theirs = {k: v.shape for k, v in ablated.state_dict().items()}
    common = {k: v for k, v in full.state_dict().items() if theirs.get(k) == v.shape}
    assert len(common) > len(theirs) / 2
    ablated.load_state_dict(common, strict=False)
    batch = fake_batch(2, SIZE, NC)
    outputs = []
    for net in (full, ablated):  # in training mode: the statistics of a fresh net fade all differences out
        for attention in net.blocks(DualAttention):
            nn.init.ones_(attention.channel_out.bn.weight)
        outputs.append(raw(net.train()(batch["img"])))
    boxes, scores = (a - b for a, b in zip(*outputs, strict=True))
    assert scores.abs().max() > 1e-2
    assert (boxes.abs().max() > 1e-2) == (switch != "decoupled"), "that attention is for classes alone"
    loss, _ = ablated(batch)
    loss.sum().backward()
    assert not [k for k, p in ablated.named_parameters() if p.requires_grad and p.grad is None]


def test_what_the_switches_take_away() -> None:
    one_tower = build("smodel-n", SWITCHES["neck_down"])
    assert [b.direction for b in one_tower.blocks(NeckBlock) if b.attention is not None] == ["top_down"] * 3
    assert not any(b.enabled for b in build("smodel-n", SWITCHES["residual_path"]).blocks(ResidualFusion))
    assert not build("smodel-n", SWITCHES["decoupled"]).model[-1].attentions
    assert len(build("smodel-n", SWITCHES["decoupled"]).blocks(DualAttention)) == 6, "the neck's stay"
    for switch, number in (("cbam", 6 + 4), ("no attention", 0)):
        net = build("smodel-n", SWITCHES[switch])
        assert (len(net.blocks(DualAttention)), len(net.blocks(CBAM))) == (0, number)


def test_a_row_may_have_an_attention_of_its_own() -> None:
    def mixed(d: dict[str, Any]) -> None:
        d["head"][-2][3].append("cbam")  # u5 alone
        d["head"][-1][3].append("none")

    net = build("smodel-n", mixed)
    assert (len(net.blocks(DualAttention)), len(net.blocks(CBAM)), net.model[-1].attentions) == (5, 1, [])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("residual_path", "no", "dsmoe.residual_path: expected true or false, got no"),
        ("neck_down", 0, "dsmoe.neck_down: expected true or false, got 0"),
        ("detector", "decoupled-da", "(DecoupledDetect) detector: expected one of decoupled_da, decoupled, coupled"),
        ("attention", "cbm", "dsmoe.attention: expected one of da, cbam, none (did you mean 'cbam'?), got cbm"),
        ("attention", 0, "dsmoe.attention: expected one of da, cbam, none, got 0"),
        ("residual", False, "did you mean 'residual_path'"),
        ("qfl", 0.25, "dsmoe.qfl: expected a mapping with alpha and beta, got 0.25"),
        ("qfl", {"alfa": 0.25}, "dsmoe.qfl: expected names out of alpha, beta (did you mean 'alpha'?), got alfa"),
        ("qfl", {"alpha": 2}, "dsmoe.qfl.alpha: expected a number from 0 to 1, got 2"),
        ("qfl", {"beta": -1}, "dsmoe.qfl.beta: expected a number from 0 to 5, got -1"),
    ],
)
def test_wrong_switches(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        build("smodel-n", lambda d: d["dsmoe"].update({option: value}))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_net_without_such_blocks_refuses_a_wrong_attention_too() -> None:
    with pytest.raises(ConfigError, match=r"dsmoe\.attention: expected one of da, cbam, none, got se"):
        build("dsmoe-n", lambda d: d["dsmoe"].update(attention="se"))


def test_focal_parameters_reach_the_loss() -> None:
    net = build("smodel-n", lambda d: d["dsmoe"].update(qfl={"alpha": 0.25, "beta": 1.5}))
    assert (net.init_criterion().inner.bce.alpha, net.init_criterion().inner.bce.beta) == (0.25, 1.5)
    usual = build("smodel-n").init_criterion().inner.bce
    assert (usual.alpha, usual.beta) == (0.5, 0.5)


@pytest.mark.parametrize(("name", "size", "multiple"), [("tmodel-n", (128, 192), 128), ("smodel-n", (64, 80), 32)])
def test_images_of_a_wrong_size(name: str, size: tuple[int, int], multiple: int) -> None:
    with pytest.raises(ShapeError) as e:
        build(name)(torch.rand(1, 3, *size))
    assert str(e.value) == (
        f"input image: expected height and width that are multiples of {multiple}, got {size[0]}x{size[1]}"
    )


def test_scale_letters_and_levels_are_the_yamls() -> None:
    """A net without P2: rows and head lists with one entry less."""

    def coarse(d: dict[str, Any]) -> None:
        d["head"][-1][0] = d["head"][-1][0][1:]

    assert build("smodel-n", coarse).stride.tolist() == [8.0, 16.0, 32.0]


@pytest.mark.parametrize("name", SMALL)
def test_survives_copies(name: str) -> None:
    net = build(name)
    net.train()(fake_batch(2, SIZE, NC))[0].sum().backward()
    twin, images = deepcopy(net), torch.rand(1, 3, SIZE, SIZE)
    assert torch.equal(predictions(twin, images), predictions(net, images))
