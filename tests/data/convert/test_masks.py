"""Conversion of masks and class folders: drawn sets in the layouts that are published, boxes by hand, faults named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.masks import convert_masks
from ultra_dsmoe.errors import DSMoEError

Draw = Callable[..., Path]
BLOCK = (10, 8, 30, 16)  # x0, y0, x1, y1 in an image of 40x32
LINE = "0.500000 0.375000 0.500000 0.250000\n"  # (10+30)/2/40, (8+16)/2/32, 20/40, 8/32


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Return a function that writes an image or, with blocks, a mask below the folder `set`."""

    def write(name: str, *blocks: tuple[int, ...], size: tuple[int, int] = (40, 32), value: Any = 255) -> Path:
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((size[1], size[0], *np.shape(value)), np.uint8)
        for x0, y0, x1, y1 in blocks:
            pixels[y0:y1, x0:x1] = value
        Image.fromarray(pixels).save(file)
        return file

    return write


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a data YAML of one's own."""

    def write(*names: str, **more: Any) -> str:
        file = tmp_path / "own.yaml"
        file.write_text(yaml.safe_dump({"names": dict(enumerate(names)), **more}))
        return str(file)

    return write


def labels(root: Path) -> dict[str, str]:
    """Return the labels of all splits by the names of their images."""
    images = {f.stem: f.parent.name for f in root.glob("images/*/*")}
    files = {f.stem: f for f in root.glob("labels/*/*.txt")}
    assert {stem: f.parent.name for stem, f in files.items()} == images
    return {stem: f.read_text() for stem, f in files.items()}


def converted(tmp_path: Path, name: str = "tilda", **options: Any) -> dict[str, str]:
    root = convert_masks(name, tmp_path / "set", root=tmp_path / "out", **{"ratio": (1, 1), **options}).root
    return labels(root)


def test_masks_in_a_folder_with_the_class_in_the_name(draw: Draw, tmp_path: Path) -> None:
    """As TILDA-400 comes: TIFF images, PNG masks; an image without defect has an empty mask."""
    for cloth, group in (("c1r1", "e1"), ("c1r3", "e2"), ("c2r2", "e3"), ("c3r1", "e4")):
        draw(f"images/{cloth}{group}n7.tif")
        draw(f"masks/{cloth}{group}n7.png", BLOCK)
    draw("images/c4r1e0n1.tif")
    draw("masks/c4r1e0n1.png")
    assert converted(tmp_path) == {
        **{f"{c}n7": f"{i} {LINE}" for i, c in enumerate(("c1r1e1", "c1r3e2", "c2r2e3", "c3r1e4"))},
        "c4r1e0n1": "",
    }


def test_masks_with_an_ending_in_class_folders_of_their_own(draw: Draw, tmp_path: Path) -> None:
    """Names begin anew in each class folder, and good parts have no mask."""
    for kind in ("hole", "oil spot"):
        draw(f"test/{kind}/000.png")
        draw(f"ground_truth/{kind}/000_mask.png", BLOCK)
    draw("test/good/000.png")
    draw("train/good/001.png")
    assert converted(tmp_path) == {
        "000_test_hole": f"0 {LINE}",
        "000_test_oil_spot": f"1 {LINE}",
        "000_test_good": "",
        "001": "",
    }


def test_masks_beside_photographs_of_their_name(draw: Draw, own: Callable[..., str], tmp_path: Path) -> None:
    """As magnetic tiles come: JPEG images, PNG masks, a folder per class, words that only the YAML knows."""
    for kind in ("MT_Crack", "MT_Fray"):
        draw(f"{kind}/Imgs/{kind}1.jpg")
        draw(f"{kind}/Imgs/{kind}1.png", BLOCK)
    draw("MT_Free/Imgs/free.jpg")
    draw("MT_Free/Imgs/free.png")
    name = own("crack", "fray", masks={"kinds": {"MT_Crack": "crack", "MT_Fray": "fray", "MT_Free": None}})
    assert converted(tmp_path, name) == {"MT_Crack1": f"0 {LINE}", "MT_Fray1": f"1 {LINE}", "free": ""}


def test_marks_of_ones_own_and_one_class_for_all(draw: Draw, own: Callable[..., str], tmp_path: Path) -> None:
    for i in range(2):
        draw(f"{i}.png")
        draw(f"{i}-Fehler.bmp", BLOCK)
    assert converted(tmp_path, own("flaw"), marks=["-fehler"]) == {"0": f"0 {LINE}", "1": f"0 {LINE}"}


@pytest.mark.parametrize(("values", "given"), [((1, 7), (1, 7)), (("#ff0000", "#0000ff"), ((255, 0, 0), (0, 0, 255)))])
def test_values_of_pixels_tell_the_classes(
    values: tuple[Any, ...], given: tuple[Any, ...], draw: Draw, own: Callable[..., str], tmp_path: Path
) -> None:
    for i, value in enumerate(given):
        draw(f"images/{i}.png")
        draw(f"masks/{i}.png", BLOCK, value=value)
    name = own("crack", "fray", masks={"values": dict(zip(("fray", "crack"), values, strict=True))})
    assert converted(tmp_path, name) == {"0": f"1 {LINE}", "1": f"0 {LINE}"}


def test_parts_are_joined_and_specks_left_out(draw: Draw, tmp_path: Path) -> None:
    for i in range(2):
        draw(f"hole/{i}.png")
        draw(f"hole/{i}_GT.png", (10, 8, 18, 16), (20, 8, 30, 16), (0, 0, 1, 1))
    apart = "0 0.350000 0.375000 0.200000 0.250000\n0 0.625000 0.375000 0.250000 0.250000\n"
    assert set(converted(tmp_path).values()) == {apart}
    made = convert_masks("tilda", tmp_path / "set", join=3, ratio=(1, 1), root=tmp_path / "joined")
    assert set(labels(made.root).values()) == {f"0 {LINE}"}
    assert made.specks == 2
    speck = convert_masks("tilda", tmp_path / "set", join=3, min_area=1, ratio=(1, 1), root=tmp_path / "all")
    assert set(labels(speck.root).values()) == {f"0 0.012500 0.015625 0.025000 0.031250\n0 {LINE}"}
    assert speck.specks == 0


def test_class_folders_without_masks_give_boxes_around_images(draw: Draw, tmp_path: Path) -> None:
    """As the patches of TILDA-400 come; those of one image stay together."""
    folders = {"good": "", "hole": "0", "objects": "3", "oil spot": "1", "thread error": "2"}
    for image in range(6):
        for patch, folder in enumerate(folders):
            draw(f"{folder}/{image:03d}_patch{patch}-0.png", size=(64, 64))
    made = convert_masks("tilda", tmp_path / "set", boxes="image", root=tmp_path / "out")
    for patch, kind in enumerate(folders.values()):
        told = {label for stem, label in labels(made.root).items() if f"patch{patch}-" in stem}
        assert told == {kind and f"{kind} 0.500000 0.500000 1.000000 1.000000\n"}
    assert made.whole == 24
    sides = [{f.stem[:3] for f in (made.root / "images" / split).iterdir()} for split in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 6


def test_cloths_stay_on_one_side_of_the_split(draw: Draw, tmp_path: Path) -> None:
    cloths = [f"c{c}r{r}" for c in (1, 2, 3, 4) for r in (1, 3)]
    for cloth in cloths:
        for i in range(3):
            draw(f"images/{cloth}e1n{i}.tif")
            draw(f"masks/{cloth}e1n{i}.png", BLOCK)
    root = convert_masks("tilda", tmp_path / "set", root=tmp_path / "out").root
    sides = [{f.stem[:4] for f in (root / "images" / split).iterdir()} for split in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(cloths)
    assert set().union(*sides) == set(cloths)
    data, ours = yaml.safe_load((root / "data.yaml").read_text()), packaged.load("tilda")
    assert {k: v for k, v in data.items() if k not in packaged.PLACE} == {
        k: v for k, v in ours.items() if k not in packaged.PLACE
    }
    assert {"prompts", "taxonomy", "groups"} <= set(data)


def test_good_images_are_spread_as_those_with_defects(draw: Draw, tmp_path: Path) -> None:
    for i in range(20):
        draw(f"hole/h{i}.png")
        draw(f"hole/h{i}_mask.png", BLOCK)
    for i in range(10):
        draw(f"good/g{i}.png")
    for seed in range(5):
        root = convert_masks("tilda", tmp_path / "set", seed=seed, root=tmp_path / f"out{seed}").root
        found = {s: [f.stem[0] for f in (root / "images" / s).iterdir()] for s in ("train", "val", "test")}
        assert {s: (names.count("h"), names.count("g")) for s, names in found.items()} == {
            "train": (12, 6), "val": (4, 2), "test": (4, 2)
        }  # fmt: skip


def test_a_path_of_ones_own_yaml_is_where_the_images_go(
    pair: Draw, own: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"path": str(tmp_path / "mine"), "train": "images/train", "val": "images/val"}
    assert convert_masks(own("hole", **place), tmp_path / "set", ratio=(1, 1)).root == tmp_path / "mine"
    assert len(labels(tmp_path / "mine")) == 2


# what is told


def told(tmp_path: Path, name: str = "tilda", **options: Any) -> list[str]:
    made = convert_masks(name, tmp_path / "set", root=tmp_path / "out", **{"ratio": (1, 1), **options})
    return list(made.cautions())


def test_masks_as_they_should_be_are_not_remarked_on(pair: Draw, tmp_path: Path) -> None:
    pair("good/5.png")
    pair("good/5_mask.png")
    assert told(tmp_path) == []


def test_black_masks_of_defects_are_told(pair: Draw, tmp_path: Path) -> None:
    for i in (7, 8):
        pair(f"hole/{i}.png")
        pair(f"hole/{i}_mask.png")
    place = tmp_path / "set/hole/7_mask.png"
    said = f"2 masks of images in folders of defects show nothing, as of good parts (first: {place})"
    assert told(tmp_path) == [said]


def test_inverted_masks_are_told(pair: Draw, tmp_path: Path) -> None:
    file = pair("hole/1_mask.png")
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    pair("hole/0_mask.png", (0, 0, 40, 16))  # half of the image
    assert told(tmp_path) == [f"1 masks show more than half of their image, as inverted ones do (first: {file})"]


def test_classes_in_masks_that_nothing_names_are_told(pair: Draw, own: Callable[..., str], tmp_path: Path) -> None:
    pair("hole/0_mask.png", BLOCK, value=1)
    pair("hole/1_mask.png", BLOCK, value=2)
    said = "masks have the values 1, 2, taken as one; 'masks: values' of the data YAML makes classes of them"
    assert told(tmp_path) == [said]
    name = own("hole", "slot", masks={"values": {"hole": 1, "slot": 2}})
    made = convert_masks(name, tmp_path / "set", ratio=(1, 1), root=tmp_path / "valued")
    assert list(made.cautions()) == []


def test_soft_edges_are_no_classes(pair: Draw, tmp_path: Path) -> None:
    for i in (0, 1):
        pixels = np.zeros((32, 40), np.uint8)
        pixels[8:16, 10:30] = np.linspace(20, 255, 20)
        Image.fromarray(pixels).save(tmp_path / f"set/hole/{i}_mask.png")
    assert told(tmp_path) == []


# errors


def refused(tmp_path: Path, message: str, name: str = "tilda", **options: Any) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DSMoEError, match=message) as caught:
        convert_masks(name, tmp_path / "set", root=tmp_path / "out", **{"ratio": (1, 1), **options})
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def pair(draw: Draw) -> Draw:
    """Two images with masks that are as they should be."""
    for i in range(2):
        draw(f"hole/{i}.png")
        draw(f"hole/{i}_mask.png", BLOCK)
    return draw


def test_nothing_to_convert(draw: Draw, tmp_path: Path) -> None:
    refused(tmp_path, "set: expected an existing folder with images and masks, got no such folder")
    (tmp_path / "set").touch()
    refused(tmp_path, "set: expected an existing folder with images and masks, got a file")
    (tmp_path / "set").unlink()
    (tmp_path / "set").mkdir()
    refused(tmp_path, "set: expected a folder with images, got none")
    draw("hole/0.png")
    refused(tmp_path, r"set: expected masks, known by .*_mask, .*or boxes=image, got none")
    refused(tmp_path, "at least 2 groups", boxes="image")


def test_nothing_but_good_images(draw: Draw, tmp_path: Path) -> None:
    for i in range(2):
        draw(f"good/{i}.png")
        draw(f"good/{i}_mask.png")
    refused(tmp_path, "expected images with defects, got nothing but good ones")


def test_a_mask_of_another_size_unreadable_or_without_image(pair: Draw, tmp_path: Path) -> None:
    pair("hole/0_mask.png", size=(32, 40))
    refused(tmp_path, r"0_mask\.png: expected the size of its image, 40x32, got 32x40")
    (tmp_path / "set/hole/0_mask.png").write_bytes(b"hello")
    refused(tmp_path, r"0_mask\.png: expected a picture that OpenCV reads, got 5 bytes")
    pair("hole/0_mask.png", BLOCK)
    (tmp_path / "set/hole/1.png").write_bytes(b"")
    refused(tmp_path, r"hole/1\.png: expected a picture that OpenCV reads, got 0 bytes")
    (tmp_path / "set/hole/1.png").unlink()
    refused(tmp_path, r"1_mask\.png: expected one image of this name, got 0")


def test_an_image_without_mask_among_others(pair: Draw, tmp_path: Path) -> None:
    pair("hole/2.png")
    refused(tmp_path, r"hole/2\.png: expected a mask, or a folder of good parts \(or boxes=image\), got none")
    assert converted(tmp_path, boxes="image")["2"] == "0 0.500000 0.500000 1.000000 1.000000\n"


def test_masks_that_fit_several_images_or_share_one(pair: Draw, tmp_path: Path) -> None:
    pair("hole/0_GT.png")
    refused(tmp_path, r"hole/0\.png: expected one mask, got .*0_GT\.png and .*0_mask\.png")
    (tmp_path / "set/hole/0_GT.png").unlink()
    pair("a/hole/3.png")
    pair("b/hole/3.png")
    pair("masks/hole/3.png")
    refused(tmp_path, r"masks/hole/3\.png: expected one image of this name, got 2")


def test_two_images_that_would_have_one_name(pair: Draw, tmp_path: Path) -> None:
    pair("good/5.png")
    pair("good/5.bmp")
    refused(tmp_path, "expected one image of a name, got 2 of 5_good")


def test_a_folder_that_no_class_knows(pair: Draw, tmp_path: Path) -> None:
    pair("oilspot/7.png")
    pair("oilspot/7_mask.png", BLOCK)
    refused(
        tmp_path, r"oilspot/7\.png: expected a folder out of good, hole, .*\(did you mean 'oil_spot'\?\), got oilspot"
    )
    pair("oilspot/7_mask.png")  # an empty mask needs no class
    assert converted(tmp_path)["7"] == ""
    (tmp_path / "set/oilspot/7_mask.png").unlink()
    with pytest.raises(DSMoEError, match="did you mean 'oil_spot'"):
        convert_masks("tilda", tmp_path / "set", boxes="image", root=tmp_path / "other")


def test_a_defect_in_the_mask_of_a_good_part(pair: Draw, tmp_path: Path) -> None:
    pair("good/9.png")
    pair("good/9_mask.png", BLOCK)
    refused(tmp_path, r"9_mask\.png: expected an empty mask, for an image of good parts, got one with regions: 1")


def test_values_that_the_yaml_does_not_know(pair: Draw, own: Callable[..., str], tmp_path: Path) -> None:
    refused(tmp_path, r"values 1 on black, as the set's 'masks' says, got 255", own("a", masks={"values": {"a": 1}}))
    refused(tmp_path, "values #ff0000 on black.*got #ffffff", own("a", masks={"values": {"a": "#ff0000"}}))


def test_folder_in_use_and_missing_out(pair: Draw, own: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    refused(tmp_path, "a new or empty folder")
    for place, why in (
        ({}, "has no 'path'"),
        ({"path": 3}, "has no 'path'"),
        ({"path": "x"}, "'train' of .* is not images/train"),
        ({"path": "x", "train": "images/train", "val": "valid"}, "'val' of .* is not images/val"),
    ):
        with pytest.raises(DSMoEError, match=rf"^out: expected a folder to make, as .*{why}.*, got none"):
            convert_masks(own("hole", **place), tmp_path / "set")


def photograph(file: Path) -> Path:
    """Write a picture of many gray values."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 40)).astype(np.uint8)).save(file)
    return file


@pytest.mark.parametrize(
    ("place", "mark"),
    [
        ("hole/{}.truth.png", "marks=[.]truth"),
        ("hole/{}_t.jpg", "marks=_t"),
        ("region/hole/{}.png", "marks=region"),
        ("hole/seg-{}.png", r"an ending or a folder \(marks=\)"),
    ],
)
def test_masks_by_an_unknown_name_do_not_become_images(place: str, mark: str, draw: Draw, tmp_path: Path) -> None:
    for i in range(2):
        photograph(tmp_path / f"set/image/hole/{i}.png" if "region" in place else tmp_path / f"set/hole/{i}.png")
        draw(place.format(i), BLOCK)
    told = rf"looks like a mask of .*0\.png, and masks are told by {mark}, got a few gray levels"
    refused(tmp_path, told, boxes="image")
    draw("hole/9.png")
    draw("hole/9_mask.png", BLOCK)
    refused(tmp_path, told)


def test_photographs_whose_names_begin_alike_are_images(draw: Draw, tmp_path: Path) -> None:
    for name in ("0", "0_turned", "0-2"):
        photograph(tmp_path / f"set/hole/{name}.png")
    draw("hole/5.png")  # flat, but of no other's name
    assert len(converted(tmp_path, boxes="image")) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": "imge"}, r"boxes: expected one of masks, image \(did you mean 'image'\?\)"),
        ({"join": 0}, "join: expected"),
        ({"min_area": 0}, "min_area: expected"),
        ({"ratio": (1,)}, "split: expected two or three shares"),
        ({"seed": -1}, "seed: expected"),
        ({"group": "("}, "group: expected a regular expression"),
        ({"name": "tlda"}, r"did you mean 'tilda'\?"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, pair: Draw, tmp_path: Path) -> None:
    refused(tmp_path, message, **options)


@pytest.mark.parametrize("text", ["- 1", "a: [", "names: x"])
def test_a_file_that_is_no_data_yaml(text: str, pair: Draw, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    refused(tmp_path, r"(own\.yaml|names): expected", str(tmp_path / "own.yaml"))
