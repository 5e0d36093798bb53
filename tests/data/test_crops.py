"""Crops: what is drawn lies where the margin says, splits stay apart, the background shows no box and is hard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from ultra_dsmoe.commands import run
from ultra_dsmoe.constants import LETTERBOX_GRAY
from ultra_dsmoe.data.crops import crop_set
from ultra_dsmoe.errors import DSMoEError

NAMES = {0: "scratch", 1: "oil spot"}
H, W = 120, 160
DEFECT, DECOY, METAL = 250, 90, 40  # gray values

WriteSet = Callable[..., Path]


@pytest.fixture
def write_set(tmp_path: Path) -> WriteSet:
    """Return a function that writes a set: per split and image its boxes (class, x0, y0, x1, y1)."""

    def write(
        splits: dict[str, dict[str, list[tuple[int, ...]]]], *, decoy: tuple[int, ...] | None = None, **more: Any
    ) -> Path:
        root = tmp_path / "set"
        for split, images in splits.items():
            for name, boxes in images.items():
                pixels = np.full((H, W, 3), METAL, np.uint8)
                if decoy:
                    x0, y0, x1, y1 = decoy
                    pixels[y0:y1:2, x0:x1] = DECOY  # stripes
                lines = []
                for kind, x0, y0, x1, y1 in boxes:
                    pixels[y0:y1, x0:x1] = DEFECT, DEFECT, 255 * kind  # the second class is coloured
                    lines.append(
                        f"{kind} {(x0 + x1) / 2 / W:.6f} {(y0 + y1) / 2 / H:.6f} {(x1 - x0) / W} {(y1 - y0) / H}"
                    )
                file, label = root / "images" / split / name, root / "labels" / split / name
                for path in (file, label):
                    path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), pixels)
                label.with_suffix(".txt").write_text("\n".join(lines))
        data = {"path": str(root), **{split: f"images/{split}" for split in splits}, "names": NAMES, **more}
        (root / "data.yaml").write_text(yaml.safe_dump(data))
        return root / "data.yaml"

    return write


USUAL = {
    "train": {"a.png": [(0, 20, 30, 60, 50), (1, 100, 0, 110, 10)], "b.png": [(0, 5, 5, 45, 25)], "good.png": []},
    "val": {"a.png": [(1, 50, 50, 70, 80)]},
}


def crops(root: Path) -> dict[str, np.ndarray]:
    """Return all crops by their places."""
    found: dict[str, Any] = {}
    for f in root.rglob("*.png"):
        found[f.relative_to(root).as_posix()] = cv2.imread(str(f), cv2.IMREAD_UNCHANGED)
    assert {f.with_suffix(".json") for f in root.rglob("*.png")} == set(root.rglob("*.json")) - {root / "crops.json"}
    return found


def sidecar(root: Path, crop: str) -> dict[str, Any]:
    return json.loads((root / crop).with_suffix(".json").read_text())


def test_boxes_become_images_with_a_margin(write_set: WriteSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = crop_set(write_set(USUAL), out, margin=0.25, background=0)
    found = crops(out)
    shapes = {name: crop.shape for name, crop in found.items()}
    assert shapes == {
        "train/scratch/a_0.png": (40, 60, 3),  # a margin of 10 around 40 x 20
        "train/oil spot/a_1.png": (14, 18, 3),  # 2.5 would be a quarter, 4 is the least; cut at the upper edge
        "train/scratch/b_0.png": (35, 55, 3),  # 5 px to two edges, 10 to the others
        "val/oil spot/a_0.png": (46, 36, 3),  # 7.5 px, to even numbers
    }
    x0, y0 = 100 - 4, 0
    image = cv2.imread(str(tmp_path / "set/images/train/a.png"))
    assert np.array_equal(found["train/oil spot/a_1.png"], image[y0 : y0 + 14, x0 : x0 + 18])
    assert made.counts == {"train": {"scratch": 2, "oil spot": 1}, "val": {"oil spot": 1}}
    assert (out / "val" / "scratch").is_dir()  # else the folders of a split would number its classes otherwise


def test_a_crop_says_where_it_is_from_and_how_large_its_box_is(write_set: WriteSet, tmp_path: Path) -> None:
    crop_set(write_set(USUAL), tmp_path / "out", background=0)
    assert sidecar(tmp_path / "out", "val/oil spot/a_0.png") == {
        "record": {
            "width_px": 20,
            "height_px": 30,
            "aspect": 0.666667,
            "area_share": 0.03125,  # 600 of 19200
            "center_x": 0.375,
            "center_y": 0.541667,
        },
        "source": {"image": "images/val/a.png", "box_xyxy_px": [50, 50, 70, 80]},
    }


def test_a_size_for_all_has_gray_bars(write_set: WriteSet, tmp_path: Path) -> None:
    crop_set(write_set(USUAL), tmp_path / "out", margin=0, size=64, background=0)
    found = crops(tmp_path / "out")
    assert {crop.shape[:2] for crop in found.values()} == {(64, 64)}
    scratch = found["train/scratch/a_0.png"]  # 40 x 20 becomes 64 x 32 between bars of 16
    assert (scratch[np.r_[:16, 48:64]] == LETTERBOX_GRAY).all()
    assert (scratch[16:48] == (DEFECT, DEFECT, 0)).all()


def test_gray_images_stay_gray(write_set: WriteSet, tmp_path: Path) -> None:
    data = write_set({"train": {"a.png": [(0, 20, 30, 60, 40)]}, "val": {"b.png": [(0, 20, 30, 60, 40)]}})
    for file in tmp_path.rglob("images/*/*.png"):
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))
    crop_set(data, tmp_path / "out", background=0)
    assert {crop.ndim for crop in crops(tmp_path / "out").values()} == {2}


BUSY = {
    "train": {f"{i}.png": [(0, 8 * i, 4 * i, 8 * i + 24, 4 * i + 16)] for i in range(6)},
    "val": {"v.png": [(0, 10, 10, 34, 26)]},
}
STRIPES = (110, 60, 150, 100)


def test_background_has_true_sizes_shows_no_box_and_prefers_contrast(write_set: WriteSet, tmp_path: Path) -> None:
    made = crop_set(write_set(BUSY, decoy=STRIPES), tmp_path / "out", margin=0.5, background=1, size=0)
    assert made.counts["train"] == {"scratch": 6, "background": 6}
    assert made.counts["val"] == {"scratch": 1, "background": 1}
    assert made.lacking == 0
    places = [c for c in crops(tmp_path / "out") if "/background/" in c]
    for place in places:
        told = sidecar(tmp_path / "out", place)
        assert (told["record"]["width_px"], told["record"]["height_px"]) == (24, 16)
        assert (crops(tmp_path / "out")[place] < DEFECT).all()
        x0, y0, x1, y1 = told["source"]["box_xyxy_px"]
        inside = max(min(x1, 150) - max(x0, 110), 0) * max(min(y1, 100) - max(y0, 60), 0)
        assert inside > 0.5 * 24 * 16  # stripes cover a twelfth of the image


def test_background_is_spread_over_images_and_depends_on_the_seed_alone(write_set: WriteSet, tmp_path: Path) -> None:
    data = write_set(BUSY, decoy=STRIPES)
    crop_set(data, tmp_path / "a", background=0.5)
    crop_set(data, tmp_path / "b", background=0.5)
    crop_set(data, tmp_path / "c", background=0.5, seed=1)
    a, b, c = (
        {name: crop.tobytes() for name, crop in crops(tmp_path / run).items() if "background" in name} for run in "abc"
    )
    assert a == b != c
    assert len({name.rpartition("_")[0] for name in a if name.startswith("train")}) == 3  # three of six images
    assert {name for name in a if name.startswith("train")} != {f"train/background/{i}_1.png" for i in range(3)}


def test_images_without_room_hand_their_share_on(write_set: WriteSet, tmp_path: Path) -> None:
    full = {"full.png": [(0, 0, 0, W, H)], "good.png": []}
    data = write_set({"train": full, "val": {"a.png": [(0, 8, 8, 28, 28)], "good.png": []}})
    made = crop_set(data, tmp_path / "out", background=2)
    assert made.counts["train"] == {"scratch": 1, "background": 1}  # the whole of the good image, once
    assert made.counts["val"] == {"scratch": 1, "background": 2}
    assert made.lacking == 1


def test_polygons_are_boxes(write_set: WriteSet, tmp_path: Path) -> None:
    data = write_set(USUAL)
    polygon = "0 0.25 0.25 0.5 0.25 0.5 0.75 0.4 0.75\n"
    (tmp_path / "set/labels/train/good.txt").write_text(polygon)
    crop_set(data, tmp_path / "out", background=0)
    assert sidecar(tmp_path / "out", "train/scratch/good_0.png")["source"]["box_xyxy_px"] == [40, 30, 80, 90]


def test_images_of_one_name_in_two_folders(write_set: WriteSet, tmp_path: Path) -> None:
    box = [(0, 20, 30, 60, 40)]
    data = write_set({"train": {"east/1.png": box, "west/1.png": box}, "val": {"1.png": box}})
    crop_set(data, tmp_path / "out", background=0)
    assert set(crops(tmp_path / "out")) == {
        "train/scratch/1_east_0.png", "train/scratch/1_west_0.png", "val/scratch/1_0.png"
    }  # fmt: skip


def test_the_command_says_what_was_made(
    write_set: WriteSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["margin=0", "size=32", "background=1", "seed=3", f"out={out}"]
    assert run(["data", "crops", str(write_set(USUAL)), *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "train: 3 background, 1 oil spot, 2 scratch" in said
    assert said[-2:] == [
        f"crops are in {out}; train with: yolo classify train data={out}",
        "caution: no val image shows scratch",
    ]
    assert {crop.shape[:2] for crop in crops(out).values()} == {(32, 32)}
    note = json.loads((out / "crops.json").read_text())
    assert [note[key] for key in ("data", "margin", "size", "background", "seed")] == ["data.yaml", 0, 32, 1, 3]


def test_the_host_finds_the_same_classes_in_every_split(write_set: WriteSet, tmp_path: Path) -> None:
    from ultralytics.data.dataset import ClassificationDataset
    from ultralytics.utils import DEFAULT_CFG

    crop_set(write_set(USUAL), tmp_path / "out", background=1)
    sets = [ClassificationDataset(str(tmp_path / "out" / split), DEFAULT_CFG) for split in ("train", "val")]
    assert [s.base.class_to_idx for s in sets] == [{"background": 0, "oil spot": 1, "scratch": 2}] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["margin=-0.1"], "margin: expected a number from 0 to 4, got -0.1"),
        (["background=-1"], "background: expected a number from 0 to 4, got -1"),
        (["size=31"], "size: expected 0, or 32 to 4096 pixels, got 31"),
        (["seed=-1"], "seed: expected"),
        (["out=."], "expected a new or empty folder"),
        (["out="], "out: expected a value"),
    ],
)
def test_wrong_options_are_one_line(
    words: list[str], message: str, write_set: WriteSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_set(USUAL)
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, message, str(data), *words)


def refused(tmp_path: Path, message: str, data: str, *words: str) -> None:
    with pytest.raises(DSMoEError, match=message) as caught:
        run(["data", "crops", data, *[f"out={tmp_path / 'out'}"], *words])
    assert "\n" not in str(caught.value)
    assert [f.name for f in tmp_path.iterdir()] == ["set"]


def test_sets_that_cannot_be_cut_are_one_line(write_set: WriteSet, tmp_path: Path) -> None:
    data = str(write_set(USUAL, names=["scratch", "oil/spot"]))
    refused(tmp_path, "names: expected class names that can be names of folders, .* got 'oil/spot'", data)
    for names in (["scratch", ".."], ["scratch", "Scratch"]):
        refused(tmp_path, "names: expected class names that", str(write_set(USUAL, names=names)))
    data = str(write_set(USUAL, names=["scratch", "Background"]))
    refused(tmp_path, "background: expected 0 for a set with a class of the name background", data)
    data = str(write_set(USUAL, val="images/train"))
    refused(tmp_path, r"data: expected splits without a common image \(train, val\), got .*\.png", data)
    refused(tmp_path, "data: expected a data YAML whose images are there", str(write_set(USUAL, val="images/none")))
    data = str(write_set({"train": {"a.png": [], "b.png": []}, "val": {"a.png": []}}))
    refused(tmp_path, "data: expected labelled boxes in at least one split, got .*without a single one", data)


def test_an_image_that_goes_missing_leaves_nothing(
    write_set: WriteSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read = str(write_set(USUAL)), crop_set.__globals__["read_piece"]
    seen: list[Any] = []

    def vanishing(label: dict[str, Any]) -> Any:
        if seen:
            Path(label["im_file"]).unlink()
        seen.append(label)
        return read(label)

    monkeypatch.setitem(crop_set.__globals__, "read_piece", vanishing)
    refused(tmp_path, r"\.png: expected a readable image, got none", data)


@pytest.mark.realdata
def test_steel(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared_data("NEU-DET-mini")
    made = crop_set(data, tmp_path / "out", size=64, background=0.2)
    boxes = {
        split: sum(len(f.read_text().split("\n")) - 1 for f in (data.parent / "labels" / split).glob("*.txt"))
        for split in made.counts
    }
    for split, counts in made.counts.items():
        assert sum(counts.values()) - counts["background"] == boxes[split]
        assert counts["background"] > 0
        assert (counts["background"] + made.lacking) >= round(0.2 * boxes[split])
    found = crops(tmp_path / "out")
    assert len(found) == sum(sum(counts.values()) for counts in made.counts.values())
    assert {crop.shape for crop in found.values()} == {(64, 64)}  # gray, as steel is


def test_few_of_a_class_leave_the_rest_for_choosing_and_the_own_half_for_testing(
    write_set: WriteSet, tmp_path: Path
) -> None:
    """At most so many of a class in train and in val, no picture's windows on two sides, the set's own val is test."""
    images = {f"{n}_{w}.png": [(n % 2, 20, 30, 60, 50), (n % 2, 80, 60, 110, 90)] for n in range(10) for w in "ab"}
    data = write_set({"train": images, "val": USUAL["val"]}, groups=r"^(\d+)_")
    made = crop_set(data, tmp_path / "few", background=0, limit=3)
    both = {"scratch": 3, "oil spot": 3}
    assert made.counts == {"train": both, "val": both, "test": {"oil spot": 1}}
    sides = {
        part: {f.name.split("_")[0] for f in (tmp_path / "few" / part).rglob("*.png")} for part in ("train", "val")
    }
    assert not sides["train"] & sides["val"]
    # A test half of its own stays one, and val is what it was.
    data = write_set({"train": images, "val": USUAL["val"], "test": {"t.png": [(0, 5, 5, 45, 25)]}})
    assert crop_set(data, tmp_path / "own", background=0, limit=3).counts == {
        "train": both, "val": {"oil spot": 1}, "test": {"scratch": 1},
    }  # fmt: skip
