"""Vectors of sentences: in order, each once, kept; a warning where two are one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import HashEncoder, bank, cache
from ultra_dsmoe.text.sentences import encode_sentences


class Lengths:
    """Encoder of two numbers per text that keeps what it is asked."""

    id = "sentence:lengths"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[len(t), 10.0] for t in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter(()))
    monkeypatch.setattr(cache, "packaged_folders", lambda: [tmp_path / "shipped"])


def test_vectors_are_in_order_and_each_sentence_is_encoded_once() -> None:
    encoder = Lengths()
    texts = ["ccc", "a", "ccc", "bb", "a"]
    name, vectors = encode_sentences(texts, encoder)
    assert name == "sentence:lengths"
    assert sorted(encoder.asked) == ["a", "bb", "ccc"]
    expected = np.array([[len(t), 10.0] for t in texts])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert vectors.dtype == np.float32


def test_vectors_are_kept_in_whatever_order() -> None:
    encoder = Lengths()
    _, first = encode_sentences(["a", "bb"], encoder)
    _, second = encode_sentences(["bb", "a", "a"], encoder)
    assert len(encoder.asked) == 2
    np.testing.assert_array_equal(second, first[[1, 0, 0]])


def test_auto_is_hash_on_a_bare_machine_and_gives_its_vectors() -> None:
    name, vectors = encode_sentences(["a dot", "a line"])
    assert name == "hash"
    np.testing.assert_allclose(vectors, HashEncoder().encode(["a dot", "a line"]), atol=1e-6)


def test_one_vector_for_different_sentences_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ultra_dsmoe.text"):
        encode_sentences(["aa", "bb", "ccc"], Lengths())
    assert "gives 1 of 3 different sentences the vector of another one, such as 'aa' and 'bb'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ultra_dsmoe.text"):
        encode_sentences(["a", "bb"], Lengths())
        encode_sentences(["a", "bb"], "zero:8")  # a control, which does so on purpose
    assert not caplog.records


@pytest.mark.parametrize("texts", [[], ["a", " "], "a text", ["a", 3]])
def test_what_no_encoder_reads_is_one_line(texts: list[str]) -> None:
    with pytest.raises(TextError, match=r"^encode: expected a list of at least one text, none of them empty, got "):
        encode_sentences(texts)
