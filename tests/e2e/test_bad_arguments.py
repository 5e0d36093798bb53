"""Wrong arguments, files and places of the host's verbs where a model of ours is in play."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import ultralytics.cfg
from refusals import SMALL, Make, changed, plain_file, without_content, written
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.model.detector import DSMoEModel

Refused = Callable[..., str]
Command = Callable[..., list[str]]

WRONG: dict[str, list[str]] = {
    "train": [
        *("epochs=word", "epochs=0", "epochs=-1", "batch=word", "batch=0", "batch=-2", "imgsz=word", "imgsz=0"),
        *("imgsz=-5", "optimizer=Foo", "lr0=word", "lr0=-1", "device=7", "device=gpu", "workers=word", "freeze=999"),
        *("freeze=abc", "freeze=[abc]", "freeze=-3", "freeze=2.5", "cache=rom", "scale=word", "scale=-1", "nbs=word"),
        *("shear=word", "mixup=word", "hsv_h=word", "weight_decay=word", "momentum=word", "warmup_epochs=word"),
        *("amp=5", "seed=word", "seed=-1", "patience=word", "save_period=x", "fraction=0", "close_mosaic=x"),
        *("mosaic=2", "degrees=x", "cfg=nowhere.yaml", "classes=word", "multi_scale=9", "time=x", "dropout=5"),
        *("mode=foo", "epoch=3", "trainer=x", "resume=5", "pretrained=5", "pretrained=-1", "pretrained=[1]"),
        *("pretrained=nowhere.pt", "distill_model=5", "distill_model=nowhere.pt", "resume=nowhere.pt"),
        *("dsmoe_gamma=x", "dsmoe_gamma=-1", "dsmoe_kd=foo", "dsmoe_topk=0", "dsmoe_text=hash", "cos_lr=5"),
    ],
    "val": [
        *("split=foo", "split=test", "split=5", "batch=x", "batch=0", "conf=x", "iou=3", "device=9", "imgsz=x"),
        *("data=5", "save_json=5", "max_det=0", "classes=word", "dsmoe_moe=static", "dsmoe_keep=3"),
    ],
    "predict": [
        *("source=/no/such.jpg", "source=99", "source=/no/*.jpg", "conf=word", "conf=2", "iou=-1", "imgsz=word"),
        *("imgsz=0", "imgsz=-5", "device=7", "device=gpu", "classes=word", "classes=-1", "batch=0", "max_det=-1"),
        *("embed=abc", "vid_stride=word", "vid_stride=0", "line_width=word", "max_det=word", "iou=word"),
    ],
    "export": [
        *("format=foo", "format=5", "opset=x", "imgsz=x", "imgsz=0", "batch=0", "batch=-1", "simplify=5"),
        *("quantize=foo", "quantize=3", "nms=5", "device=9", "workspace=-1", "quantize=8", "dsmoe_parity=foo"),
    ],
}
CASES = [(verb, argument) for verb, arguments in WRONG.items() for argument in arguments]


@pytest.mark.parametrize(("verb", "argument"), CASES)
def test_arguments(verb: str, argument: str, refused: Refused, command: Command, tiny_boards: Path) -> None:
    key, _, value = argument.partition("=")
    data = {"data": tiny_boards} if verb in ("train", "val") else {}
    source = {"source": tiny_boards.parent / "images" / "val"} if verb == "predict" else {}
    line = refused(*command(verb, **{**data, **source, key: value}))
    assert key.removeprefix("dsmoe_") in line or value in line


def number_in(folder: Path, boards: Path) -> str:
    """Write a checkpoint that is a number."""
    torch.save(5, folder / "n.pt")
    return str(folder / "n.pt")


def half(small: Path) -> Make:
    """Return a maker of half a checkpoint of ours."""

    def make(folder: Path, boards: Path) -> str:
        content = (small / "small.pt").read_bytes()
        return written(content[: len(content) // 2], "best.pt")(folder, boards)

    return make


CHECKPOINTS: dict[str, Make] = {
    "empty": written(b"", "best.pt"),
    "text": written(b"hello", "best.pt"),
    "folder": without_content,
    "number": number_in,
    "missing": lambda folder, boards: str(folder / "missing.pt"),
    "YAML": written(b"a: 1\n", "weights.yaml"),
}


@pytest.mark.parametrize("kind", [*CHECKPOINTS, "half"])
@pytest.mark.parametrize("key", ["pretrained", "distill_model", "resume"])
def test_weights_of_a_training(
    key: str, kind: str, refused: Refused, command: Command, small: Path, files: Path, tiny_boards: Path
) -> None:
    weights = (half(small) if kind == "half" else CHECKPOINTS[kind])(files, tiny_boards)
    line = refused(*command("train", data=tiny_boards, **{key: weights}))
    named = f"{weights}: expected a checkpoint as it was written" if kind == "half" else f"{key}: expected"
    assert line.startswith(named), line


@pytest.mark.parametrize("kind", ["empty", "half"])
@pytest.mark.parametrize("verb", ["val", "predict", "export", "train"])
def test_models(
    verb: str, kind: str, refused: Refused, command: Command, small: Path, files: Path, tiny_boards: Path
) -> None:
    """A file that holds something of ours, or nothing of anybody's."""
    model = (half(small) if kind == "half" else CHECKPOINTS[kind])(files, tiny_boards)
    assert "best.pt" in refused(*command(verb, data=tiny_boards, model=model))


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_models_beside_a_key_of_ours(kind: str, refused: Refused, command: Command, files: Path) -> None:
    refused(*command("val", model=CHECKPOINTS[kind](files, files), dsmoe_topk=2))


@pytest.mark.parametrize("content", [b"", b"- 1\n", bytes(range(256)), b"hello", b"epochz: 3\n", b"pretrained: 5\n"])
def test_cfg(content: bytes, refused: Refused, command: Command, files: Path, tiny_boards: Path) -> None:
    cfg = written(content or b"epochs: 0\n", "cfg.yaml")(files, files)
    words = [w for w in command("train", data=tiny_boards, cfg=cfg) if not w.startswith("epochs=")]
    refused(*words)


@pytest.mark.parametrize("below", ["", "/runs"])
@pytest.mark.parametrize("verb", ["train", "val", "predict"])
def test_a_file_in_the_place_of_a_folder(
    verb: str, below: str, refused: Refused, command: Command, files: Path, tiny_boards: Path
) -> None:
    more = (
        {"source": tiny_boards.parent / "images" / "val", "save": True} if verb == "predict" else {"data": tiny_boards}
    )
    line = refused(*command(verb, project=f"{plain_file(files)}{below}", **more))
    assert "a folder" in line
    assert (files / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["empty folder", "text", "no picture"])
def test_sources(kind: str, refused: Refused, command: Command, files: Path) -> None:
    make = {"empty folder": lambda f, b: str(f), "text": written(b"/no/such.jpg", "a.txt")}
    source = make.get(kind, written(b"hello", "a.foo"))(files, files)
    assert refused(*command("predict", source=source)).startswith("source: expected")


def test_a_full_disk(refused: Refused, command: Command, tiny_boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a training writes meets a disk without room."""

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "args.yaml")

    monkeypatch.setattr("ultralytics.utils.YAML.save", full)
    assert refused(*command("train", data=tiny_boards)).startswith("args.yaml: expected a disk with room")


def test_another_sets_images_for_a_static_export(
    refused: Refused, command: Command, files: Path, names: dict[int, str], tiny_boards: Path
) -> None:
    cfg = deepcopy(SMALL)
    cfg["backbone"][3] = [-1, 1, "SparseMoE", [4]]
    net = DSMoEModel(cfg, verbose=False)
    net.names = names
    torch.save({"model": net, "train_args": {"task": "detect", "imgsz": 64}}, files / "mixture.pt")
    other = changed(names=[f"class {i}" for i in range(6)])(files, tiny_boards)
    line = refused(*command("export", model=files / "mixture.pt", format="onnx", dsmoe_moe="static", data=other))
    assert line.startswith("data: expected the classes that the net was trained on")


# what stays as it is -------------------------------------------------------------------------------------------------


def test_faults_of_programs_and_stock_models_keep_their_traceback(
    command: Command, small: Path, files: Path, tiny_boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = [[-1, 1, "Conv", [16, 3, 2]], [[2, 3], 1, "Detect", ["nc"]]]
    stock = {**SMALL, "backbone": SMALL["backbone"][:3], "head": head}
    torch.save({"model": DetectionModel(stock, verbose=False)}, files / "stock.pt")
    content = (files / "stock.pt").read_bytes()
    (files / "half.pt").write_bytes(content[: len(content) // 2])
    for model, error in (("stock.pt", FileNotFoundError), ("half.pt", TypeError)):
        with pytest.raises(error):
            ultralytics.cfg.entrypoint(" ".join(["yolo", *command("val", model=files / model, data="nowhere.yaml")]))
    monkeypatch.setattr("ultra_dsmoe.plugin.verbs.require_classes", lambda data: {}["x"])
    with pytest.raises(KeyError):
        ultralytics.cfg.entrypoint(" ".join(["yolo", *command("val", data=tiny_boards)]))


def test_the_whole_traceback_on_demand(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRA_DSMOE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        ultralytics.cfg.entrypoint(" ".join(["yolo", *command("val", data="nowhere.yaml")]))


def test_exceptions_stay_exceptions_in_python(small: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        YOLO(small / "small.pt").val(data="nowhere.yaml", project=str(tmp_path / "runs"))
    with pytest.raises(ValueError, match="epochs"):
        YOLO(small / "small.yaml").train(data="nowhere.yaml", epochs=0, project=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
