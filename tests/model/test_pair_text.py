"""Texts of images as numbers: fitted on the training half, the same from a checkpoint, controls, records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ultralytics.models.yolo.classify import ClassificationPredictor

from ultra_dsmoe.errors import ConfigError, DataError, TextError
from ultra_dsmoe.evaluate.pair_predictor import PairPredictor
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_state import entry_of, texts_of
from ultra_dsmoe.model.pair_text import PairText
from ultra_dsmoe.model.settings import in_force
from ultra_dsmoe.text import bank, encoders
from ultra_dsmoe.text.encoders import HashEncoder

SIDE = 24
RECORDS = [{"hits": 4, "mu": -1.0}, {"hits": 4, "mu": 1.0}, {"hits": 4, "mu": 3.0}]
TEXTS = [("a dark spot", "low"), ("a bright line", "low"), ("a dark spot", "high")]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return three images with texts and records beside them."""
    folder = tmp_path / "train" / "ok"
    folder.mkdir(parents=True)
    made = []
    for i, ((vlm, llm), record) in enumerate(zip(TEXTS, RECORDS, strict=True)):
        image = folder / f"{i}.png"
        cv2.imwrite(str(image), np.full((SIDE, SIDE, 3), 60 * i, np.uint8))
        image.with_suffix(".json").write_text(json.dumps({"vlm": vlm, "llm": llm, "record": record}))
        made.append(image)
    return made


class Sentences(HashEncoder):
    """Stands in for a sentence model: a hub's under its id, a folder's under its fingerprint."""

    def __init__(self, spec: str) -> None:
        super().__init__(32 if "other" not in spec else 16)
        self.spec = spec

    @property
    def id(self) -> str:
        return self.spec


HUB, FOLDER, OTHER = "sentence:me/mini", "sentence:mini@0123abcd", "sentence:other@0123abcd"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, bool]]:
    """Return what is asked for, as name and whether it may only be on this disk; a hub's must be fetched."""
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "cache"))
    asked: list[tuple[str, bool]] = []

    def make(spec: str, *, local_only: bool = False) -> Any:
        asked.append((spec, local_only))
        return Sentences(spec)

    monkeypatch.setattr(bank, "make_encoder", make)
    monkeypatch.setattr(encoders, "make_encoder", make)
    return asked


def net_of(texts: PairText) -> PairModel:
    net = PairModel("yolov8n-pfa-cls.yaml", nc=2, verbose=False)
    net.pair_text = json.loads(json.dumps(texts.state()))
    net.yaml["dsmoe"]["text_mode"] = "always"
    return net


def test_a_folder_is_known_to_be_the_hubs_model_by_one_sentence(files: list[Path], models: Any) -> None:
    texts = PairText.fit(files, encoder=HUB)
    net, wanted = net_of(texts), texts.encode(files).numbers
    own = net.text_state()
    for name in (FOLDER, HUB):
        models.clear()
        with in_force(net, {"dsmoe_text": name}):
            found = texts_of(net)
            assert found is not None
            (files[0].parent / "new.json").write_text(json.dumps({"vlm": f"seen by {name}", "llm": "new"}))
            cv2.imwrite(str(files[0].parent / "new.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
            found.encode([files[0].parent / "new.png"])
            assert (found.encode(files).numbers == wanted).all()
            assert "named" not in entry_of(net)
            assert name == HUB or name not in entry_of(net), "of this call alone"
        assert models[-1] == (name, False), "what the user names is asked for, and may be fetched"
        assert net.text_state() == own
    message = rf"^dsmoe_text: expected the encoder that .* trained on, {HUB}, got"
    with pytest.raises(ConfigError, match=message), in_force(net, {"dsmoe_text": OTHER}):
        pass
    assert net.text_state() == own


def test_a_name_reaches_a_predictor_that_was_made_before(
    files: list[Path], models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassificationPredictor, "setup_source", lambda self: None)
    predictor, net = PairPredictor.__new__(PairPredictor), net_of(PairText.fit(files, encoder=HUB))
    predictor.source_net, predictor.texts, predictor.model = net, texts_of(net), None
    with in_force(net, {"dsmoe_text": FOLDER}):
        predictor.setup_source()
        assert predictor.texts.named == FOLDER
    predictor.setup_source()
    assert predictor.texts.named is None


def test_a_checkpoint_from_before_says_what_to_do(files: list[Path], models: Any) -> None:
    net = net_of(PairText.fit(files, encoder=HUB))
    assert net.pair_text is not None
    del net.pair_text["probe"]
    message = rf"^dsmoe_text: expected the id {HUB}: this checkpoint keeps nothing to know a folder by"
    with pytest.raises(ConfigError, match=message) as e, in_force(net, {"dsmoe_text": FOLDER}):
        pass
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("encoder", ["hash:32", FOLDER])
def test_nothing_is_kept_of_an_encoder_whose_id_tells_its_content(files: list[Path], models: Any, encoder: str) -> None:
    assert "probe" not in PairText.fit(files, encoder=encoder).state()


def fit(files: list[Path], **options: Any) -> PairText:
    return PairText.fit(files, encoder="hash:32", **options)


def test_both_vectors_follow_each_other_and_equal_texts_are_known(files: list[Path]) -> None:
    texts = fit(files)
    numbers, groups = texts.encode(files)
    assert (texts.width, texts.size, numbers.shape, numbers.dtype) == (32, 64, (3, 64), np.float32)
    assert np.linalg.norm(numbers.reshape(3, 2, 32), axis=2) == pytest.approx(np.ones((3, 2)))
    assert (numbers[0, :32] == numbers[2, :32]).all()
    assert (numbers[0, 32:] == numbers[1, 32:]).all()
    assert groups[0, 0] == groups[2, 0] != groups[1, 0]
    assert groups[0, 1] == groups[1, 1] != groups[2, 1]


def test_numbers_of_the_record_are_standardised_and_constants_left_out(files: list[Path]) -> None:
    texts = fit(files, numbers=True)
    assert (texts.keys, texts.size) == (["mu"], 65)
    assert texts.encode(files).numbers[:, 64].tolist() == pytest.approx([-2 / 1.633, 0, 2 / 1.633], abs=1e-3)


def test_a_checkpoint_gives_the_same_numbers(files: list[Path]) -> None:
    texts = fit(files, numbers=True)
    state = json.loads(json.dumps(texts.state()))
    again = PairText.from_state(state)
    assert (again.encode(files).numbers == texts.encode(files).numbers).all()


def test_images_without_files_are_described(files: list[Path]) -> None:
    texts = fit(files)
    numbers = texts.describe(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert numbers.shape == (64,)
    assert np.isfinite(numbers).all()


def test_controls_take_the_meaning_away(files: list[Path]) -> None:
    true = fit(files, numbers=True).encode(files)
    shuffled = fit(files, numbers=True, control="shuffled").encode(files)
    assert sorted(map(tuple, shuffled.numbers)) == sorted(map(tuple, true.numbers))
    assert not (shuffled.numbers == true.numbers).all()
    for control in ("constant", "zero"):
        numbers, groups = fit(files, numbers=True, control=control).encode(files)
        assert (numbers == numbers[0]).all()
        assert (groups == groups[0]).all()
        assert bool(numbers.any()) == (control == "constant")


def test_a_record_without_a_number_is_one_line(files: list[Path]) -> None:
    texts = fit(files, numbers=True)
    files[1].with_suffix(".json").write_text(json.dumps({"vlm": "a", "llm": "b", "record": {"hits": 3}}))
    with pytest.raises(DataError, match=r"record of .*1\.png: expected the number mu, as in training, got \['hits'\]"):
        texts.encode(files)


def test_records_without_a_common_number_are_one_line(files: list[Path]) -> None:
    files[1].with_suffix(".json").write_text(json.dumps({"vlm": "a", "llm": "b"}))
    with pytest.raises(DataError, match=r"records: expected numbers that every training image has"):
        fit(files, numbers=True)


@pytest.mark.parametrize("state", [{}, {"source": 3}, "text", None])
def test_a_state_that_is_none_is_one_line(state: Any) -> None:
    with pytest.raises(TextError, match="texts of the model: expected what a training of this package wrote"):
        PairText.from_state(state)


def test_an_encoder_of_another_width_is_one_line(files: list[Path]) -> None:
    texts = fit(files)
    texts.width = 16
    with pytest.raises(TextError, match="dsmoe_text: expected vectors of 16 numbers, as in training, got 32"):
        texts.encode(files)
