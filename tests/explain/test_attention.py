"""Where attentions look: of which blocks, with which weights, inside boxes and outside, over which images."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.commands.pictures import COMMAND
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.explain.attention import CLASSES as CLASS_BRANCH
from ultra_dsmoe.explain.attention import (
    NECK,
    LevelAttention,
    attention_files,
    attentions,
    choose,
    level_attentions,
    sentence,
)
from ultra_dsmoe.explain.plots.attention import draw, together
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import CBAM, DualAttention

CLASSES, PIXELS = 6, 64
QUARTER = torch.tensor([[0.25, 0.25, 0.5, 0.5]])  # a box on the upper left
LEVELS = [4, 8, 16, 32]


def awaken(net: DSMoEModel) -> DSMoEModel:
    """Have attentions look at their maps, as trained ones do; fresh ones hardly do, in a net whose maps are faint."""
    for m in net.blocks(DualAttention):
        for bn in (m.channel_out.bn, m.spatial_out.bn):
            torch.nn.init.normal_(bn.weight, std=2)
            torch.nn.init.uniform_(bn.running_var, 1e-3, 1e-2)
    for m in net.blocks(CBAM):
        torch.nn.init.normal_(m.spatial.weight, std=20)
    return net


def build(kind: str) -> DSMoEModel:
    d = yaml_model_load("smodel-n.yaml")
    d["dsmoe"]["attention"] = kind
    torch.manual_seed(0)
    return awaken(DSMoEModel(d, nc=CLASSES, verbose=False)).eval()


@pytest.fixture(scope="module")
def nets() -> dict[str, DSMoEModel]:
    return {kind: build(kind) for kind in ("da", "cbam", "none")}


def checkpoint(net: DSMoEModel, boards: Path, folder: Path) -> Path:
    trained = {"imgsz": PIXELS, "data": str(boards), "task": "detect"}
    torch.save({"model": net, "train_args": trained}, folder / "best.pt")
    return folder / "best.pt"


@pytest.mark.parametrize(("kind", "block"), [("da", DualAttention), ("cbam", CBAM)])
def test_weights_are_those_that_the_blocks_use(nets: dict[str, Any], kind: str, block: type) -> None:
    net, image = nets[kind], torch.rand(3, PIXELS, PIXELS)
    found = attentions(net)
    assert list(found.values()) == [(place, stride) for place in (NECK, CLASS_BRANCH) for stride in LEVELS]
    assert all(type(m) is block for m in found)
    rows = [net.model[i] for i in net.model[-1].f]
    assert list(found)[:4] == [row.attention for row in rows]
    inputs: dict[Any, Tensor] = {}
    handles = [m.register_forward_pre_hook(lambda m, x: inputs.update({m: x[0]})) for m in found]
    looks = level_attentions(net, image, QUARTER)
    for handle in handles:
        handle.remove()
    for (m, (place, stride)), x in zip(found.items(), looks, strict=True):
        with torch.no_grad():
            weight = (m(inputs[m]) / inputs[m])[0].nanmean(0).numpy()  # what the block multiplies by
        assert (x.place, x.stride, x.weight.shape) == (place, stride, (PIXELS // stride, PIXELS // stride))
        np.testing.assert_allclose(x.weight, weight / weight.mean(), rtol=1e-3)
        half = PIXELS // stride // 2
        assert x.inside == pytest.approx(x.weight[:half, :half].mean(), rel=1e-4)
        rest = (x.weight.sum() - x.weight[:half, :half].sum()) / (0.75 * x.weight.size)
        assert x.outside == pytest.approx(rest, rel=1e-4)
    assert max(np.ptp(x.weight) for x in looks) > 0.02
    assert not any(m._forward_hooks for m in found)


def test_a_head_with_two_class_branches_shows_the_one_that_predicts() -> None:
    net = awaken(DSMoEModel("yolo26n-dsmoe.yaml", nc=CLASSES, verbose=False)).eval()
    looks = level_attentions(net, torch.rand(3, PIXELS, PIXELS), QUARTER)
    assert [(x.place, x.stride) for x in looks] == [(CLASS_BRANCH, s) for s in (8, 16, 32)]
    mine = net.model[-1].one2one_cv3[0]
    fresh = [m for m in mine.modules() if isinstance(m, DualAttention)]
    for m in fresh:
        torch.nn.init.zeros_(m.channel_out.bn.weight)
        torch.nn.init.zeros_(m.spatial_out.bn.weight)
    assert (
        np.ptp(level_attentions(net, torch.rand(3, PIXELS, PIXELS), QUARTER)[0].weight) < 1e-3 < np.ptp(looks[0].weight)
    )


def test_images_are_taken_from_every_class_in_turn() -> None:
    labels = [{"cls": np.array(kinds, float).reshape(-1, 1)} for kinds in ([], [2, 2, 0], [0, 0], [2], [5], [0])]
    assert choose(labels, 6) == [2, 1, 4, 3, 5]
    assert choose(labels, 2) == [2, 1]


def a_look(place: str, inside: float, outside: float, spread: float = 1.0) -> LevelAttention:
    return LevelAttention(place, 8, np.array([[1 - spread / 2, 1 + spread / 2]], np.float32), inside, outside)


def test_what_is_told() -> None:
    nan = float("nan")
    looks = [a_look(NECK, 1.2, 1.0), a_look(NECK, 1.4, 1.0), a_look(NECK, nan, 1.0)]
    assert sentence(looks) == "the neck weighs cells in boxes 1.30 times as much as others"
    assert sentence([a_look(CLASS_BRANCH, 1.0, 1.0, 0.001)]) == "class branches weigh all cells alike"
    assert sentence([a_look(NECK, nan, 1.0)]) == "the neck weighs cells by 0.50 to 1.50 of their mean"


def colours(weight: np.ndarray) -> int:
    image = np.full((PIXELS, PIXELS, 3), 128, np.uint8)
    png = draw(image, QUARTER, [LevelAttention(NECK, 8, weight, 1.0, 1.0)], "title")
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    found, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    return int(((counts > 1000) & (np.ptp(found, axis=1) > 15)).sum())


def test_what_is_looked_at_shows_and_nothing_is_not_made_a_pattern() -> None:
    steps = np.linspace(0.5, 1.5, 8, dtype=np.float32).repeat(8).reshape(8, 8)
    flat = colours(1 + (steps - 1) / 1e4)
    assert 1 <= flat <= colours(steps) - 6


def test_together_is_the_mean_at_the_images_size() -> None:
    coarse, fine = np.full((1, 1), 3, np.float32), np.full((4, 4), 1, np.float32)
    fine[:2] = 5
    both = together([LevelAttention(NECK, 8, fine, 1, 1), LevelAttention(NECK, 32, coarse, 1, 1)], (8, 8, 3))
    assert both.shape == (8, 8)
    assert (both[0, 0], both[7, 7]) == (4, 2)


def test_the_command_draws_a_net_without_experts(
    nets: dict[str, Any], tiny_boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = checkpoint(nets["da"], tiny_boards, tmp_path), tmp_path / "new"
    assert COMMAND.main([str(file), "device=cpu", "images=2", f"out={out}"]) == 0
    names = sorted(p.name for p in out.iterdir())
    assert len([n for n in names if n.endswith(".png")]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["routing: left out, the model has no experts",
                         "disk: left out, the model compares nothing by hyperbolic distance"]  # fmt: skip
    assert lines[2].startswith("attention: the neck weighs cells")
    assert lines[2].endswith("(2 images)")
    rows = list(csv.DictReader((out / "attention.csv").open()))
    assert [(r["place"], int(r["stride"])) for r in rows] == [
        (place, stride) for _ in range(2) for place in (NECK, CLASS_BRANCH) for stride in LEVELS
    ]
    assert {f"attention_{Path(r['image']).stem}.png" for r in rows} | {"attention.csv"} == set(names)
    for r in rows:
        assert float(r["least"]) <= 1 <= float(r["most"])


def test_a_net_with_nothing_to_show_is_refused(nets: dict[str, Any], tiny_boards: Path, tmp_path: Path) -> None:
    file = checkpoint(nets["none"], tiny_boards, tmp_path)
    evaluation = Evaluation({"model": str(file), "device": "cpu"})
    note = "attention: left out, the model has none in neck and class branches"
    assert attention_files(evaluation) == ({}, [note])
    with pytest.raises(ConfigError, match="model: expected a network with experts, hyperbolic distances, attention or"):
        COMMAND.main([str(file), "device=cpu", f"out={tmp_path / 'new'}"])
    with pytest.raises(ConfigError, match="images: expected a whole number from 1 to 50, got 0"):
        COMMAND.main([str(file), "images=0"])
    assert not (tmp_path / "new").exists()
