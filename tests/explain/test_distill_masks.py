"""Pictures of what a student is told to look at."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.commands.distill_masks import COMMAND
from ultra_dsmoe.distill import attention_mask, scale_mask
from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.explain.distill_masks import LevelMasks, level_masks, nesting_ratio
from ultra_dsmoe.explain.plots.distill_masks import draw
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.neck_maps import feeding_rows, neck_maps
from ultra_dsmoe.nn import NeckBlock

LARGE, SMALL = [0.5, 0.5, 0.8, 0.8], [0.6, 0.4, 0.1, 0.1]


@pytest.fixture(scope="module")
def teacher() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel("yolov8n.yaml", nc=6, verbose=False).eval()


@pytest.fixture(scope="module")
def checkpoint(teacher: DetectionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "teacher.pt"
    torch.save({"model": teacher, "train_args": {"task": "detect"}}, path)
    return path


def test_masks_of_every_level(teacher: DetectionModel) -> None:
    boxes = torch.tensor([LARGE, SMALL])
    levels = level_masks(teacher, torch.rand(3, 64, 96), boxes, 20)
    assert [(level.stride, level.scale.shape) for level in levels] == [(8, (8, 12)), (16, (4, 6)), (32, (2, 3))]
    for level in levels:
        expected = scale_mask(boxes, torch.zeros(2), 1, level.scale.shape)[0, 0].numpy()
        assert np.array_equal(level.scale, expected)
        assert level.attention.mean() == pytest.approx(1, abs=1e-4)
        assert not level.own


def test_a_necks_own_attention_gives_the_mask_of_the_attended_map() -> None:
    net = DSMoEModel("smodel-n.yaml", nc=6, verbose=False).eval()
    image = torch.rand(3, 64, 64)
    for row in net.blocks(NeckBlock):  # fresh, its weights would be 1 everywhere
        torch.nn.init.normal_(row.attention.spatial_out.bn.weight, std=20)
    levels = level_masks(net, image, torch.tensor([LARGE]), 20)
    assert [(level.stride, level.own) for level in levels] == [(s, True) for s in (4, 8, 16, 32)]
    with torch.no_grad(), neck_maps(net, stop=True) as maps:
        net(image[None])
    attention = feeding_rows(net)[0].attention
    with torch.no_grad():
        attended = attention.weight(maps[0]) * maps[0]
        expected = attention_mask(attended / attended.std(), 20).mean(1)[0]
    np.testing.assert_allclose(levels[0].attention, expected.numpy(), rtol=1e-4)
    assert expected.std() > 1e-3


def test_nested_boxes_come_first() -> None:
    nested, apart = np.array([LARGE, SMALL]), np.array([[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.3, 0.3]])
    assert nesting_ratio(nested) == pytest.approx(64)
    assert (
        nesting_ratio(nested) > nesting_ratio(apart) > nesting_ratio(apart[:1]) > nesting_ratio(np.zeros((0, 4))) == 0
    )


def test_a_small_box_in_a_large_one_shows() -> None:
    """The picture's colours: background, large box and small box differ at the finest level."""
    boxes = torch.tensor([LARGE, SMALL])
    scale = scale_mask(boxes, torch.zeros(2), 1, (16, 16))[0, 0].numpy()
    png = draw(np.full((128, 128, 3), 128, np.uint8), boxes, [LevelMasks(8, scale, np.ones((16, 16)), True)], "title")
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert picture.std() > 10
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    vivid = colours[(counts > 150) & (np.ptp(colours, axis=1) > 15)]
    assert len(vivid) >= 3, "background, large and small box"


def test_the_command_writes_pictures(
    checkpoint: Path, tiny_boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        COMMAND.main([str(checkpoint), f"data={tiny_boards}", "imgsz=96", "images=2", f"out={tmp_path / 'new'}"]) == 0
    )
    files = sorted((tmp_path / "new").glob("distill_masks_*.png"))
    assert len(files) == 2
    assert str(files[0]) in capsys.readouterr().out
    assert Image.open(files[0]).size[0] > 1000


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.main(["help"]) == 0
    assert "usage: dsmoe-yolo distill-masks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.pt", "data=D"], "model: expected an existing checkpoint, got none.pt"),
        (["T", "dta=D"], r"dta: expected one of .*did you mean 'data'"),
        (["T"], "data: expected a data YAML, got none"),
        (["T", "data=gone.yaml"], "data: expected a data YAML with images"),
        (["T", "data=D", "split=test"], "data: expected a data YAML with a 'test' split"),
        (["T", "data=D", "images=0"], "images: expected a whole number from 1 to 50, got 0"),
        (["T", "data=D", "temperature=0"], "temperature: expected a whole number from 1"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, checkpoint: Path, tiny_boards: Path, tmp_path: Path
) -> None:
    words = [str(checkpoint) if w == "T" else w.replace("=D", f"={tiny_boards}") for w in words]
    with pytest.raises(DSMoEError, match=message) as e:
        COMMAND.main([*words, f"out={tmp_path / 'new'}"])
    assert "\n" not in str(e.value)
    assert not (tmp_path / "new").exists()


def test_the_device_is_what_the_host_makes_of_it(
    checkpoint: Path, tiny_boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a GPU is none of torch's names for a device."""
    asked = []

    def select(device: str, **kwargs: object) -> torch.device:
        asked.append(device)
        return torch.device("cpu")

    monkeypatch.setattr("ultralytics.utils.torch_utils.select_device", select)
    words = [str(checkpoint), f"data={tiny_boards}", "imgsz=96", "images=1", f"out={tmp_path / 'new'}", "device=0"]
    assert COMMAND.main(words) == 0
    assert asked == ["0"]
    assert len(list((tmp_path / "new").iterdir())) == 1
