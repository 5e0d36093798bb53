"""``dsmoe-yolo text describe``: what it writes, what it passes over, what it refuses before it writes anything."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from hit_pictures import images_of, make_set

from ultra_dsmoe.commands import run
from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.text.sidecars import TextSource

NEEDS_OCR = pytest.mark.skipif(find_spec("rapidocr") is None, reason="the extra `ocr` is not installed")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_set(tmp_path / "hits")


def sidecars(root: Path) -> dict[str, dict[str, object]]:
    return {str(path.relative_to(root)): json.loads(path.read_text()) for path in sorted(root.rglob("*.json"))}


def describe(*words: str) -> int | None:
    return run(["text", "describe", *words])


def test_both_texts_are_written_and_the_record_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sidecars(root)
    assert describe(str(root)) == 0
    after = sidecars(root)
    assert before.keys() == after.keys()
    assert all(after[name]["record"] == content["record"] for name, content in before.items())
    assert all(set(content) == {"record", "vlm", "llm"} for content in after.values())
    assert capsys.readouterr().out.splitlines()[-1] == "rules: 18 of 18 images described"
    source = TextSource.named("rules")
    source.fit(images_of(root, "train"))
    for image in images_of(root, "val"):
        assert (
            after[str(image.with_suffix(".json").relative_to(root))]["vlm"]
            == source.provider.describe(_pixels(image), None)[0]
        ), "bounds are those of the training half"


def _pixels(image: Path) -> object:
    import cv2

    return cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)


def test_the_validation_half_changes_no_bound(root: Path) -> None:
    other = root.with_name("other")
    shutil.copytree(root, other)
    for image in images_of(other, "val")[:-1]:
        image.unlink()
        image.with_suffix(".json").unlink()
    describe(str(root))
    describe(str(other))
    kept = sidecars(other)
    assert kept == {name: content for name, content in sidecars(root).items() if name in kept}


def test_a_stopped_run_goes_on(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    fill = TextSource.fill

    def stop(self: TextSource, image: Path, *, overwrite: bool = False) -> bool:
        asked.append(image)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return fill(self, image, overwrite=overwrite)

    monkeypatch.setattr(TextSource, "fill", stop)
    with pytest.raises(KeyboardInterrupt):
        describe(str(root))
    monkeypatch.undo()
    assert describe(str(root)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "rules: 11 of 18 images described, 7 had both texts"
    first = sidecars(root)
    monkeypatch.setattr(TextSource, "fit", lambda self, images: pytest.fail("nothing is left to describe"))
    assert describe(str(root)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "rules: 0 of 18 images described, 18 had both texts"
    assert sidecars(root) == first


def test_texts_of_ones_own_stay_unless_they_are_to_go(root: Path) -> None:
    own = images_of(root, "train")[0].with_suffix(".json")
    own.write_text(json.dumps({**json.loads(own.read_text()), "vlm": "mine"}))
    describe(str(root), "split=train")
    assert json.loads(own.read_text())["vlm"] == "mine"
    assert all("vlm" not in content for name, content in sidecars(root).items() if name.startswith("val"))
    describe(str(root), "split=train,val", "overwrite=True")
    assert json.loads(own.read_text())["vlm"] != "mine"
    assert all("vlm" in content for content in sidecars(root).values())


def test_a_set_is_named_as_in_a_training(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import settings

    monkeypatch.setitem(settings, "datasets_dir", str(root.parent))
    monkeypatch.chdir(root)
    assert describe(root.name, "split=val") == 0
    assert all("vlm" in content for name, content in sidecars(root).items() if name.startswith("val"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["provider=rulse"], r"^provider: expected rules, .*did you mean 'rules'"),
        pytest.param(["provider=ocr"], r"expected a record, or a picture of it .*, got neither$", marks=NEEDS_OCR),
        (["split=test"], r"^data: expected a folder with images in test/<class>/, got "),
        (["split=tset"], r"^split: expected one of train, val, test.*did you mean 'test'"),
        (["overwrite=3"], r"^overwrite: expected true or false, got 3$"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(root: Path, words: list[str], message: str) -> None:
    for path in root.rglob("*.json"):
        path.unlink()
    with pytest.raises(DSMoEError, match=message) as caught:
        describe(str(root), *words)
    assert "\n" not in str(caught.value)
    assert not list(root.rglob("*.json"))


@pytest.mark.parametrize("content", ["", "val/spot", "train/spot"])
def test_other_folders_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "data" / content).mkdir(parents=True)
    with pytest.raises(DSMoEError, match=r"^data: expected a folder with images in train/<class>/, got "):
        describe(str(tmp_path / "data"))


def test_a_bad_sidecar_is_named_before_anything_is_written(root: Path) -> None:
    bad = images_of(root, "val")[-1].with_suffix(".json")
    bad.write_text("{")
    with pytest.raises(DSMoEError, match=rf"{bad.name}: expected a JSON file"):
        describe(str(root))
    assert not any("vlm" in path.read_text() for path in root.rglob("*.json"))


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("vlm:some/model", r"^provider: expected a model on this disk, or a network to fetch it, got vlm:some/model"),
        ("llm:some/model", r"^provider: expected a model on this disk, or a network to fetch it, got llm:some/model"),
        ("ocr:cnocr", r"^provider ocr: expected cnocr to be installed"),
    ],
)
def test_what_a_provider_needs_is_looked_for_before_any_file_is_read(
    root: Path, provider: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set may take hours to read, and the folder may hold anything: nothing of it is asked for before."""
    import sys

    monkeypatch.setitem(sys.modules, "cnocr", None)
    for path in root.rglob("*.json"):
        path.write_text("{")
    with pytest.raises(DSMoEError, match=message) as caught:
        describe(str(root), f"provider={provider}")
    assert "\n" not in str(caught.value)
    with pytest.raises(DSMoEError, match="expected a JSON file"):
        describe(str(root), "provider=rules")
