"""The text bank: order of `auto`, averaging of prompts, checks, state."""

from __future__ import annotations

import logging
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import HashEncoder, TextBank, bank, cache, encode_bank, pool_prompts

NAMES = {0: "spur", 1: "short"}
PROMPTS = {"spur": ["a thin spike", "a thorn"]}


class Counting:
    """Encoder of two numbers per text that counts its calls: length, less 30, and number of words."""

    def __init__(self, name: str = "sentence:counting", value: float | None = None) -> None:
        self.id, self.value, self.calls = name, value, 0

    def encode(self, texts: list[str]) -> np.ndarray:
        self.calls += 1
        rows = [[self.value, 1.0] if self.value is not None else [len(t) - 30, len(t.split())] for t in texts]
        return np.array(rows, dtype=np.float32)


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model on the disk, nothing kept, nothing shipped, no network."""
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter(()))
    monkeypatch.setattr(cache, "packaged_folders", lambda: [tmp_path / "shipped"])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_parts_of_a_bank() -> None:
    made = encode_bank(NAMES, PROMPTS, encoder="hash")
    assert made.names == ("spur", "short")
    assert made.prompts == (
        ("a photo of a spur defect: a thin spike", "a photo of a spur defect: a thorn"),
        ("a photo of a short defect",),
    )
    assert (made.encoder, made.dim) == ("hash", 1536)
    assert made.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-6)
    assert made.key == cache.content_key(made.prompts, "hash")


def test_prompts_are_normalised_before_and_after_the_mean() -> None:
    class Plane:
        id = "plane"

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([[10.0, 0.0], [0.0, 0.1], [3.0, 4.0]], dtype=np.float32)

    half = np.sqrt(0.5)  # the long vector does not outweigh the short one
    np.testing.assert_allclose(pool_prompts(Plane(), [["a", "b"], ["c"]]), [[half, half], [0.6, 0.8]], atol=1e-6)


def test_single_prompts_are_kept_beside_their_mean(tmp_path: Path) -> None:
    encoder = Counting()
    whole, single = (encode_bank(NAMES, PROMPTS, encoder, tmp_path, each=each) for each in (False, True))
    assert whole.each is None
    np.testing.assert_allclose(single.vectors, whole.vectors, atol=1e-6)
    assert (single, single.key) == (whole, whole.key)
    rows = encoder.encode([t for texts in single.prompts for t in texts])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(single.each, [rows[:2], [rows[2], [0, 0]]], atol=1e-6)
    before = encoder.calls
    encode_bank(NAMES, PROMPTS, encoder, tmp_path, each=True)  # from what is kept
    assert encoder.calls == before
    again = TextBank.from_state(single.state())
    np.testing.assert_array_equal(again.each, single.each)
    assert TextBank.from_state(whole.state()).each is None
    with pytest.raises(TextError, match=r"vectors of single prompts of shape \[2, 2, 2\], got \[2, 1, 2\]"):
        TextBank(single.names, single.prompts, "x", single.vectors, "0", single.each[:, :1])


def test_class_order_follows_names() -> None:
    one = encode_bank({0: "spur", 1: "short"}, PROMPTS, encoder="hash")
    two = encode_bank({1: "spur", 0: "short"}, PROMPTS, encoder="hash")
    np.testing.assert_array_equal(one.vectors, two.vectors[::-1])


def test_vectors_are_encoded_once(tmp_path: Path) -> None:
    encoder = Counting()
    first, second = (encode_bank(NAMES, PROMPTS, encoder, tmp_path) for _ in range(2))
    assert encoder.calls == 1
    assert first == second
    np.testing.assert_array_equal(first.vectors, second.vectors)
    encode_bank(NAMES, {"spur": "a thin spike"}, encoder, tmp_path)
    assert encoder.calls == 2


def test_a_damaged_file_is_rewritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Counting()
    made = encode_bank(NAMES, PROMPTS, encoder, tmp_path)
    file = tmp_path / f"{made.key}.npz"
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(encode_bank(NAMES, PROMPTS, encoder, tmp_path).vectors, made.vectors)
    assert "ignoring the damaged file" in caplog.text
    assert encoder.calls == 2
    assert cache.load(tmp_path, made.prompts, encoder.id) is not None


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert encode_bank(NAMES, None, Counting(), blocked / "x").dim == 2
    assert "not kept" in caplog.text


def test_auto_takes_hash_with_one_warning_and_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = encode_bank(NAMES, PROMPTS)
    assert made.encoder == "hash"
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "taking the hash encoder" in caplog.text
    assert "dsmoe_text=sentence:" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_auto_takes_a_model_on_this_disk(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Counting):
        def encode(self, texts: list[str]) -> np.ndarray:
            raise TextError("text encoder causal-lm:x", "a complete model on this disk", "half of one")

    good = Counting()
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter([Broken("causal-lm:x"), good]))
    assert encode_bank(NAMES, PROMPTS).encoder == good.id
    assert "trying the next encoder" in caplog.text
    assert encode_bank(NAMES, PROMPTS).encoder == good.id  # kept now
    assert good.calls == 1


def test_auto_prefers_kept_vectors_of_the_better_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = Counting("sentence:local")
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter([local]))
    texts = encode_bank(NAMES, PROMPTS, "hash").prompts
    cache.save(tmp_path / "shipped", texts, "sentence:shipped", np.eye(2, dtype=np.float32))
    assert encode_bank(NAMES, PROMPTS).encoder == "sentence:shipped"
    encode_bank(NAMES, PROMPTS, Counting("sentence:own"))
    assert encode_bank(NAMES, PROMPTS).encoder == "sentence:own"  # the user's before the shipped
    cache.save(tmp_path / "shipped", texts, "causal-lm:shipped", np.eye(2, 3, dtype=np.float32))
    assert encode_bank(NAMES, PROMPTS).encoder == "causal-lm:shipped"
    assert encode_bank(NAMES, {"spur": "other words"}).encoder == "sentence:local"  # exactly these prompts only
    assert local.calls == 1


CHINESE = {0: "划痕", 1: "凹坑", 2: "裂纹"}


class Blind(Counting):
    """An encoder that has not one word of the texts: all of them are the same to it."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 4), dtype=np.float32)


def test_auto_passes_over_what_gives_different_texts_one_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kept vectors too: an earlier version has kept such ones."""
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter([Blind("sentence:blind"), Counting()]))
    cache.save(tmp_path / "shipped", encode_bank(NAMES, encoder="hash").prompts, "sentence:old", np.ones((2, 2), "f4"))
    assert encode_bank(NAMES).encoder == "sentence:counting"
    assert "sentence:blind gives different texts one vector; trying the next encoder" in caplog.text


def test_auto_takes_no_english_model_for_other_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: asked.append(foreign) or iter(()))
    texts = encode_bank(CHINESE, encoder="hash").prompts
    english = "sentence:all-MiniLM-L6-v2@01234567"
    cache.save(tmp_path / "shipped", texts, english, np.eye(3, dtype=np.float32))
    made = encode_bank(CHINESE)
    assert (made.encoder, asked) == ("hash", [True])
    assert "no language model on this disk that reads the script of these prompts" in caplog.text
    assert np.triu(made.vectors @ made.vectors.T, 1).max() < 0.9
    cache.save(tmp_path / "shipped", texts, "sentence:own@01234567", np.eye(3, dtype=np.float32))
    assert encode_bank(CHINESE).encoder == "sentence:own@01234567"


def test_one_vector_for_different_texts_is_an_error_that_names_the_classes() -> None:
    with pytest.raises(TextError, match=r"sentence:blind tells apart .*or take dsmoe_text=hash") as caught:
        encode_bank(CHINESE, encoder=Blind("sentence:blind"))
    assert str(caught.value).endswith("got one vector for '划痕' and '凹坑', '划痕' and '裂纹', '凹坑' and '裂纹'")
    with pytest.raises(TextError, match=r"hash tells apart \(describe them in words that it knows\)"):
        encode_bank(["C+", "C-"], encoder="hash")
    assert len(encode_bank(CHINESE, encoder=Blind("sentence:blind"), check_separation=False).names) == 3
    assert len(encode_bank(CHINESE, encoder="zero").names) == 3  # a control gives one vector on purpose


def test_a_text_given_twice_is_meant_to_be_one(caplog: pytest.LogCaptureFixture) -> None:
    made = encode_bank(["pin hole", "pin_hole", "spur"], encoder="hash")
    assert made.prompts[0] == made.prompts[1]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "nearly one: 'pin hole' and 'pin_hole' (cosine 1.000, limit 0.9)" in record.getMessage()


def test_close_classes_are_named_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Given(Counting):
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([[1, 0], [0.95, 0.31], [0.9, 0.44], [0, 1], [0.99, 0.14]][: len(texts)], np.float32)

    encode_bank(list("abcd"), encoder=Given("sentence:given"))
    (record,) = caplog.records
    assert "nearly one: 'b' and 'c', 'a' and 'b' (cosine 0.990, limit 0.9)" in record.getMessage()
    caplog.clear()
    encode_bank(list("abcde"), encoder=Given("sentence:given"))
    assert "and 2 more pairs (cosine 0.990" in caplog.records[0].getMessage()
    caplog.clear()
    encode_bank(NAMES, PROMPTS, "hash")
    assert not caplog.records


def test_what_a_checkpoint_names_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # any try to reach the network fails the test
    for spec in ("causal-lm:no-owner/no-such-model", "sentence:no-such-model", "sentence:x@01234567"):
        with pytest.raises(
            TextError, match=r"or the encoder named by you in dsmoe_text=: its id, .* its folder"
        ) as caught:
            encode_bank(NAMES, PROMPTS, spec, local_only=True)
        assert "\n" not in str(caught.value)


def test_auto_never_takes_kept_hash_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = encode_bank(NAMES, PROMPTS, "hash").prompts
    cache.save(tmp_path / "shipped", texts, "hash:64", HashEncoder(64).encode(["a", "b"]))
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter([Counting()]))
    assert encode_bank(NAMES, PROMPTS).encoder == "sentence:counting"


def test_a_checkpoints_encoder_needs_no_model_where_vectors_are_kept(tmp_path: Path) -> None:
    name = "sentence:gone@01234567"
    kept = encode_bank(NAMES, PROMPTS, Counting(name), tmp_path)
    np.testing.assert_array_equal(encode_bank(NAMES, PROMPTS, name, tmp_path).vectors, kept.vectors)
    with pytest.raises(TextError, match="fingerprint 01234567 on this disk, got none"):
        encode_bank(NAMES, {"spur": "other words"}, name, tmp_path)


def test_rewording_keeps_the_other_classes_word_for_word() -> None:
    old = encode_bank(NAMES, {"spur": "x {name} y", "short": "a bridge"}, "hash")
    new = encode_bank(NAMES, {"short": "a blob"}, "hash", keep=old.prompts)
    assert new.prompts == (("x spur y",), ("a photo of a short defect: a blob",))
    np.testing.assert_array_equal(new.vectors[0], old.vectors[0])
    assert np.abs(new.vectors[1] - old.vectors[1]).max() > 0.01
    assert new.key != old.key
    with pytest.raises(TextError, match="keep: expected prompts of 2 classes, got 1"):
        encode_bank(NAMES, None, "hash", keep=old.prompts[:1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_unusable_vectors_of_an_encoder(value: float, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="text encoder sentence:counting: expected finite vectors"):
        encode_bank(NAMES, PROMPTS, Counting(value=value), tmp_path)
    assert list(tmp_path.glob("*.npz")) == []


def test_vectors_without_direction_and_of_the_wrong_shape() -> None:
    class Fixed(Counting):
        rows: object = [[0.0, 0.0]] * 3

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array(self.rows, dtype=np.float32)

    with pytest.raises(TextError, match="a zero vector in row 0"):
        pool_prompts(Fixed(), [["a", "b"], ["c"]])
    Fixed.rows = [[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]
    with pytest.raises(TextError, match=r"mean of a class.*a zero vector in row 0"):
        pool_prompts(Fixed(), [["a", "b"], ["c"]])
    Fixed.rows = [[1.0, 0.0]]
    with pytest.raises(TextError, match=r"shape \[3, d\], got float32 \[1, 2\]"):
        pool_prompts(Fixed(), [["a", "b"], ["c"]])


@pytest.mark.parametrize("encoder", [5, None, object(), ["hash"]])
def test_something_else_than_an_encoder(encoder: object) -> None:
    with pytest.raises(TextError, match="encoder: expected an encoder's name"):
        encode_bank(NAMES, None, encoder)  # type: ignore[arg-type]


def test_state_survives_a_weights_only_checkpoint(tmp_path: Path) -> None:
    made = encode_bank(NAMES, PROMPTS, "hash")
    torch.save(made.state(), tmp_path / "bank.pt")
    again = TextBank.from_state(torch.load(tmp_path / "bank.pt", weights_only=True))
    assert again == made
    np.testing.assert_array_equal(again.vectors, made.vectors)
    assert pickle.loads(pickle.dumps(made)) == made


def test_wrong_banks() -> None:
    made = encode_bank(NAMES, PROMPTS, "hash")
    state = made.state()
    with pytest.raises(TextError, match="got no key"):
        TextBank.from_state({k: v for k, v in state.items() if k != "key"})
    with pytest.raises(TextError, match="finite vectors, got NaN or infinity in row 1"):
        TextBank.from_state({**state, "vectors": torch.tensor([[1.0], [float("nan")]])})
    with pytest.raises(TextError, match=r"shape \[2, d\]"):
        TextBank.from_state({**state, "vectors": state["vectors"][:1]})
    with pytest.raises(TextError, match="prompts of 2 classes, got 1"):
        TextBank.from_state({**state, "prompts": state["prompts"][:1]})
    with pytest.raises(TextError, match="at least one class"):
        TextBank.from_state({**state, "names": []})
