"""Prediction with references: every kind of source gets the pair that is meant, and nothing that is wrong is silent."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from reference_fixtures import HEIGHT, WIDTH, faulty_picture, golden_picture
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.evaluate.reference_log import FILE, ReferenceLog
from ultra_dsmoe.runtime.pairing import stacked
from ultra_dsmoe.runtime.reference_entry import PictureReference

USUAL: dict[str, Any] = {"imgsz": 64, "conf": 1e-3, "device": "cpu", "verbose": False, "rect": False}
SaveNet = Callable[..., Path]
Pairs = Callable[..., Path]


@pytest.fixture
def yolo(save_reference_net: SaveNet) -> Any:
    return YOLO(save_reference_net())


def boxes(results: Any) -> list[torch.Tensor]:
    return [r.boxes.data for r in results]


def expected(yolo: Any, picture: np.ndarray, golden: np.ndarray) -> torch.Tensor:
    """Return what the net finds in a pair that is stacked and letterboxed here, not by the predictor."""
    from ultra_dsmoe.runtime.detections import network_input

    pair = torch.from_numpy(network_input([stacked(picture, golden)], (64, 64)))
    (result,) = YOLO(yolo.ckpt_path).predict(pair, **USUAL)
    scores = result.boxes.conf
    assert isinstance(scores, torch.Tensor)
    return scores


def test_array_and_its_reference(yolo: Any) -> None:
    picture, golden = faulty_picture(), golden_picture()
    (result,) = yolo.predict(picture, dsmoe_reference=golden, **USUAL)
    assert len(result) > 0
    torch.testing.assert_close(result.boxes.conf, expected(yolo, picture, golden), rtol=0, atol=1e-5)
    assert result.orig_img.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(result.orig_img, picture), "what is drawn on is the image, not the pair"
    assert result.reference.state == "ok"
    (other,) = yolo.predict(picture, dsmoe_reference=golden_picture(seed=5), **USUAL)
    assert not torch.equal(boxes([result])[0], boxes([other])[0]), "the next call has a reference of its own"


def test_results_keep_the_reference_where_the_host_makes_new_ones(yolo: Any) -> None:
    (result,) = yolo.predict(faulty_picture(), dsmoe_reference=golden_picture(), **USUAL)
    for made in (result[:1], result.cpu(), result.numpy(), result.new()):
        assert made.reference is result.reference
    assert result[:1].boxes.data.shape == (1, 6)
    assert result.plot().shape == (HEIGHT, WIDTH, 3)


def test_files_by_name_folder_list_and_data_set(yolo: Any, pair_set: Pairs, tmp_path: Path) -> None:
    data = pair_set()
    root = data.parent
    files = sorted(str(f) for f in (root / "images" / "val").iterdir())
    by_folder = yolo.predict(root / "images" / "val", dsmoe_reference=root / "golden", **USUAL)
    assert [Path(r.reference.file).name for r in by_folder] == [Path(f).name for f in files]
    golden = [golden_picture(seed=i) for i in range(4)]
    for source, key in (
        (root / "images" / "val", {"dsmoe_reference": str(root / "golden")}),
        (files, {"dsmoe_reference": root / "golden"}),
        (files, {"dsmoe_reference": golden}),
        (files, {"data": str(data)}),
        (root / "images" / "val", {"dsmoe_reference": golden, "batch": 3}),
        ([cv2.imread(f) for f in files], {"dsmoe_reference": golden}),
        ([Image.open(f) for f in files], {"dsmoe_reference": root / "golden"}),
        ([Image.open(f) for f in files], {"dsmoe_reference": [root / "golden" / Path(f).name for f in files]}),
    ):
        results = yolo.predict(source, **{**USUAL, **key})
        for ours, theirs in zip(boxes(results), boxes(by_folder), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    pattern = "{pattern: '^val(\\d)$', file: '" + str(root / "golden" / "train{1}.png") + "'}"
    (by_pattern,) = yolo.predict(files[2], dsmoe_reference=pattern, **USUAL)
    assert Path(by_pattern.reference.file).name == "train2.png"


def test_stream_of_results_leaves_nothing_in_force(yolo: Any, pair_set: Pairs) -> None:
    from ultra_dsmoe.data.reference import in_force

    root = pair_set().parent
    seen = []
    for result in yolo.predict(root / "images" / "val", dsmoe_reference=root / "golden", stream=True, **USUAL):
        assert in_force.current() is None
        seen.append(Path(result.reference.file).name)
    assert seen == [f"val{i}.png" for i in range(4)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (WIDTH, HEIGHT))
    for _ in range(3):
        writer.write(faulty_picture())
    writer.release()
    return path


def test_one_reference_for_a_whole_video(yolo: Any, clip: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden" / "clip.png"
    golden.parent.mkdir()
    cv2.imwrite(str(golden), golden_picture())
    results = yolo.predict(clip, dsmoe_reference=golden, **USUAL)
    assert [r.reference.file for r in results] == [str(golden)] * 3
    by_stem = yolo.predict(clip, dsmoe_reference=golden.parent, **USUAL)
    assert [r.reference.file for r in by_stem] == [str(golden)] * 3, "a video's name finds its reference as an image's"


def test_streams_have_one_reference_or_one_each(yolo: Any, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "line.streams").write_text(f"{clip}\n{clip}\n")
    for key in (golden_picture(), [golden_picture(), golden_picture(seed=1)]):
        results = yolo.predict(tmp_path / "line.streams", dsmoe_reference=key, stream_buffer=True, **USUAL)
        found = [r.reference.mismatch for r in results]
        assert len(found) >= 2
        assert [number < 0.3 for number in found[:2]] == [True, not isinstance(key, list)]


def test_reference_that_cannot_be_laid_on_the_picture(
    yolo: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    picture = cv2.resize(faulty_picture(), (320, 240), interpolation=cv2.INTER_NEAREST)
    key = {"file": str(tmp_path / "noise.png"), "align": "shift"}
    (result,) = yolo.predict(picture, dsmoe_reference=key, **USUAL)
    assert result.reference.state == "unregistered"
    assert result.reference.quality is not None
    torch.testing.assert_close(result.boxes.conf, expected(yolo, picture, np.zeros_like(picture)), rtol=0, atol=1e-5)
    assert "1 unregistered" in caplog.text


def test_tracks_keep_the_reference(yolo: Any, clip: Path) -> None:
    results = yolo.track(clip, dsmoe_reference=golden_picture(), tracker="bytetrack.yaml", **{**USUAL, "conf": 0.1})
    assert len(results) == 3
    assert {r.reference.state for r in results} == {"ok"}
    assert any(r.boxes.id is not None for r in results), "nothing was tracked"


def test_gray_net_and_pictures_of_other_channels(save_reference_net: SaveNet) -> None:
    yolo = YOLO(save_reference_net("gray.pt", channels=1))
    picture, golden = faulty_picture(1), golden_picture(1)
    (result,) = yolo.predict(picture, dsmoe_reference=golden, **USUAL)
    assert result.orig_img.shape[:2] == (HEIGHT, WIDTH)
    (same,) = yolo.predict(picture[..., 0], dsmoe_reference=np.repeat(golden, 3, 2), **USUAL)
    torch.testing.assert_close(result.boxes.data, same.boxes.data, rtol=0, atol=1e-4)


def test_colour_net_takes_gray_pictures(yolo: Any) -> None:
    picture = faulty_picture()[..., 0]
    (result,) = yolo.predict(picture, dsmoe_reference=golden_picture()[..., 0], **USUAL)
    coloured = np.repeat(picture[..., None], 3, 2)
    (same,) = yolo.predict(coloured, dsmoe_reference=np.repeat(golden_picture()[..., :1], 3, 2), **USUAL)
    torch.testing.assert_close(result.boxes.data, same.boxes.data, rtol=0, atol=1e-4)


def test_tensor_carries_its_references(yolo: Any) -> None:
    pair = torch.from_numpy(stacked(faulty_picture(), golden_picture())).permute(2, 0, 1)[None].float() / 255
    pair = torch.nn.functional.pad(pair, (0, 16, 0, 4))
    (result,) = yolo.predict(pair, **USUAL)
    assert result.reference.state == "ok"
    assert np.array_equal(result.orig_img[:HEIGHT, :WIDTH], faulty_picture()), "BGR, of the image alone"
    pair[:, 3:] = 0
    (blank,) = yolo.predict(pair, **USUAL)
    assert blank.reference.state == "missing"
    with pytest.raises(ShapeError, match=r"source: expected a tensor \(B, 6, H, W\), .*, got \(1, 3, 64, 96\)"):
        yolo.predict(pair[:, :3], **USUAL)


@pytest.mark.parametrize("extra", [{"augment": True}, {"visualize": True}, {"save": True, "show_labels": False}])
def test_other_arguments_of_the_host(extra: dict[str, Any], yolo: Any, tmp_path: Path) -> None:
    (result,) = yolo.predict(
        faulty_picture(), dsmoe_reference=golden_picture(), project=str(tmp_path / "runs"), **USUAL, **extra
    )
    assert result.reference.state == "ok"


def test_embeddings(yolo: Any) -> None:
    (vector,) = yolo.embed(faulty_picture(), dsmoe_reference=golden_picture(), imgsz=64, device="cpu", verbose=False)
    (other,) = yolo.embed(
        faulty_picture(), dsmoe_reference=golden_picture(seed=3), imgsz=64, device="cpu", verbose=False
    )
    assert vector.ndim == 1
    assert not torch.equal(vector, other)


def test_reference_csv_and_last_line(
    yolo: Any, pair_set: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = pair_set().parent
    (root / "golden" / "val3.png").unlink()
    caplog.set_level(logging.INFO, "ultralytics")
    where = {"project": str(tmp_path / "runs"), "name": "here", "exist_ok": True}
    key = "{folder: " + str(root / "golden") + ", missing: blank}"
    for _ in range(2):  # a later run in the same folder has rows of its own
        fresh = YOLO(yolo.ckpt_path)
        fresh.predict(root / "images" / "val", dsmoe_reference=key, save=True, **where, **{**USUAL, "verbose": True})
    with (tmp_path / "runs" / "here" / FILE).open() as f:
        rows = list(csv.DictReader(f))
    assert [Path(row["image"]).name for row in rows] == [f"val{i}.png" for i in range(4)]
    assert [row["state"] for row in rows] == ["ok", "ok", "ok", "missing"]
    assert [bool(row["reference"]) for row in rows] == [True, True, True, False]
    assert "references of 4 images: 3 ok, 1 missing" in caplog.text
    assert "reference missing" in caplog.text, "the picture's own line says so too"


def test_wrong_board_is_not_silent(
    save_reference_net: SaveNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (right,) = YOLO(save_reference_net()).predict(faulty_picture(), dsmoe_reference=golden_picture(), **USUAL)
    (wrong,) = YOLO(save_reference_net()).predict(faulty_picture(), dsmoe_reference=golden_picture(seed=9), **USUAL)
    assert right.reference.mismatch < wrong.reference.mismatch
    limit = (right.reference.mismatch + wrong.reference.mismatch) / 2
    yolo = YOLO(save_reference_net("limit.pt", limit=limit))
    caplog.clear()
    yolo.predict(faulty_picture(), dsmoe_reference=golden_picture(), **USUAL)
    assert "another product" not in caplog.text
    yolo.predict(faulty_picture(), dsmoe_reference=golden_picture(seed=9), **USUAL)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any("image0.jpg: another product? mismatch" in line and f"above {limit:.2f}" in line for line in warned)
    assert any("1 with a mismatch above" in line for line in warned), "also in the last line"


def test_log_warns_once_for_frames_in_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = ReferenceLog(0.5, tmp_path / FILE)
    for number in (0.9, 0.9, 0.1, 0.9):
        log.add("clip.avi", PictureReference("ok", number))
    log.add("other.png", PictureReference("unregistered", None, 0.2))
    lines = [r.getMessage() for r in caplog.records]
    assert sum("another product" in line for line in lines) == 2
    log.finish()
    assert "references of 5 images: 4 ok, 1 unregistered; 3 with a mismatch above 0.50" in caplog.text
    assert (tmp_path / FILE).read_text().splitlines()[-1] == "other.png,,unregistered,,0.2000"


def test_log_warns_once_for_each_of_several_cameras(caplog: pytest.LogCaptureFixture) -> None:
    log = ReferenceLog(0.5)
    for left, right in ((0.9, 0.9), (0.9, 0.9), (0.9, 0.1), (0.9, 0.9)):
        log.add("left", PictureReference("ok", left))
        log.add("right", PictureReference("ok", right))
    warned = [r.getMessage().partition(":")[0].split()[-1] for r in caplog.records]
    assert warned == ["left", "right", "right"]


def test_blank_where_it_is_permitted(save_reference_net: SaveNet, caplog: pytest.LogCaptureFixture) -> None:
    yolo = YOLO(save_reference_net(missing="blank"))
    (result,) = yolo.predict(faulty_picture(), **USUAL)
    assert result.reference == PictureReference("missing")
    torch.testing.assert_close(
        result.boxes.conf, expected(yolo, faulty_picture(), np.zeros_like(faulty_picture())), rtol=0, atol=1e-5
    )
    assert "references of 1 images: 1 missing" in caplog.text
    strict = YOLO(save_reference_net("strict.pt"))
    (asked,) = strict.predict(faulty_picture(), dsmoe_reference="{missing: blank}", **USUAL)
    assert asked.reference.state == "missing", "the user says so"
    with pytest.raises(ConfigError, match=r"dsmoe_reference: expected known-good pictures for .*strict.pt"):
        strict.predict(faulty_picture(), dsmoe_reference="none", **USUAL)


def test_detector_without_the_row_is_predicted_as_ever(save_detector: SaveNet, tmp_path: Path) -> None:
    path = save_detector({0: "spur", 1: "short"})
    (result,) = YOLO(path).predict(faulty_picture(), dsmoe_reference=False, **USUAL)
    assert type(result).__name__ == "Results"
