"""The hash encoder and the choice of an encoder by name."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import CausalLMEncoder, HashEncoder, TextEncoder, make_encoder


def test_shape_type_and_length() -> None:
    vectors = HashEncoder().encode(["a photo of a spur defect", "x", "!?", "缺陷"])
    assert vectors.shape == (4, 1536)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_value_by_hand() -> None:
    """One word of three letters: the word itself and the 3-grams <sp, spu, pur, ur>; the sign is the lowest bit."""
    expected = np.zeros(1536)
    for feature in ("spur", "<sp", "spu", "pur", "ur>"):
        digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
        expected[(digest >> 1) % 1536] += 1 if digest % 2 else -1
    np.testing.assert_allclose(HashEncoder().encode(["spur"])[0], expected / np.linalg.norm(expected), atol=1e-7)


def test_spelling_decides() -> None:
    spur, spurs, case, other = HashEncoder().encode(["spur", "spurs", "SPUR_", "crack"])
    assert spur @ spurs > 0.5
    assert spur @ case == pytest.approx(1)
    assert abs(spur @ other) < 0.3


def test_every_process_gives_the_same_vectors() -> None:
    """Python's own hash of text differs from process to process; ours must not."""
    code = (
        "import sys; from ultra_dsmoe.text.encoders import HashEncoder;"
        "sys.stdout.write(HashEncoder().encode(['a thin spike', 'Ölfleck']).tobytes().hex())"
    )
    out = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert out == {HashEncoder().encode(["a thin spike", "Ölfleck"]).tobytes().hex()}


def test_cancelled_features_still_give_a_direction() -> None:
    vectors = HashEncoder(1).encode([f"w{i}" for i in range(50)])  # in one dimension half of the sums cancel
    np.testing.assert_allclose(np.abs(vectors), 1)


@pytest.mark.parametrize("texts", [[], "spur", ["a", ""], ["a", " \n"], ["a", None], [1]])
def test_wrong_texts(texts: object) -> None:
    with pytest.raises(TextError, match="at least one text, none of them empty"):
        HashEncoder().encode(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [0, -3, 1.5, "8"])
def test_wrong_width(dim: object) -> None:
    with pytest.raises(TextError, match="HashEncoder dim"):
        HashEncoder(dim)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["hash", " hash ", "hash:64"])
def test_hash_by_name_and_back_by_its_id(spec: str) -> None:
    encoder = make_encoder(spec)
    assert isinstance(encoder, HashEncoder)
    assert isinstance(encoder, TextEncoder)
    again = make_encoder(encoder.id)
    np.testing.assert_array_equal(encoder.encode(["spur"]), again.encode(["spur"]))


def test_language_model_without_a_name_is_the_papers_and_never_fetched() -> None:
    encoder = make_encoder("causal-lm")
    assert isinstance(encoder, CausalLMEncoder)
    assert encoder.id == "causal-lm:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert encoder.local_only
    named = make_encoder("causal-lm:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B#bf16")
    assert isinstance(named, CausalLMEncoder)
    assert (named.dtype, named.local_only) == ("bfloat16", False)
    assert named.id.endswith("#bf16")


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("", "expected auto, hash, sentence:"),
        ("Hash!", r"got 'Hash!' \(did you mean 'hash'\?\)"),
        ("sentense:x", r"did you mean 'sentence'"),
        ("sentence", "expected auto, hash, sentence:"),
        ("sentence:", "expected auto, hash, sentence:"),
        ("sentence:x#bf16", "expected auto, hash, sentence:"),
        ("auto:x", "expected auto, hash, sentence:"),
        ("hash:abc", "expected auto, hash, sentence:"),
        ("hash:0", "an integer of at least 1"),
        ("sentence:./nope", r"an existing folder or a model id, got './nope'"),
        ("causal-lm:/nope/model", r"an existing folder or a model id"),
        ("causal-lm:C:\\nope", r"an existing folder or a model id"),
        ("sentence:a b", r"an existing folder or a model id"),
        ("sentence:x@01234567", r"the model 'x' with fingerprint 01234567 on this disk"),
        (None, "expected auto, hash, sentence:"),
        (3, "got 3"),
    ],
)
def test_wrong_names_are_one_line(spec: object, match: str) -> None:
    with pytest.raises(TextError, match=match) as caught:
        make_encoder(spec)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_making_an_encoder_loads_nothing() -> None:
    code = (
        "import sys; from ultra_dsmoe.text import make_encoder; make_encoder('causal-lm'); make_encoder('auto');"
        "print([m for m in ('transformers', 'sentence_transformers', 'geoopt') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
