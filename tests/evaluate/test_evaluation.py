"""A checkpoint over a data set: what is refused before an image is read, what a pass keeps, when it counts."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator

from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, WeightsError
from ultra_dsmoe.evaluate.evaluation import (
    NMS_SECONDS,
    NMS_SECONDS_PER_IMAGE,
    Collector,
    Evaluation,
    load_network,
)

WIDE = (32, 64)  # height and width of the pictures of a set of one's own


@pytest.fixture
def wide(tmp_path: Path, checkpoint: Path) -> Callable[..., Path]:
    """Return a function that writes a set of four wide pictures, ``labels`` in each."""
    names = list(load_network(checkpoint)[0].names.values())

    def write(labels: str = "2 0.5 0.5 0.4 0.4\n", names: list[str] = names, **extra: Any) -> Path:
        for folder in ("images", "labels"):
            (tmp_path / "set" / folder / "val").mkdir(parents=True, exist_ok=True)
        for i in range(4):
            picture = np.random.default_rng(i).integers(0, 255, (*WIDE, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "set" / "images" / "val" / f"{i}.png"), picture)
            (tmp_path / "set" / "labels" / "val" / f"{i}.txt").write_text(labels)
        content = {"path": str(tmp_path / "set"), "train": "images/val", "val": "images/val", "names": names, **extra}
        (tmp_path / "set.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "set.yaml"

    return write


def opened(checkpoint: Path, **options: Any) -> Evaluation:
    return Evaluation({"model": str(checkpoint), **options})


def counts(images: Any) -> list[tuple[int, int]]:
    """Return how many labels and detections each image has."""
    return [(len(t), len(c)) for t, c in zip(images.target_cls, images.conf, strict=True)]


# what a pass keeps ----------------------------------------------------------------------------------------------------


def test_matches_are_the_hosts_image_by_image(checkpoint: Path, tiny_boards: Path, tmp_path: Path) -> None:
    evaluation = opened(checkpoint, device="cpu", batch=3)  # the rest is the checkpoint's own
    images = evaluation.run()
    files = sorted((tiny_boards.parent / "images" / "val").iterdir())
    assert sorted(images.files) == [str(f) for f in files]
    for file, labels in zip(images.files, images.target_cls, strict=True):
        lines = Path(file.replace("images", "labels")).with_suffix(".txt").read_text().splitlines()
        assert sorted(labels.tolist()) == sorted(float(line.split()[0]) for line in lines)
    sizes = [len(c) for c in images.conf]
    assert [t.shape for t in images.tp] == [(n, 10) for n in sizes]
    assert [len(p) for p in images.pred_cls] == sizes
    assert sum(sizes) > 0

    net = YOLO(str(checkpoint))
    kept: list[Any] = []
    net.add_callback("on_val_batch_end", lambda v: kept.append({k: list(s) for k, s in v.metrics.stats.items()}))
    net.val(data=str(tiny_boards), imgsz=evaluation.args["imgsz"], batch=3, plots=False, rect=True, device="cpu",
            project=str(tmp_path), verbose=False)  # fmt: skip
    for name in ("conf", "pred_cls", "target_cls", "tp"):
        for ours, theirs in zip(getattr(images, name), kept[-1][name], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_second_pass_gives_the_same_from_the_same_loader(checkpoint: Path) -> None:
    evaluation = opened(checkpoint)
    first, loader = evaluation.run(), evaluation._loader
    second = evaluation.run()
    assert evaluation._loader is loader
    assert first is not second
    for name in ("conf", "pred_cls", "tp"):
        for a, b in zip(getattr(first, name), getattr(second, name), strict=True):
            assert np.array_equal(a, b)


def test_wide_pictures_keep_their_form(checkpoint: Path, wide: Callable[..., Path]) -> None:
    """As `yolo val` shows them: no more grey than the stride asks for, not a square."""
    evaluation, seen = opened(checkpoint, data=str(wide()), imgsz=64), []
    with evaluation.net.model[0].register_forward_pre_hook(lambda m, x: seen.append(tuple(x[0].shape))):
        images = evaluation.run()
    heights = {shape[2] for shape in seen if shape[0] == 4}
    assert heights
    assert max(heights) == 64
    batches = [b["img"].shape[2:] for b in evaluation._loader]
    assert evaluation._loader.dataset.rect
    assert all(tuple(b) == (64, 96) or b[0] < b[1] for b in batches)
    assert counts(images) == [(1, n) for _, n in counts(images)]


def test_the_switch_is_on_for_the_images_and_for_nothing_else(checkpoint: Path) -> None:
    evaluation = opened(checkpoint, batch=4)
    state = {"on": False}
    seen: list[tuple[bool, int]] = []

    @contextmanager
    def switch() -> Iterator[None]:
        state["on"] = True
        yield
        state["on"] = False

    hook = evaluation.net.model[-1].register_forward_pre_hook(lambda m, x: seen.append((state["on"], len(x[0][0]))))
    with hook:
        evaluation.run(switch())
    assert [images for on, images in seen if on] == [4]  # the only batch; warming up came before
    assert state["on"] is False


def test_given_keys_win_over_the_checkpoints(checkpoint: Path, wide: Callable[..., Path]) -> None:
    data = str(wide(test="images/val"))
    evaluation = opened(checkpoint, data=data, split="test", imgsz=96, batch=2, device="cpu")
    chosen = {k: evaluation.args[k] for k in ("data", "split", "imgsz", "batch", "device")}
    assert chosen == {"data": data, "split": "test", "imgsz": 96, "batch": 2, "device": "cpu"}
    assert evaluation.split == "test"
    assert evaluation.path == checkpoint
    plain = opened(checkpoint)
    assert (plain.args["imgsz"], plain.split, plain.args["split"]) == (64, "val", "val")
    assert (plain.args["plots"], plain.args["save_json"], plain.args["mode"]) == (False, False, "val")
    assert not evaluation.net.training
    assert evaluation.names == list(evaluation.net.names.values())


# what is refused ------------------------------------------------------------------------------------------------------


def test_other_classes_are_refused_unless_there_is_one(checkpoint: Path, wide: Callable[..., Path]) -> None:
    data = str(wide(labels="0 0.5 0.5 0.4 0.4\n", names=["a", "b"]))
    with pytest.raises(DataError, match=r"^data: expected 6 classes as in the model \(.*, .*\), got 2$"):
        opened(checkpoint, data=data)


def test_a_set_without_labels_has_nothing_to_count(checkpoint: Path, wide: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"^data: expected labelled objects in its 'val' split, got images without"):
        opened(checkpoint, data=str(wide(labels=""))).run()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": "nowhere.yaml"}, DataError, r"^data: expected a data YAML with images in its 'val' split, got "),
        ({"split": "test"}, DataError, r"^data: expected a data YAML with a 'test' split, got .* \(has train, val\)$"),
        ({"device": "99"}, ConfigError, r"^device: expected cpu, or the number of a GPU of this machine, got 99$"),
    ],
)
def test_refused_before_any_image(
    checkpoint: Path, options: dict[str, str], error: type[DSMoEError], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened(checkpoint, **options)


def test_a_folder_that_is_gone(checkpoint: Path, wide: Callable[..., Path], tmp_path: Path) -> None:
    data = wide(test=["images/val", "images/gone"])
    with pytest.raises(DataError, match=r"gone"):
        opened(checkpoint, data=str(data), split="test")


def test_no_data_at_all(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=False)
    content["train_args"] = {k: v for k, v in content["train_args"].items() if k != "data"}
    torch.save(content, tmp_path / "bare.pt")
    with pytest.raises(
        ConfigError, match=r"^data: expected a data YAML .that of the training is not on this disk., got none$"
    ):
        opened(tmp_path / "bare.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.onnx", b"", r"^model: expected a checkpoint \(\.pt\) of a network with layers of .*, got .*net\.onnx$"),
        ("gone.pt", None, r"^model: expected an existing checkpoint, got .*gone\.pt, which is not a file$"),
        ("half.pt", b"PK\x03\x04 half of it", r"^model: expected a readable checkpoint, got .*half\.pt \(\w+: "),
    ],
)
def test_no_checkpoint(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_network(tmp_path / name)


def test_another_kind_of_net(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    net = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    torch.save({"model": net, "ema": None, "epoch": -1, "train_args": {"task": "detect"}}, tmp_path / "stock.pt")
    with pytest.raises(WeightsError, match=r"with layers of ultra-dsmoe, .*stock\.pt, a DetectionModel of"):
        load_network(tmp_path / "stock.pt")


def test_a_network_comes_in_full_precision_ready_to_predict(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=False)
    content["model"] = content["model"].half().train()
    torch.save(content, tmp_path / "half.pt")
    net, trained = load_network(tmp_path / "half.pt")
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert not net.training
    assert trained["imgsz"] == 64


# where results go -----------------------------------------------------------------------------------------------------


# when a pass counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("took", "dropped"), [(2.1, False), (2.3, True)])
def test_starved_machine(monkeypatch: pytest.MonkeyPatch, took: float, dropped: bool) -> None:
    """Four images may take 2.2 seconds; after that the host leaves the rest of them without boxes."""
    clock = [100.0]

    def slow(self: DetectionValidator, preds: list[str]) -> list[str]:
        clock[0] += took
        return preds

    monkeypatch.setattr(DetectionValidator, "postprocess", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    collector = Collector.__new__(Collector)
    if not dropped:
        assert collector.postprocess(list("abcd")) == list("abcd")
        return
    with pytest.raises(DSMoEError, match=r"^NMS: expected at most 2\.2 s for the .* smaller batch\), got 2\.3 s$"):
        collector.postprocess(list("abcd"))


def test_limit_is_the_hosts() -> None:
    from ultralytics.utils import nms

    given = inspect.signature(nms.non_max_suppression).parameters["max_time_img"].default
    assert given == NMS_SECONDS_PER_IMAGE
    assert f"time_limit = {NMS_SECONDS} + max_time_img * bs" in inspect.getsource(nms.non_max_suppression)
