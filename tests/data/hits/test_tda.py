"""Drawn training images: their statistics are those of the training half, the rest of a set is left alone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ultra_dsmoe.data.hits import record
from ultra_dsmoe.data.hits.demo import draw_sample, generate
from ultra_dsmoe.data.hits.distribution import CLASSES, LOG_VAR_SPREAD, MU_SPREAD, draw_normal, draw_points
from ultra_dsmoe.data.hits.tda import PREFIX, PROOF, Statistics, augment
from ultra_dsmoe.errors import DSMoEError

KIND = "shifted_far"


def files(root: Path) -> dict[str, bytes]:
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def drawn(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(root).items() if PREFIX in name}


@pytest.fixture
def a_set(tmp_path: Path) -> Path:
    return generate(tmp_path / "set", 20, 5, 5, size=96)


# statistics


def moments(records: list[dict[str, float]]) -> np.ndarray:
    sd = np.array([[r["sd_x"], r["sd_y"]] for r in records])
    rho = np.array([r["cov_xy"] for r in records]) / sd.prod(1)
    return np.column_stack([[[r["mu_x"], r["mu_y"]] for r in records], 2 * np.log(sd), np.arctanh(np.abs(rho))])


def redrawn(statistics: Statistics, count: int, hits: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(1)
    return [record.measure(draw_points(statistics.draw(rng), hits, rng)) for _ in range(count)]


@pytest.mark.parametrize("hits", [30, 450])
def test_new_records_spread_as_the_real_ones_do(hits: int) -> None:
    """Few hits make records differ by chance alone, and that part must not come twice."""
    rng = np.random.default_rng(0)
    real = [record.measure(draw_points(draw_normal(CLASSES[KIND], rng), hits, rng)) for _ in range(1500)]
    new = redrawn(Statistics.of(real), 1500, hits)
    assert moments(new).mean(0) == pytest.approx(moments(real).mean(0), abs=0.12)
    assert moments(new)[:, :4].std(0) == pytest.approx(moments(real)[:, :4].std(0), rel=0.08)
    assert moments(real)[:, :4].std(0).min() > 0.9 * LOG_VAR_SPREAD  # which is far above what no spread leaves


def test_without_a_spread_new_records_differ_by_chance_alone() -> None:
    rng = np.random.default_rng(0)
    real = [record.measure(draw_points(draw_normal(CLASSES[KIND], rng), 450, rng)) for _ in range(300)]
    found = moments(redrawn(Statistics.of(real, "none"), 300, 450))
    assert found.mean(0)[:2] == pytest.approx(moments(real).mean(0)[:2], abs=0.05)
    assert found[:, :2].std(0).max() < 0.15 * MU_SPREAD
    assert found[:, 2:4].std(0).max() < 0.3 * LOG_VAR_SPREAD


def test_records_of_one_distribution_have_no_spread_left() -> None:
    rng = np.random.default_rng(0)
    one = draw_normal(CLASSES[KIND], rng)
    real = [record.measure(draw_points(one, 40, rng)) for _ in range(2000)]
    spread = np.sqrt((Statistics.of(real).root ** 2).sum(1))
    assert (spread[:4] < 0.35 * moments(real)[:, :4].std(0)).all()  # a tenth of the variance, for chance of its own


def test_the_axes_of_a_spread_are_kept_and_so_is_the_sign_of_a_correlation() -> None:
    base = {"sd_x": 2.0, "sd_y": 3.0, "hits": 10**6}
    real = [{"mu_x": float(i), "mu_y": -2.0 * i, "cov_xy": 3.0, **base} for i in range(-5, 6)]
    rng = np.random.default_rng(0)
    new = [Statistics.of(real).draw(rng) for _ in range(50)]
    for normal in new:
        assert normal.mean[1] == pytest.approx(-2 * normal.mean[0], abs=0.05)
        assert normal.cov == pytest.approx(np.array([[4, 3], [3, 9]]), rel=0.02)
    assert np.std([n.mean[0] for n in new]) == pytest.approx(np.std(range(-5, 6)), rel=0.3)


# what is written


def test_one_new_image_for_each_training_one_and_all_else_as_it_is(a_set: Path, tmp_path: Path) -> None:
    (a_set / "texts.csv").write_text("image,vlm\n")
    (a_set / "train.cache").write_bytes(b"paths of the old place")
    made = augment(a_set, tmp_path / "more")
    given, found, new = files(a_set), files(made), drawn(made)
    assert given.pop("train.cache")
    assert found == {**given, **new, PROOF: found[PROOF]}
    assert json.loads(found[PROOF]) == {"images": 20, "seed": 42, "spread": "between"}
    assert {Path(n).parts[0] for n in new} == {"train"}
    for end in (".png", ".json"):
        per_class = Counter(Path(n).parent.name for n in new if n.endswith(end))
        assert per_class == Counter(f.parent.name for f in (a_set / "train").glob(f"*/*{end}"))
    for image in (made / "train").glob(f"*/{PREFIX}*.png"):
        assert cv2.imread(str(image)).shape == (96, 96, 3)
        assert list(record.read(image)) == list(record.KEYS)
    assert len(set(new.values())) == 40


def test_numbers_of_hits_are_those_of_the_real_images(a_set: Path, tmp_path: Path) -> None:
    made = augment(a_set, tmp_path / "more")
    for kind in CLASSES:
        hits: dict[bool, list[float]] = {True: [], False: []}
        for image in (made / "train" / kind).glob("*.png"):
            hits[image.name.startswith(PREFIX)].append(record.read(image)["hits"])
        lost = np.sort(hits[False]) - np.sort(hits[True])  # those that fell outside the circle
        assert (lost >= 0).all()
        assert (lost <= 0.1 * np.sort(hits[False])).all()


def test_neither_val_nor_test_is_read(a_set: Path, tmp_path: Path) -> None:
    first = drawn(augment(a_set, tmp_path / "first"))
    for split in ("val", "test"):
        for file in (a_set / split).glob("*/*"):
            file.write_bytes(b"neither a picture nor a record")
    (a_set / "test" / "new_kind").mkdir()
    changed = augment(a_set, tmp_path / "changed")
    assert drawn(changed) == first
    shutil.rmtree(a_set / "val")
    shutil.rmtree(a_set / "test")
    assert drawn(augment(a_set, tmp_path / "alone")) == first
    image = next((a_set / "train" / "stretched").glob("*.png"))
    record.write(image, {**record.read(image), "mu_x": 3.0})
    assert drawn(augment(a_set, tmp_path / "other")) != first  # what is read does count


def test_seeds_and_numbers(a_set: Path, tmp_path: Path) -> None:
    same = drawn(augment(a_set, tmp_path / "a"))
    assert drawn(augment(a_set, tmp_path / "b")) == same
    assert not set(drawn(augment(a_set, tmp_path / "c", seed=7)).values()) & set(same.values())
    assert not set(drawn(augment(a_set, tmp_path / "d", spread="none")).values()) & set(same.values())
    fewer, more = drawn(augment(a_set, tmp_path / "e", add=7)), drawn(augment(a_set, tmp_path / "f", add=45))
    assert (len(fewer), len(more)) == (14, 90)
    assert fewer.items() <= same.items() <= more.items()


def test_records_of_ones_own(tmp_path: Path) -> None:
    """Without a covariance, with rings of their own and entries that hits do not tell."""
    for kind in ("a", "b"):
        (tmp_path / "own" / "train" / kind).mkdir(parents=True)
        for i in range(3):
            points = draw_sample(i, KIND)
            image = tmp_path / "own" / "train" / kind / f"{i}.bmp"
            cv2.imwrite(str(image), np.full((120, 150, 3), 255, np.uint8))
            values = record.measure(points, ("mu_x", "mu_y", "sd_x", "sd_y", "hits", "r0_5", "r5_20"))
            record.write(image, {"temperature": 20.5 + i, **values})
    made = augment(tmp_path / "own", tmp_path / "more")
    temperatures = []
    for image in sorted((made / "train" / "a").glob(f"{PREFIX}*.png")):
        values = record.read(image)
        assert list(values) == ["temperature", "mu_x", "mu_y", "sd_x", "sd_y", "hits", "r0_5", "r5_20"]
        assert values["r0_5"] + values["r5_20"] == values["hits"]
        assert cv2.imread(str(image)).shape == (120, 120, 3)
        temperatures.append(values["temperature"])
    assert sorted(temperatures) == [20.5, 21.5, 22.5]


# bad input


def change(**values: float | None) -> Callable[[Path], None]:
    """Return what changes the record of one training image; None takes an entry away."""

    def do(root: Path) -> None:
        image = min((root / "train" / "stretched").glob("*.png"))
        kept = {**record.read(image), **values}
        record.write(image, {k: v for k, v in kept.items() if v is not None})

    return do


def leave_one(root: Path) -> None:
    for image in sorted((root / "train" / "stretched").glob("*.png"))[1:]:
        image.unlink()


def far_away(root: Path) -> None:
    for image in (root / "train" / "stretched").glob("*.png"):
        record.write(image, {**record.read(image), "mu_x": 500.0})


def add_by_hand(root: Path) -> None:
    image = min((root / "train" / "stretched").glob("*.png"))
    shutil.copy(image, image.with_name(f"{PREFIX}00000.png"))


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("no set", shutil.rmtree, r"set: expected a classification set with train/CLASS/IMAGE, got no folder 'train'"),
    ("no train", lambda r: shutil.rmtree(r / "train"), r"set: expected .*, got no folder 'train'"),
    ("no class", lambda r: [shutil.rmtree(f) for f in (r / "train").iterdir()], "got no class in train"),
    ("no image", lambda r: (r / "train" / "odd").mkdir(), "class odd: expected training images, got none"),
    ("no records", lambda r: [f.unlink() for f in r.rglob("*.json")], r"\.png: expected a sidecar .*, got no hits_"),
    ("one image", leave_one, "class stretched: expected at least 2 training images.* got 1"),
    ("no moment", change(mu_y=None), "a record with mu_x, mu_y, sd_x, sd_y, hits, cov_xy, got no mu_y"),
    ("one without covariance", change(cov_xy=None), "got no cov_xy"),
    ("no width", change(sd_x=0), "sd_x: expected a number above 0, got 0"),
    ("part of a hit", change(hits=20.5), "hits: expected a whole number of at least 3, got 20.5"),
    ("two hits", change(hits=2), "hits: expected a whole number of at least 3, got 2"),
    ("covariance", change(sd_x=2, sd_y=2, cov_xy=-4), "cov_xy: expected less than sd_x sd_y, 4, .* got -4"),
    ("unit", far_away, "class stretched: expected records in a unit .* radius has 20, got 0 of"),
    (
        "picture",
        lambda r: [f.write_bytes(b"junk") for f in (r / "train").glob("*/*.png")],
        "hits_.*: expected a readable image",
    ),
    ("twice", add_by_hand, r"without images named tda_\*, for these are drawn, got tda_00000\.png"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_bad_sets_are_named_in_one_line_and_nothing_is_written(
    spoil: Callable[[Path], object], message: str, a_set: Path, tmp_path: Path
) -> None:
    spoil(a_set)
    with pytest.raises(DSMoEError, match=message) as caught:
        augment(a_set, tmp_path / "more")
    assert "\n" not in str(caught.value)
    assert {f.name for f in tmp_path.iterdir()} <= {"set"}


def test_a_class_of_one_image_will_do_without_a_spread(a_set: Path, tmp_path: Path) -> None:
    leave_one(a_set)
    made = augment(a_set, tmp_path / "more", spread="none")
    assert len(list((made / "train" / "stretched").glob(f"{PREFIX}*.png"))) == 1


def test_places_and_words_that_cannot_be(a_set: Path, tmp_path: Path) -> None:
    before = files(a_set)
    for out in (a_set, a_set / "train" / "more"):
        with pytest.raises(DSMoEError, match=r"^out: expected a folder outside of "):
            augment(a_set, out)
    for word, value in {"add": 0, "spread": "all"}.items():
        with pytest.raises(DSMoEError, match=f"^{word}: expected "):
            augment(a_set, tmp_path / "more", **{word: value})  # type: ignore[arg-type]
    (a_set / "val" / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DSMoEError, match=r"gone\.png: expected a file that can be copied, got .*No such file"):
        augment(a_set, tmp_path / "more")
    (a_set / "val" / "gone.png").unlink()
    assert files(a_set) == before
    assert {f.name for f in tmp_path.iterdir()} == {"set"}
