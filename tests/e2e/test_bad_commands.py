"""Wrong words of our own commands."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import plain_file, written

from ultra_dsmoe.runtime import engine
from ultra_dsmoe.text import package

Refused = Callable[..., str]

ANALYSES = ("knockout", "topk", "routing", "pictures", "distill-masks")
OF_ALL = ("device=9", "device=gpu", "imgsz=0", "imgsz=x", "split=foo", "foo=5", "out=", "bare")


@pytest.mark.parametrize("argument", OF_ALL)
@pytest.mark.parametrize("name", ANALYSES)
def test_analyses(name: str, argument: str, refused: Refused, small: Path, tiny_boards: Path) -> None:
    line = refused(name, str(small / "small.pt"), f"data={tiny_boards}", argument, script="dsmoe-yolo")
    assert argument.partition("=")[0] in line


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "onnx"])
@pytest.mark.parametrize("name", ANALYSES)
def test_checkpoints_of_analyses(name: str, kind: str, refused: Refused, files: Path, tiny_boards: Path) -> None:
    model = files / ("best.onnx" if kind == "onnx" else "best.pt")
    if kind == "folder":
        model.mkdir()
    elif kind != "missing":
        model.write_bytes(b"")
    assert refused(name, str(model), f"data={tiny_boards}", script="dsmoe-yolo").startswith("model: expected")


@pytest.mark.parametrize("below", ["", "/out"])
@pytest.mark.parametrize("name", ANALYSES)
def test_out_of_analyses(name: str, below: str, refused: Refused, small: Path, files: Path, tiny_boards: Path) -> None:
    out = f"out={plain_file(files)}{below}"
    line = refused(name, str(small / "small.pt"), f"data={tiny_boards}", out, script="dsmoe-yolo")
    assert line.startswith(("out: expected", "model: expected", f"{name}: expected")), line


WORDS = [
    *("data foo", "data make foo", "data make pcb-demo --train 0", "data make pcb-demo --train x"),
    *("data make pcb-demo --size 5", "data make pcb-demo --size 100000000", "data make pcb-demo --seed -1"),
    *("data make pcb-demo --val 0", "data make pcb-demo --foo", "data unpack foo", "data unpack foo x"),
    *(
        "data unpack neu-det nowhere.zip",
        "data convert-voc pcb",
        "data convert-voc foo .",
        "data convert-voc pcb nowhere",
        "data convert-masks tilda",
        "data convert-masks foo .",
        "data convert-masks tilda nowhere",
        "data convert-masks nowhere.yaml .",
    ),
    *("data crops nowhere.yaml out=x", "data crops pcb-demo.yaml", "data crops x.yaml out=x margin=-1"),
    *("data sizes nowhere.yaml", "data sizes pcb-demo.yaml imgsz=0", "data sizes pcb-demo.yaml clusters=99"),
    *("data sizes pcb-demo.yaml seed=-1", "data sizes pcb-demo.yaml out=x.txt", "data sizes pcb-demo.yaml foo=1"),
    *("edge foo", "edge lint --foo", "edge lint nowhere.onnx", "edge lint .", "edge check --gpu foo"),
    *("edge check --sm x", "edge check --sm 6.1 --opset x", "edge check --precision x", "edge check --mode x"),
    *("edge quantize a.onnx b.onnx data=x", "edge quantize nowhere.onnx data=DATA", "edge quantize a.txt data=DATA"),
    *("edge quantize nowhere.onnx", "edge quantize T.onnx data=DATA", "edge quantize T.onnx data=DATA images=x"),
    *("edge quantize T.onnx data=DATA target=foo", "edge quantize T.onnx foo=1", "edge build nowhere.onnx"),
    *(
        "edge build a.txt",
        "edge build T.onnx workspace=-1",
        "edge build T.onnx precision=x",
        "edge build T.onnx out=no/x",
    ),
    *("study nowhere.yaml", "study pcb-demo.yaml", "study x.yaml jobs=0", "calibrate nowhere.pt", "knokout best.pt"),
    *("edge check --gpu a --sm 6.1", "text foo", "text lint nowhere.yaml", "text lint --foo"),
]


@pytest.mark.parametrize("words", WORDS)
def test_words(words: str, refused: Refused, files: Path, tiny_boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(b"hello", "T.onnx")(files, files)
    monkeypatch.chdir(files)
    refused(*words.replace("DATA", str(tiny_boards)).split(), script="dsmoe-yolo")


@pytest.mark.parametrize("member", [".", "../x", "/x", "C:/x", "a.txt"])
def test_members_of_an_archive(member: str, refused: Refused, files: Path) -> None:
    with zipfile.ZipFile(files / "a.zip", "w") as pack:
        pack.writestr(member, "x")
    refused("data", "unpack", "neu-det", str(files / "a.zip"), "--out", str(files / "out"), script="dsmoe-yolo")


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 700])
def test_no_archive(content: bytes, refused: Refused, files: Path) -> None:
    file = written(content, "a.tar")(files, files)
    refused("data", "unpack", "neu-det", file, "--out", str(files / "out"), script="dsmoe-yolo")


VOC = (
    "<annotation><size><width>{0}</width><height>96</height></size><object><name>{1}</name><bndbox><xmin>{2}</xmin>"
    "<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
ANNOTATIONS = {
    "text": "hello",
    "encoding": '<?xml version="1.0" encoding="foo"?><a/>',
    "no size": "<annotation/>",
    **{f"width {width}": VOC.format(width, "spur", 1) for width in ("nan", "inf", "0", "-5", "word", "")},
    **{f"corner {corner}": VOC.format(96, "spur", corner) for corner in ("nan", "50", "word", "")},
    "class": VOC.format(96, "foo", 1),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations(kind: str, refused: Refused, files: Path) -> None:
    (files / "set").mkdir()
    (files / "set" / "a.jpg").write_bytes(b"")
    (files / "set" / "a.xml").write_text(ANNOTATIONS[kind])
    words = ["data", "convert-voc", "pcb", str(files / "set"), "--out", str(files / "out")]
    assert "a.xml" in refused(*words, script="dsmoe-yolo")


@pytest.mark.parametrize(
    "words", ["--split x", "--split 1", "--split 0:1", "--seed -1", "--seed x", "--group (", "--group x"]
)
def test_options_of_a_conversion(words: str, refused: Refused, files: Path) -> None:
    (files / "a.jpg").write_bytes(b"")
    (files / "a.xml").write_text(VOC.format(96, "spur", 1))
    refused("data", "convert-voc", "pcb", str(files), "--out", str(files / "out"), *words.split(), script="dsmoe-yolo")


@pytest.mark.parametrize("mask", [b"", b"hello", None])
def test_masks(mask: bytes | None, refused: Refused, files: Path, tmp_path: Path) -> None:
    import cv2

    (files / "hole").mkdir()
    cv2.imwrite(str(files / "hole" / "a.png"), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(files / "hole" / "a_mask.png"), np.zeros((8, 9), np.uint8))
    if mask is not None:
        (files / "hole" / "a_mask.png").write_bytes(mask)
    words = ["data", "convert-masks", "tilda", str(files), "--out", str(files / "out")]
    assert "a_mask.png" in refused(*words, script="dsmoe-yolo")


@pytest.mark.parametrize(
    "words", ["boxes=x", "join=0", "join=x", "min_area=0", "marks=,", "split=x", "seed=-1", "group=(", "foo=1"]
)
def test_options_of_masks(words: str, refused: Refused, files: Path) -> None:
    import cv2

    (files / "hole").mkdir()
    cv2.imwrite(str(files / "hole" / "a.png"), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(files / "hole" / "a_mask.png"), np.ones((8, 8), np.uint8))
    refused("data", "convert-masks", "tilda", str(files), "--out", str(files / "out"), words, script="dsmoe-yolo")


@pytest.mark.parametrize("out", ["file", "file/out", "x" * 300])
def test_places_for_the_boards(out: str, refused: Refused, files: Path) -> None:
    plain_file(files)
    size = ["--train", "1", "--val", "1", "--size", "96"]
    refused("data", "make", "pcb-demo", *size, "--out", str(files / out), script="dsmoe-yolo")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder of Linux")
@pytest.mark.parametrize(
    "words",
    [
        "data make pcb-demo train=1 val=1 size=96 out={}",
        "data sizes DATA out={}.png",
        "text encode DATA out={}.npz",
        "topk MODEL data=DATA out={}",
        "distill-masks MODEL data=DATA out={}",
        "calibrate MODEL data=DATA out={}.pt",
        "edge quantize T.onnx data=DATA out={}.onnx",
        "edge build T.onnx out={}.engine",
        "train data=DATA epochs=1 imgsz=64 device=cpu model=YAML project={}",
    ],
)
def test_a_place_where_nothing_can_be_written(
    words: str, refused: Refused, small: Path, files: Path, tiny_boards: Path
) -> None:
    """Also where permissions allow it, as the superuser's do; named as the user did, not by a file of ours."""
    written(b"hello", "T.onnx")(files, files)
    known = {"DATA": tiny_boards, "MODEL": small / "small.pt", "YAML": small / "small.yaml", "T.onnx": files / "T.onnx"}
    for name, path in known.items():
        words = words.replace(name, str(path))
    script = "yolo" if words.startswith("train") else "dsmoe-yolo"
    line = refused(*words.format("/proc/x").split(), script=script)
    assert "/proc/x" in line
    assert "existing file" not in line
    assert "written" in line or "can be made" in line


MODULES = {
    engine: [
        *("nowhere.onnx", "a.txt", "nowhere.onnx --workspace x", "nowhere.onnx --workspace -1"),
        *("nowhere.onnx --fp16 --int8", "nowhere.onnx --foo", "T.onnx --output nowhere/x"),
    ],
    package: ["nowhere.yaml", "nowhere.yaml --encoder foo"],
}


@pytest.mark.parametrize(("module", "words"), [(m, words) for m, lines in MODULES.items() for words in lines])
def test_modules(
    module: object,
    words: str,
    files: Path,
    tiny_boards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is run as ``python -m`` ends in the same way."""
    written(b"hello", "T.onnx")(files, files)
    monkeypatch.chdir(files)
    with pytest.raises(SystemExit) as stop:
        module.main(words.replace("DATA", str(tiny_boards)).split())
    *cautions, error = capsys.readouterr().err.strip().splitlines()  # former words have a line each
    assert stop.value.code == 1
    assert error.startswith("error: ")
    assert all(line.startswith("caution: ") for line in cautions)
    assert [path.name for path in files.iterdir()] == ["T.onnx"]


@pytest.mark.parametrize("module", MODULES)
def test_modules_without_a_word_show_what_they_take(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main([]) == 1
    assert capsys.readouterr().err.startswith("usage: python -m ")
