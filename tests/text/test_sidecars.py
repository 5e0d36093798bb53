"""Where the texts of an image come from: beside it first, else from a provider, asked once; never from its class."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hit_pictures import draw, images_of, make_set, scatter, write_image

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.providers import Record, TextProvider
from ultra_dsmoe.text.sidecars import ImageText, TextSource


class Counting:
    """Describer that counts what it is asked, and says how bright the picture is and what is recorded."""

    def __init__(self, name: str = "counting") -> None:
        self.id, self.calls, self.fitted = name, 0, 0

    def fit(self, images: Iterable[np.ndarray], records: Sequence[Record | None]) -> None:
        self.fitted = sum(1 for _ in images)
        assert len(records) == self.fitted

    def describe(self, text: str, image: np.ndarray, record: Record | None) -> str:
        self.calls += 1
        return f"{text} {image.mean():.3f} {record and sorted(record.items())}"

    def state(self) -> dict[str, Any]:
        return {"fitted": self.fitted}


class Card:
    """Reader that finds the mean of a picture."""

    id = "card"

    def __init__(self) -> None:
        self.calls = 0

    def read(self, image: np.ndarray) -> dict[str, float]:
        self.calls += 1
        if image.mean() < 1:
            raise DataError("card", "numbers", "nothing")
        return {"mean": float(image.mean())}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "cache"))


def counting() -> tuple[Counting, TextSource]:
    one = Counting()
    return one, TextSource(TextProvider(one, one))


GREY = np.full((8, 8, 3), 100, np.uint8)


def test_the_sidecar_comes_first_then_the_table_then_the_provider(tmp_path: Path) -> None:
    image = write_image(tmp_path / "train" / "a" / "x.png", GREY, {"llm": "beside"})
    (tmp_path / "texts.csv").write_text("image,vlm,llm,hits\ntrain/a/x.png,,in the table,3\n")
    one, source = counting()
    assert source.read([image]) == [ImageText("vlm 100.000 [('hits', 3.0)]", "beside", {"hits": 3.0})]
    assert one.calls == 1, "only what lacks is asked for"


def test_both_texts_beside_need_neither_provider_nor_image(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"vlm": "a", "llm": "b"}')
    source = TextSource.named("rules")
    assert source.read([tmp_path / "x.png"]) == [ImageText("a", "b", None)]


def test_an_answer_is_kept_by_content(tmp_path: Path) -> None:
    image = write_image(tmp_path / "x.png", GREY, {"record": {"hits": 3}})
    one, source = counting()
    first = source.read([image])
    copy = tmp_path / "elsewhere" / "y.png"
    copy.parent.mkdir()
    shutil.copy(image, copy)
    shutil.copy(image.with_suffix(".json"), copy.with_suffix(".json"))
    assert TextSource(TextProvider(one, one)).read([copy]) == first
    assert one.calls == 2, "the same pixels and record, wherever they lie"
    copy.with_suffix(".json").write_text('{"record": {"hits": 4}}')
    TextSource(TextProvider(one, one)).read([copy])
    assert one.calls == 4, "another record"
    write_image(image, GREY + np.uint8(1))
    source.read([image])
    assert one.calls == 6, "another picture"
    source.fit([image])
    source.read([image])
    assert one.calls == 8, "another state"
    other = Counting("other")
    TextSource(TextProvider(other, one)).read([image])
    assert (other.calls, one.calls) == (1, 8), "another provider of one text, the other text is kept"


def test_order_is_that_of_the_images(tmp_path: Path) -> None:
    images = [write_image(tmp_path / f"{i}.png", np.full((4, 4, 3), i, np.uint8)) for i in (3, 1, 2)]
    _, source = counting()
    assert [said.vlm for said in source.read(images)] == [f"vlm {i}.000 None" for i in (3, 1, 2)]


def test_records_are_read_off_pictures_once(tmp_path: Path) -> None:
    image = write_image(tmp_path / "x.png", GREY, {"record_image": "card.png"})
    write_image(tmp_path / "card.png", np.full((8, 8, 3), 40, np.uint8))
    one, card = Counting(), Card()
    source = TextSource(TextProvider(one, one, card))
    source.fit([image])
    assert source.read([image])[0].record == {"mean": 40.0}
    assert TextSource(TextProvider(one, one, card)).read([image])[0].record == {"mean": 40.0}
    assert card.calls == 1
    write_image(tmp_path / "card.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"card.png: card: expected numbers, got nothing$"):
        source.read([image])
    image.with_suffix(".json").write_text('{"record": {"mean": 1}}')
    assert source.read([image])[0].record == {"mean": 1.0}, "a record beside it comes first"
    assert card.calls == 2


def test_what_the_source_cannot_supply_is_one_line(tmp_path: Path) -> None:
    image = write_image(tmp_path / "x.png", GREY)
    one = Counting()
    with pytest.raises(DataError, match=r"x.png: expected a record, or a picture of it .*, got neither$"):
        TextSource(TextProvider(one, one, Card())).read([image])
    with pytest.raises(TextError, match=r"^rules: expected bounds of a training half"):
        TextSource.named().read([image])
    source = TextSource.named()
    root = make_set(tmp_path / "set")
    source.fit(images_of(root, "train"))
    image.with_suffix(".json").write_text('{"record": {"temperature": 3}}')
    with pytest.raises(DataError, match=r"x.png: record: expected some of .*, got temperature$"):
        source.read([image])
    (tmp_path / "y.png").write_text("no image")
    with pytest.raises(DataError, match=r"y.png: expected an image that can be read"):
        source.read([tmp_path / "y.png"])


def test_images_without_a_file(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    source = TextSource.named()
    source.fit(images_of(root, "train"))
    image = images_of(root, "val")[0]
    said = source.read([image])[0]
    points = scatter(0)
    assert source.describe(draw(points), said.record).llm == said.llm
    assert source.describe(draw(points), None).llm.startswith("Measured")
    for bad in (
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(DataError, match=r"^image: expected RGB uint8 \[H, W, 3\], got "):
            source.describe(bad, None)
    with pytest.raises(DataError, match=r"^record hits: expected a finite number, got many$"):
        source.describe(GREY, {"hits": "many"})  # type: ignore[dict-item]


def test_state_gives_equal_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_set(tmp_path / "set")
    source = TextSource.named()
    source.fit(images_of(root, "train"))
    said = source.read(images_of(root, "val"))
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "empty"))
    assert TextSource.from_state(json.loads(json.dumps(source.state()))).read(images_of(root, "val")) == said


def test_filling_keeps_what_is_there(tmp_path: Path) -> None:
    image = write_image(tmp_path / "x.png", GREY, {"record": {"hits": 3}, "llm": "mine", "shapes": [1]})
    one, source = counting()
    assert source.fill(image)
    content = json.loads(image.with_suffix(".json").read_text())
    assert content == {"record": {"hits": 3}, "llm": "mine", "shapes": [1], "vlm": "vlm 100.000 [('hits', 3.0)]"}
    assert not source.fill(image)
    assert one.calls == 1
    assert source.fill(image, overwrite=True)
    assert json.loads(image.with_suffix(".json").read_text())["llm"] == "llm 100.000 [('hits', 3.0)]"
    bare = write_image(tmp_path / "y.png", GREY)
    assert source.fill(bare)
    assert set(json.loads(bare.with_suffix(".json").read_text())) == {"vlm", "llm"}


def test_filling_keeps_a_record_that_was_read(tmp_path: Path) -> None:
    image = write_image(tmp_path / "x.png", GREY, {"record_image": "card.png"})
    write_image(tmp_path / "card.png", GREY)
    one = Counting()
    TextSource(TextProvider(one, one, Card())).fill(image)
    assert json.loads(image.with_suffix(".json").read_text())["record"] == {"mean": 100.0}


def test_class_folders_change_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images under other names, in folders that say something else: the same texts."""
    one, other = make_set(tmp_path / "one"), tmp_path / "other"
    for split in ("train", "val"):
        for i, image in enumerate(images_of(one, split)):
            place = other / split / ("wide", "left", "scratch")[i % 3] / f"{split}{99 - i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, place)
            shutil.copy(image.with_suffix(".json"), place.with_suffix(".json"))

    def said(root: Path, cache: str) -> dict[bytes, ImageText]:
        monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / cache))  # each asks its provider anew
        source = TextSource.named("rules")
        source.fit(images_of(root, "train"))
        images = images_of(root, "val") + images_of(root, "train")
        return {path.read_bytes(): text for path, text in zip(images, source.read(images), strict=True)}

    first = said(one, "first")
    assert said(other, "second") == first
    assert len({text.vlm for text in first.values()}) > 6
