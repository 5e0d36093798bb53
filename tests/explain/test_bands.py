"""Bands of a frequency enhancement: values as the block has them, a scratch in the high band, files and words."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from ultralytics import YOLO

from ultra_dsmoe.commands.pictures import COMMAND
from ultra_dsmoe.explain.bands import HIGH, LOW, SPATIAL, Bands, ratio, see, sentence
from ultra_dsmoe.explain.plots.bands import draw
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import FGPEM

PIXELS = 128
WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "weights" / "yolov8n_coco_from_int8.pt"


def build(name: str = "yolov8n-gasnet") -> DSMoEModel:
    """Return a fresh net whose norms let maps pass as trained ones do."""
    torch.manual_seed(0)
    net = DSMoEModel(f"{name}.yaml", nc=6, verbose=False)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.5
    with torch.no_grad():
        for _ in range(4):
            net.train()(torch.rand(4, 3, PIXELS, PIXELS))
    return net.eval()


@pytest.fixture(scope="module")
def net() -> DSMoEModel:
    return build()


def scratched() -> torch.Tensor:
    """Return a grey plate with a thin scratch on the left, (3, H, W)."""
    image = torch.full((3, PIXELS, PIXELS), 0.5)
    for row in range(16, 112):
        image[:, row, 30 + row // 24] = 1.0
    return image


BOX = torch.tensor([[0.27, 0.5, 0.08, 0.75]])


def test_maps_are_those_of_the_block(net: DSMoEModel) -> None:
    (block,), inputs = net.blocks(FGPEM), []
    handle = block.register_forward_pre_hook(lambda m, x: inputs.append(x[0]))
    (bands,) = see(net, torch.rand(3, PIXELS, 2 * PIXELS)).values()
    handle.remove()
    with torch.no_grad():
        low, high = block.bands(inputs[0])
        wanted = {
            LOW: (low - low.mean((2, 3), keepdim=True)).abs().mean(1)[0],
            HIGH: high.abs().mean(1)[0],
            SPATIAL: block.spatial_gate(high)[0, 0],
        }
    assert bands.stride == 16
    assert bands.maps.keys() == wanted.keys()
    for name, value in wanted.items():
        assert bands.maps[name].shape == (8, 16)
        np.testing.assert_allclose(bands.maps[name], value.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bands.channels, block.channel_gate(low, high).flatten().detach().numpy(), rtol=1e-4)
    assert not block.bands._forward_hooks


def test_a_scratch_lights_up_the_high_band(net: DSMoEModel) -> None:
    """Beside the same plate without it: a fresh encoder sees the plate's borders as well."""
    (bands,) = see(net, scratched()).values()
    (plate,) = see(net, torch.full((3, PIXELS, PIXELS), 0.5)).values()
    assert ratio(np.abs(bands.maps[HIGH] - plate.maps[HIGH]), BOX) > 2


@pytest.mark.realdata
def test_a_scratch_lights_up_the_high_band_of_an_encoder_with_coco_weights() -> None:
    if not WEIGHTS.is_file():
        pytest.skip("no COCO weights")
    net = YOLO("yolov8n-gasnet.yaml").load(WEIGHTS).model.float().eval()
    image = torch.nn.functional.interpolate(scratched()[None], scale_factor=4.0)[0]
    (bands,) = see(net, image).values()
    assert ratio(bands.maps[HIGH], BOX) > 1.5


def test_gates_that_are_not_there_are_not_shown() -> None:
    net = build("gasnet-n")
    for block in net.blocks(FGPEM):
        block.spatial_gate = block.channel_gate = None
    first, second = see(net, scratched()).values()
    assert first.channels is None
    assert list(first.maps) == [LOW, HIGH]
    assert not np.allclose(first.maps[HIGH], second.maps[HIGH])


def test_ratio_by_hand() -> None:
    weight = np.ones((4, 4), np.float32)
    weight[:2, :2] = 3
    assert ratio(weight, torch.tensor([[0.25, 0.25, 0.4, 0.4]])) == 3
    assert np.isnan(ratio(weight, torch.zeros(0, 4)))
    assert np.isnan(ratio(weight, torch.tensor([[0.5, 0.5, 1.0, 1.0]])))


def test_what_is_told() -> None:
    told = sentence({LOW: [1.0, 2.0], HIGH: [3.0, float("nan")], SPATIAL: [float("nan")]})
    assert told == "in boxes as much as elsewhere: low band 1.50 times, high band 3.00 times"
    assert sentence({LOW: [float("nan")]}) == "no image has cells in and outside boxes"


def colours(values: np.ndarray) -> int:
    image = np.full((64, 64, 3), 128, np.uint8)
    picture = draw(image, BOX, Bands(16, {HIGH: values}, None), "title")
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    return int(((counts > 500) & (np.ptp(found.astype(int), axis=1) > 30)).sum())


def test_what_is_flat_is_drawn_as_one_colour() -> None:
    assert colours(np.arange(16, dtype=np.float32).reshape(4, 4)) > 8
    assert colours(np.full((4, 4), 5, np.float32) + 1e-4 * np.random.default_rng(0).random((4, 4))) <= 4


def test_the_command_draws_each_enhancement(
    tiny_boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {"imgsz": 64, "data": str(tiny_boards), "task": "detect"}
    torch.save({"model": build("gasnet-n"), "train_args": trained}, tmp_path / "best.pt")
    out = tmp_path / "out"
    assert COMMAND.main([str(tmp_path / "best.pt"), "device=cpu", f"out={out}", "images=2"]) == 0
    pictures = sorted(p.name for p in out.glob("*.png"))
    assert len(pictures) == 4
    assert {name.rsplit("_", 1)[1] for name in pictures} == {"row11.png", "row12.png"}
    rows = list(csv.DictReader((out / "bands.csv").open()))
    assert len(rows) == 12
    assert {row["map"] for row in rows} == {LOW, HIGH, SPATIAL}
    assert {row["row"] for row in rows} == {"row11", "row12"}
    said = capsys.readouterr().out
    assert "bands: in boxes as much as elsewhere: low band" in said
    assert "(4 pictures)" in said
