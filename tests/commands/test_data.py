"""``dsmoe-yolo data``: each command does its work and says one clear thing; faults exit with one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ultra_dsmoe.commands import run
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert import mask_rules
from ultra_dsmoe.errors import ConfigError, DataError


def test_list_shows_what_is_here(
    make_set: Callable[..., Path], sets_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(make_set("neu-det"), sets_folder / "NEU-DET")
    assert run(["data", "list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(rows) == {*packaged.COMMANDS, "hits-demo"}
    assert "here" in rows["neu-det"]
    assert str(sets_folder / "NEU-DET") in rows["neu-det"]
    assert "missing" in rows["deeppcb"]
    assert packaged.COMMANDS["deeppcb"] in rows["deeppcb"]
    assert rows["hits-demo"].split(maxsplit=3)[1:] == ["5", "missing", "dsmoe-yolo data make hits-demo"]
    run(["data", "make", "hits-demo", "train=5", "val=5", "test=5", "size=96"])
    assert "train with data=hits-demo\n" in capsys.readouterr().out
    run(["data", "list"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("hits-demo"))
    assert row.split(maxsplit=3)[1:] == ["5", "here", str(sets_folder / "hits-demo")]


def test_make_passes_every_option_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ultra_dsmoe.data.boards.demo import draw_board

    out = tmp_path / "boards"
    options = ["--train", "2", "--val", "1", "--seed", "3", "--size", "128", "--out", str(out)]
    assert run(["data", "make", "pcb-demo", *options]) == 0
    assert str(out / "data.yaml") in capsys.readouterr().out
    assert len(list((out / "images" / "train").iterdir())) == 2
    label = (out / "labels" / "val" / "board_00000.txt").read_text().splitlines()
    assert label == draw_board(0, split="val", seed=3, size=128).label_lines()


def test_sets_with_references_are_made_and_unpacked(
    make_set: Callable[..., Path], sets_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "boards"
    assert run(["data", "make", "pcb-demo-ref", "train=1", "val=1", "size=96", f"out={out}"]) == 0
    assert "pcb-demo-ref: 1 + 1 boards in " in capsys.readouterr().out
    assert len(list((out / "references").rglob("*.jpg"))) == 2
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", make_set())
    assert run(["data", "unpack", "deeppcb", archive]) == 0
    assert run(["data", "unpack", "deeppcb-ref", archive]) == 0
    place = sets_folder / "DeepPCB" / "references"
    assert f"deeppcb-ref: references are in {place}; train with data=deeppcb-ref.yaml\n" in capsys.readouterr().out


def files(root: Path) -> dict[str, bytes]:
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_make_of_hits_passes_every_option_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ultra_dsmoe.data.hits.demo import generate

    words = ["train=6", "val=5", "test=7", "seed=3", "size=100", "spread=0.5", f"out={tmp_path / 'made'}"]
    assert run(["data", "make", "hits-demo", *words]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("hits-demo: 6 + 5 + 7 images in ")
    assert said.endswith(f"train with data={tmp_path / 'made'}")
    assert files(generate(tmp_path / "same", 6, 5, 7, 3, 100, 0.5)) == files(tmp_path / "made")


def test_tda_passes_every_option_on(tmp_path: Path, sets_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ultra_dsmoe.data.hits.demo import generate
    from ultra_dsmoe.data.hits.tda import augment

    data = generate(sets_folder / "hits-demo", 10, 5, 5, size=96)
    out = tmp_path / "more"
    assert run(["data", "tda", "hits-demo", "add=3", "seed=5", "spread=none", f"out={out}"]) == 0
    assert capsys.readouterr().out == f"hits-demo: 3 drawn images among the training images; train with data={out}\n"
    assert files(augment(data, tmp_path / "same", 3, 5, "none")) == files(out)
    with pytest.raises(ConfigError, match=r"^out: expected a folder to make, got none"):
        run(["data", "tda", "hits-demo"])


def test_make_goes_where_the_yaml_looks(sets_folder: Path) -> None:
    run(["data", "make", "pcb-demo.yaml", "--train", "1", "--val", "1", "--size", "96"])
    assert (sets_folder / "pcb-demo" / "images" / "val").is_dir()


def test_unpack_and_its_message(
    make_set: Callable[..., Path], sets_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", make_set())
    run(["data", "unpack", "deeppcb", archive])
    said, caution = capsys.readouterr().out.splitlines()
    assert said == f"deeppcb: images are in {sets_folder / 'DeepPCB'}; train with data=deeppcb.yaml"
    assert caution.startswith("caution: no train image shows ")
    run(["data", "unpack", "deeppcb", archive, "--out", str(tmp_path / "other")])
    assert f"train with data={tmp_path / 'other' / 'data.yaml'}" in capsys.readouterr().out


def test_convert_voc_passes_its_options_on(tmp_path: Path, write_voc: Callable[..., None]) -> None:
    for i in range(8):
        write_voc(tmp_path / "voc", f"{i % 4}_spur_{i}")
    options = ["--split", "1:1", "--seed", "5", "--group", r"_(\d)$", "--out", str(tmp_path / "set")]
    assert run(["data", "convert-voc", "pcb", str(tmp_path / "voc"), *options]) == 0
    assert len(list((tmp_path / "set" / "images" / "train").iterdir())) == 4
    assert not (tmp_path / "set" / "images" / "test").exists()


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    """Eight images with masks, each of two parts three pixels apart and a speck."""
    import cv2
    import numpy as np

    (tmp_path / "holes" / "hole").mkdir(parents=True)
    for i in range(8):
        mask = np.zeros((32, 32), np.uint8)
        mask[4:8, 4:8] = mask[4:8, 11:15] = mask[20, 20] = 255
        cv2.imwrite(str(tmp_path / "holes" / "hole" / f"{i % 4}_{i}.png"), np.zeros_like(mask))
        cv2.imwrite(str(tmp_path / "holes" / "hole" / f"{i % 4}_{i}.truth.png"), mask)
    return tmp_path / "holes"


def test_convert_masks_passes_its_options_on(holes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    words = ["split=1:1", "seed=5", r"group=_(\d)$", "marks=masks,.truth", f"out={out}"]
    assert run(["data", "convert-masks", "tilda", str(holes), *words]) == 0
    said, absent, small = capsys.readouterr().out.splitlines()
    assert said == f"tilda: images are in {out}; train with data={out / 'data.yaml'}"
    run(["data", "convert-masks", "--help"])
    page = " ".join(capsys.readouterr().out.split())
    assert all(f"'{key}'" in page for key in mask_rules.KEYS)
    assert absent.startswith("caution: no train image shows oil_spot")
    assert small == "caution: 8 regions of masks have under 4 pixels and no box (min_area=)"
    assert len(list((out / "images" / "train").iterdir())) == 4
    assert {len(f.read_text().splitlines()) for f in out.rglob("*.txt")} == {2}
    words = ["join=4", "min_area=1", "marks=.truth", f"out={tmp_path / 'joined'}"]
    run(["data", "convert-masks", "tilda", str(holes), *words])
    assert "min_area" not in capsys.readouterr().out
    files = list((tmp_path / "joined" / "labels").rglob("*.txt"))
    assert {f.read_text() for f in files} == {
        "0 0.296875 0.187500 0.343750 0.125000\n0 0.640625 0.640625 0.031250 0.031250\n"  # 4 to 15 and 20 to 21, of 32
    }


def test_convert_masks_says_that_whole_images_tell_no_place(
    holes: Path, tmp_path: Path, sets_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["data", "convert-masks", "tilda.yaml", str(holes), "boxes=image"])  # masks that are not known as such
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"tilda: images are in {sets_folder / 'TILDA'}; train with data=tilda.yaml"
    assert said[-1] == "caution: 16 boxes are whole images; they say what is on an image, not where"


def test_a_class_that_a_split_does_not_show_is_named(
    tmp_path: Path, write_voc: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = packaged.class_names(packaged.load("pcb"))
    for board in range(3):
        for kind in kinds[:-1] if board else kinds:  # the last class is on one board alone
            write_voc(tmp_path / "voc", f"{board}_{kind}", kind)
    for seed in range(4):
        out = tmp_path / f"set{seed}"
        run(["data", "convert-voc", "pcb", str(tmp_path / "voc"), "split=1:1:1", f"seed={seed}", f"out={out}"])
        _, caution = capsys.readouterr().out.splitlines()
        place = next(f.parent.name for f in out.rglob(f"0_{kinds[-1]}.txt"))
        said = {split: f"no {split} image shows {kinds[-1]}, which cannot be " for split in ("train", "val", "test")}
        assert {split for split, words in said.items() if words in caution} == {"train", "val", "test"} - {place}
        assert caution.count("cannot be learned") == (place != "train")
    for kind in kinds:
        for board in range(3, 30):
            write_voc(tmp_path / "voc", f"{board}_{kind}", kind)
    run(["data", "convert-voc", "pcb", str(tmp_path / "voc"), "split=1:1", f"out={tmp_path / 'all'}"])
    assert "caution" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("make pcb-demo train={}", "train: expected a positive integer, got "),
        ("make pcb-demo val={}", "val: expected a positive integer, got "),
        ("make pcb-demo size={}", "size: expected a whole number from 96 to 4096, got "),
        ("splice neu-det.yaml class=crazing out=x add={}", "add: expected a positive integer, got "),
    ],
)
def test_a_count_has_one_bound(words: str, expected: str) -> None:
    """Whether a value is refused as a word of the command or by what does the work."""
    for value in ("-3", "0", "x", "5000000000.5"):
        with pytest.raises(ConfigError) as caught:
            run(["data", *words.format(value).split()])
        assert str(caught.value) == expected + value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["make", "deeppcb"], "expected pcb-demo, pcb-demo-ref, hits-demo, the sets that are generated, got deeppcb"),
        (["unpack", "deepcb", "x.tar"], r"did you mean 'deeppcb'\?"),
        (["unpack", "deeppcb", "x.tar"], r"archive: expected a tar or zip file, got x\.tar"),
        (
            ["convert-masks", "tilda", "nowhere"],
            "nowhere: expected an existing folder with images and masks, got no such folder",
        ),
        (
            ["convert-voc", "pcb", "nowhere"],
            r"nowhere: expected an existing folder with .*Pascal VOC \.xml files, got no such",
        ),
    ],
)
def test_faults_are_data_errors(argv: list[str], message: str, sets_folder: Path) -> None:
    with pytest.raises(DataError, match=message):
        run(["data", *argv])
    assert not sets_folder.exists() or not list(sets_folder.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["fetch"],
            "data: expected list, make, unpack, convert-voc, convert-masks, splice, tda, crops, sizes, got fetch",
        ),
        (["mke", "pcb-demo"], r"did you mean 'make'\?"),
        (["make", "pcb-demo", "--train", "many"], "train: expected a positive integer, got many"),
        (["make", "pcb-demo", "--sede", "3"], r"sede: .*did you mean 'seed'\?"),
        (["make", "pcb-demo", "test=5"], "test: expected a key of pcb-demo; this one is hits-demo's, got 5"),
        (["make", "hits-demo", "spread=-1"], "spread: expected a number from 0 to 3, got -1"),
        (["tda", "x", "spread=all", "out=y"], "spread: expected one of between, none, got all"),
        (["unpack", "deeppcb"], "archive: expected a tar or zip in YOLO layout, got none"),
        (["convert-masks", "tilda", "x", "marks=a,,b"], "marks: expected words such as _mask,masks, got a,,b"),
        (["convert-masks", "tilda", "x", "boxes=imge"], r"boxes: .*did you mean 'image'\?"),
        (["convert-voc", "pcb", "x", "--split", "a:b"], "split: expected shares such as 6:2:2, got a:b"),
    ],
)
def test_wrong_words_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(["data", *argv])


def test_script_prints_one_line_and_fails(run_yolo: Callable[..., Any]) -> None:
    done = run_yolo("data", "unpack", "deepcb", "x.tar", script="dsmoe-yolo", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert "did you mean 'deeppcb'?" in done.stdout + done.stderr
