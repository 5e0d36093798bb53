"""The hash encoder and the choice of an encoder by name."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ultralytics.utils import IterableSimpleNamespace

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import CausalLMEncoder, HashEncoder, TextEncoder, encode_bank, make_encoder
from ultra_dsmoe.text.encoders import RandomEncoder
from ultra_dsmoe.text.prompts import class_prompts

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


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


def by_words(text: str) -> np.ndarray:
    """Words and 3-grams alone, written anew: what vectors of Latin texts have always been."""
    row = np.zeros(1536, dtype=np.float32)
    folded = unicodedata.normalize("NFKC", text).casefold()
    for word in re.findall(r"[^\W_]+", folded):
        for feature in (word, *(f"<{word}>"[i : i + 3] for i in range(len(word)))):
            digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
            row[(digest >> 1) % 1536] += 1 if digest % 2 else -1
    return row / np.linalg.norm(row)


LATIN = [
    "a ±5 µm deep – “round” hole (Ø 3°), 10² × 5 ½",
    "Ölfleck, naïve façade, şerit, vết xước, łuska",
    "C++ & C# → ≥ 5 €",
]
ALPHABETS = ["царапина на стали", "ρωγμή στο μέταλλο", "خدش على المعدن", "שריטה", "երկար գիծ"]


@pytest.mark.parametrize("text", [*LATIN, *ALPHABETS])
def test_vectors_of_alphabets_are_those_on_which_checkpoints_rest(text: str) -> None:
    """To the bit; so are those of all packaged prompts."""
    np.testing.assert_array_equal(HashEncoder().encode([text])[0], by_words(text))


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_vectors_of_packaged_prompts_stay(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    texts = [text for texts in class_prompts(content["names"], content.get("prompts")) for text in texts]
    np.testing.assert_array_equal(HashEncoder().encode(texts), np.stack([by_words(text) for text in texts]))


@pytest.mark.parametrize(
    "names",
    [
        ["划痕", "凹坑", "裂纹"],
        ["裂", "孔", "点"],
        ["キズ", "へこみ", "割れ"],
        ["스크래치", "찍힘", "균열"],
        ["царапина", "вмятина", "трещина"],
        ["خدش", "انبعاج", "شق"],
        ["🔥", "💧", "⚡"],
        ["दरार", "खरोंच", "गड्ढा"],
        ["कि", "कु", "के"],  # told apart by their vowel marks alone
        ["กา", "กี", "กู"],
        ["ｓｐｕｒ", "ｓｈｏｒｔ", "ｏｐｅｎ"],
    ],
    ids=lambda names: names[0],
)
def test_every_script_is_told_apart(names: list[str]) -> None:
    vectors = encode_bank(names, encoder="hash").vectors
    assert np.triu(vectors @ vectors.T, 1).max() < 0.95


def test_shared_characters_bring_chinese_texts_nearer() -> None:
    """Without spaces a sentence is one word; its characters and pairs have to meet."""
    one, near, far = HashEncoder().encode(["金属表面上有一条细长的划痕", "细划痕在光滑的表面", "焊点缺失"])
    assert one @ near > one @ far + 0.1


def test_full_width_letters_are_letters() -> None:
    assert class_prompts(["ＯＫ　＋"]) == [["a photo of a OK + defect"]]
    assert class_prompts(["a"], {"a": "｛name｝：１０²"}) == [["a:10²"]]


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


def test_wrong_seed() -> None:
    with pytest.raises(TextError, match="RandomEncoder seed: expected a whole number of at least 0, got -1"):
        RandomEncoder(8, -1)


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


def test_random_directions_are_each_texts_own() -> None:
    texts = ["a thin spike", "a thin spur", "a hole"]
    encoder = make_encoder("random:512:3")
    vectors = encoder.encode(texts)
    assert (vectors.shape, vectors.dtype, encoder.id) == ((3, 512), np.float32, "random:512:3")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.abs(vectors @ vectors.T - np.eye(3)).max() < 0.2  # near spelling says nothing: 1/sqrt(512) is 0.04
    np.testing.assert_array_equal(make_encoder(encoder.id).encode(texts[::-1]), vectors[::-1])
    assert np.abs(vectors @ make_encoder("random:512:4").encode(texts).T).max() < 0.2
    assert make_encoder("random").id == "random:1536:0"


def test_random_directions_are_the_same_everywhere() -> None:
    """Gaussian numbers of a generator that NumPy keeps stable, seeded by a digest of the text."""
    seed = int.from_bytes(hashlib.blake2b(b"0 spur", digest_size=8).digest(), "little")
    expected = np.random.default_rng(seed).standard_normal(8)
    np.testing.assert_allclose(make_encoder("random:8").encode(["spur"])[0], expected / np.linalg.norm(expected), 1e-6)


@pytest.mark.parametrize("nc", [2, 3, 7, 80])
def test_zero_leaves_the_network_nothing(nc: int) -> None:
    """The network sees exact zeros, and still has finite outputs, losses and gradients."""
    from ultra_dsmoe.nn import TextSemantics

    bank = encode_bank([f"c{i}" for i in range(nc)], encoder="zero:384")
    assert bank.encoder == "zero:384"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        block = TextSemantics(nc).to(dtype)
        block.set_bank(torch.from_numpy(bank.vectors))
        assert not block.vectors().any()
    assert make_encoder("zero").encode(["a", "b"]).shape == (2, 1536)


def test_a_net_trains_on_zero_vectors() -> None:
    from ultra_dsmoe.model.detector import DSMoEModel

    torch.manual_seed(0)
    net = DSMoEModel("dsmoe-n.yaml", nc=3, verbose=False).train()
    net.set_text(encode_bank(["a", "b", "c"], encoder="zero"))
    net.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.5, 0.3, 0.6]])
    labels = {"cls": torch.tensor([[0.0], [2.0]]), "batch_idx": torch.tensor([0.0, 1.0]), "bboxes": boxes}
    loss, _ = net({"img": torch.rand(2, 3, 64, 64), **labels})
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert net.model[12].frequency.grad.abs().sum() > 0  # classes are told apart by their number alone
    assert not net.model[12].project.weight.grad.any()


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
        ("hash:0", "a positive integer"),
        ("random:0", "a positive integer"),
        ("random:x", "random:<width>"),
        ("random:8:1:2", "random:<width>"),
        ("random:8:-1", "random:<width>"),
        ("zero:-1", "zero:<width>"),
        ("zeros", r"did you mean 'zero'"),
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
