"""The runtime without torch finds what `yolo predict` finds, reads what files say, and refuses what it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, ShapeError, WeightsError
from ultra_dsmoe.runtime.detections import letterbox, select, unletterbox
from ultra_dsmoe.runtime.detector import Detection, Runtime
from ultra_dsmoe.runtime.model_file import read_onnx

ROOT = Path(__file__).resolve().parents[2]
PIXEL = 1.0
SAME_SCORE = 1e-4
Export = Callable[..., Path]

NETS = {
    "stock": ("yolov8n.yaml", {}),
    "ours": ("dsmoe-n.yaml", {"simplify": True}),
    "gray": ("dsmoe-n.yaml", {"simplify": True, "dsmoe_gamma": 1.5}),
    "end-to-end": ("yolo26n.yaml", {}),
    "embedded-nms": ("yolov8n.yaml", {"nms": True}),
    "dynamic": ("yolov8n.yaml", {"dynamic": True}),
    "oblong": ("yolov8n.yaml", {"imgsz": (64, 128)}),
}


def resaved(path: Path, target: Path, **changes: str | None) -> Path:
    """Copy an ONNX file with other metadata; None removes a key."""
    model = onnx.load(path)
    table = {p.key: p.value for p in model.metadata_props} | changes
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in table.items() if v is not None})
    onnx.save(model, target)
    return target


def assert_same(found: list[Detection], expected: object, names: dict[int, str]) -> None:
    """Compare with the boxes of the host's result, both strongest first."""
    boxes, scores = expected.xyxy.numpy(), expected.conf.numpy()
    assert len(found) == len(scores)
    for d, box, score, number in zip(found, boxes, scores, expected.cls.int().tolist(), strict=True):
        assert d.class_id == number
        assert d.name == names[number]
        assert d.score == pytest.approx(float(score), abs=SAME_SCORE)
        assert np.abs(np.array(d.box_xyxy_px) - box).max() <= PIXEL


# the same boxes as the host -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
def test_same_boxes_as_the_host(kind: str, exported: Export, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    yaml, arguments = NETS[kind]
    path = exported(yaml, **arguments)
    host, ours = YOLO(path, task="detect"), Runtime(path, threads=1)
    compared: dict[str, list[Detection]] = {}
    for name, picture in pictures.items():
        (result,) = host.predict(picture, imgsz=96, device="cpu", verbose=False, project=str(tmp_path))
        compared[name] = ours.predict(picture)
        assert_same(compared[name], result.boxes, result.names)
    assert all(compared.values()), "a picture without detections compares nothing"
    assert len({d.name for found in compared.values() for d in found}) > 1


@pytest.mark.parametrize("settings", [{"conf": 0.05, "iou": 0.2}, {"conf": 0.4, "iou": 0.9}, {"max_det": 3}])
def test_thresholds_act_as_the_hosts(
    settings: dict[str, float], exported: Export, pictures: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = exported("yolov8n.yaml")
    host, ours = YOLO(path, task="detect"), Runtime(path, threads=1)
    for agnostic in (False, True):
        for name in ("landscape", "portrait"):
            (result,) = host.predict(
                pictures[name], device="cpu", verbose=False, agnostic_nms=agnostic, project=str(tmp_path), **settings
            )
            found = ours.predict(pictures[name], agnostic=agnostic, **settings)
            assert_same(found, result.boxes, result.names)
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


def test_files_gray_images_and_alpha_as_the_host(
    exported: Export, pictures: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = exported("yolov8n.yaml")
    host, ours = YOLO(path, task="detect"), Runtime(path, threads=1)
    color = pictures["landscape"]
    gray = cv2.cvtColor(color, cv2.COLOR_BGR2GRAY)
    sources = [gray, gray[..., None], cv2.cvtColor(color, cv2.COLOR_BGR2BGRA), color.astype(np.uint16) << 8]
    for name, image in {"c.png": color, "c.jpg": color, "g.png": gray, "16.png": gray.astype(np.uint16) << 8}.items():
        assert cv2.imwrite(str(tmp_path / name), image)
        sources.append(str(tmp_path / name))
    for source in sources:
        (result,) = host.predict(source, device="cpu", verbose=False, project=str(tmp_path))
        found = ours.predict(source)
        assert found
        assert_same(found, result.boxes, result.names)
    assert ours.predict(tmp_path / "c.png") == ours.predict(color)
    assert ours.predict(gray) != ours.predict(color)


# batches --------------------------------------------------------------------------------------------------------------


def test_batch_equals_one_by_one(exported: Export, pictures: dict[str, np.ndarray]) -> None:
    images = [pictures["landscape"], pictures["portrait"]]
    singly = [Runtime(exported("yolov8n.yaml"), threads=1).predict(image) for image in images]
    pair = Runtime(exported("yolov8n.yaml", batch=2), threads=1)
    assert pair.batch == 2
    together = pair.predict_batch(images)
    assert [len(d) for d in together] == [len(d) for d in singly]
    for ones, others in zip(together, singly, strict=True):
        for one, other in zip(ones, others, strict=True):
            assert one.name == other.name
            assert one.box_xyxy_px == pytest.approx(other.box_xyxy_px, abs=0.01)
    assert pair.predict_batch(images[:1]) == together[:1]  # filled up with an empty image
    with pytest.raises(ConfigError, match=r"^images: expected at most 2, the batch of the exported file, got 3$"):
        pair.predict_batch([*images, images[0]])


def test_dynamic_graph_takes_any_batch(exported: Export, pictures: dict[str, np.ndarray]) -> None:
    runtime = Runtime(exported("yolov8n.yaml", dynamic=True), threads=1)
    assert runtime.batch is None
    assert [len(d) > 0 for d in runtime.predict_batch(list(pictures.values()))] == [True] * len(pictures)


# parts ----------------------------------------------------------------------------------------------------------------


def test_letterbox_and_back() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    frame = letterbox(image, (64, 64))
    assert frame.shape == (64, 64, 3)
    assert (frame[:16] == 114).all()
    assert (frame[48:] == 114).all()
    assert not frame[16:48].any()
    assert letterbox(image, (64, 64), stride=32).shape == (32, 64, 3)
    boxes = unletterbox(np.array([[0, 16, 64, 48], [-9, 0, 99, 64]], np.float32), (64, 64), (50, 100))
    assert np.allclose(boxes, [[0, 0, 100, 50], [0, 0, 100, 50]])


def test_suppression_by_class() -> None:
    """Three anchors: two overlapping by 0.6, of one class or of two; one without area."""
    prediction = np.array(
        [[10, 12.5, 30], [10, 10, 30], [10, 10, 0], [10, 10, 0], [0.9, 0.8, 0.7], [0, 0, 0]], np.float32
    )
    assert select(prediction, 0.5, 0.5, 300)[:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert len(select(prediction, 0.5, 0.7, 300)) == 3
    prediction[4:, 1] = [0, 0.8]
    assert select(prediction, 0.5, 0.5, 300)[:, 5].tolist() == [0, 1, 0]
    assert len(select(prediction, 0.5, 0.5, 300, agnostic=True)) == 2
    assert len(select(prediction, 0.95, 0.5, 300)) == 0
    assert len(select(prediction, 0.5, 0.5, 1)) == 1


def test_what_a_file_says(exported: Export) -> None:
    path = exported("yolov8n.yaml", imgsz=(64, 128))
    info = Runtime(path).info
    assert (info.imgsz, info.stride, info.batch, info.channels, info.final) == ((64, 128), 32, 1, 3, False)
    assert info.names[0] == "spur"
    assert len(info.names) == 5
    file = read_onnx(path)
    assert file.opset == {o.domain: o.version for o in onnx.load(path).opset_import}[""]
    assert not file.quantized


# bad input ------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_run(exported: Export, tmp_path: Path) -> None:
    good = exported("yolov8n.yaml")
    data = good.read_bytes()
    bad = {
        "half.onnx": (data[: len(data) // 2], "expected a complete ONNX file, got"),
        "end.onnx": (data[:-7], "expected a complete ONNX file, got"),
        "empty.onnx": (b"", "expected a complete ONNX file, got 0 bytes"),
        "text.onnx": (b"<html>not found</html>", "expected a complete ONNX file, got"),
        "none.engine": (b"\x00\x01ftrt" * 50, "expected an engine with the metadata header of `yolo export`"),
        "empty.engine": (b"", "expected an engine with the metadata header"),
    }
    for name, (content, message) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=message) as caught:
            Runtime(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"missing\.onnx: expected a readable file, got No such file"):
        Runtime(tmp_path / "missing.onnx")
    with pytest.raises(ConfigError, match=r"model: expected an \.onnx or \.engine file, got .*best\.pt"):
        Runtime("best.pt")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict.fromkeys(("task", "stride", "imgsz", "names")), WeightsError, "got none of task, stride, imgsz, names"),
        ({"names": None}, WeightsError, "got none of names"),
        ({"names": "{0: 'spur'"}, WeightsError, "also names, got {0: 'spur'"),
        ({"stride": "x"}, WeightsError, "also stride, got x"),
        ({"imgsz": "96"}, WeightsError, "metadata as `yolo export` writes them"),
        ({"task": "segment"}, ConfigError, r"expected a detector \(task=detect\), got task=segment"),
        ({"channels": "1"}, ShapeError, "expected an input of 1 channels"),
    ],
)
def test_metadata_that_cannot_be_used(
    changes: dict[str, str | None], error: type[DSMoEError], message: str, exported: Export, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        Runtime(resaved(exported("yolov8n.yaml"), tmp_path / "bad.onnx", **changes))


def test_no_metadata_at_all(exported: Export, tmp_path: Path) -> None:
    keys = {p.key for p in onnx.load(exported("yolov8n.yaml")).metadata_props}
    bare = resaved(exported("yolov8n.yaml"), tmp_path / "bare.onnx", **dict.fromkeys(keys))
    with pytest.raises(WeightsError, match="expected the metadata that `yolo export` writes, got no metadata"):
        Runtime(bare)


def test_a_graph_that_onnxruntime_refuses(exported: Export, tmp_path: Path) -> None:
    model = onnx.load(exported("yolov8n.yaml"))
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(WeightsError, match=r"expected a graph that onnxruntime loads, got .*Convolve"):
        Runtime(tmp_path / "odd.onnx")


def test_classes_that_do_not_fit_the_graph(exported: Export, tmp_path: Path, pictures: dict[str, np.ndarray]) -> None:
    runtime = Runtime(resaved(exported("yolov8n.yaml"), tmp_path / "few.onnx", names="{0: 'spur'}"))
    with pytest.raises(ShapeError, match=r"predictions: expected \(B, 5, anchors\).*got \(1, 9, 189\)"):
        runtime.predict(pictures["square"])


def test_images_that_are_none(exported: Export, tmp_path: Path) -> None:
    runtime = Runtime(exported("yolov8n.yaml"))
    with pytest.raises(DataError, match=r"gone\.jpg: expected a picture file, got No such file"):
        runtime.predict(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="expected a picture file, got Is a directory"):
        runtime.predict(tmp_path)
    for name, content in {"cut.png": b"\x89PNG\r\n", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"expected a picture that OpenCV reads, got {len(content)} bytes"):
            runtime.predict(tmp_path / name)
    for array in (
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
    ):
        with pytest.raises(ShapeError, match=r"image: expected uint8 of shape \(H, W, 3\)"):
            runtime.predict(array)


def test_arguments_out_of_range(exported: Export, pictures: dict[str, np.ndarray]) -> None:
    runtime = Runtime(exported("yolov8n.yaml"))
    with pytest.raises(ConfigError, match="conf: expected a number from 0 to 1, got 25"):
        runtime.predict(pictures["square"], conf=25)
    with pytest.raises(ConfigError, match="iou: expected a number from 0 to 1"):
        runtime.predict(pictures["square"], iou=-0.1)
    wrong: list[Any] = [[], "board.jpg", pictures["square"]]
    for images in wrong:
        with pytest.raises(ConfigError, match="images: expected a list of at least one image"):
            runtime.predict_batch(images)


# without torch --------------------------------------------------------------------------------------------------------

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "ultralytics", "onnx"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""
PREDICT = """
import sys
from ultra_dsmoe.runtime.detector import Runtime
found = Runtime(sys.argv[1], threads=1).predict(sys.argv[2])
print(*(f"{d.name};{d.score};{';'.join(map(str, d.box_xyxy_px))}" for d in found), sep="\\n")
assert not {"torch", "ultralytics", "onnx"} & set(sys.modules)
"""


def lines(command: list[str], cwd: Path, **env: str) -> list[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def shown(found: list[Detection]) -> list[str]:
    return [f"{d.name};{d.score};{';'.join(map(str, d.box_xyxy_px))}" for d in found]


def test_where_torch_and_the_host_are_blocked(
    exported: Export, pictures: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path, picture = exported("dsmoe-n.yaml", simplify=True), tmp_path / "board.png"
    cv2.imwrite(str(picture), pictures["portrait"])
    expected = shown(Runtime(path, threads=1).predict(picture))
    found = lines([sys.executable, "-c", BLOCKED + PREDICT, str(path), str(picture)], tmp_path)
    assert found == expected
    assert expected


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_in_an_environment_without_torch(exported: Export, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A virtual environment that holds numpy, OpenCV and onnxruntime, linked, and nothing else but our package."""
    venv.create(tmp_path / "box", with_pip=False, symlinks=True)
    site = next((tmp_path / "box" / "lib").glob("python*/site-packages"))
    (site / "ultra_dsmoe").symlink_to(ROOT / "ultra_dsmoe")
    for distribution in ("numpy", "opencv-python", "onnxruntime"):
        files = metadata.files(distribution) or []
        for top in sorted({f.parts[0] for f in files if f.parts[0] not in ("..", "__pycache__")}):
            (site / top).symlink_to(Path(str(metadata.distribution(distribution).locate_file(top))))
    python = str(tmp_path / "box" / "bin" / "python")
    absent = "import importlib.util as u; print(*(u.find_spec(n) for n in ('torch', 'ultralytics', 'onnx', 'yaml')))"
    assert lines([python, "-c", absent], tmp_path) == ["None None None None"]
    path, picture = exported("dsmoe-n.yaml", simplify=True), tmp_path / "board.png"
    cv2.imwrite(str(picture), pictures["portrait"])
    expected = Runtime(path, threads=1).predict(picture)
    assert lines([python, "-c", PREDICT, str(path), str(picture)], tmp_path) == shown(expected)
    printed = lines([python, str(ROOT / "examples" / "02_runtime.py"), str(path), str(picture)], tmp_path)
    assert len(printed) == len(expected) > 0
    assert printed[0].startswith(f"{picture}: {expected[0].name} {expected[0].score:.2f} at ")
    assert (tmp_path / "found-board.png").is_file()
