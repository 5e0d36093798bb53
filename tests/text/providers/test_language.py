"""A language model reads the record: what it is asked, and what is made of its answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.providers import language
from ultra_dsmoe.text.providers.language import ROLE, TASK, Language

PICTURE = np.full((8, 8, 3), 90, np.uint8)
RECORD = {"mu_x": 1.23456, "hits": 400.0}
ANSWER = "the hits lie far right "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A causal model that answers any question by heart."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path / "parrot"
    words = {"<unk>": 0, "<eos>": 1, **{f"{word} ": i + 2 for i, word in enumerate(ANSWER.split())}}
    width = 8
    net = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), hidden_size=width, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
                    tie_word_embeddings=False, eos_token_id=1, bos_token_id=None)
    )  # fmt: skip
    for layer in net.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    net.model.embed_tokens.weight.data.copy_(_eye(len(words), width))
    net.lm_head.weight.data.zero_()
    for token in range(len(words)):  # the unknown word starts the answer, the end follows its last word
        follows = 2 if token == 0 else 1 if token in (1, len(words) - 1) else token + 1
        net.lm_head.weight.data[follows, token] = 60.0
    net.save_pretrained(made)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<unk>", "<eos>"])
    tokenizer.save(str(made / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "unk_token": "<unk>"}
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    return made


def _eye(rows: int, columns: int) -> object:
    import torch

    return torch.eye(rows, columns)


def test_a_model_in_a_folder_answers(folder: Path) -> None:
    made = Language(str(folder))
    assert made.describe("llm", PICTURE, RECORD) == ANSWER.strip()
    assert made.id.startswith("llm:parrot@")


def test_the_record_is_what_is_asked_about() -> None:
    asked = Language("no/model").question(PICTURE, RECORD)
    assert asked.splitlines() == [ROLE.format(how="recorded"), "mu_x=1.23", "hits=400", TASK]
    measured = Language("no/model").question(PICTURE, None)
    assert measured.startswith(ROLE.format(how="measured on the picture"))
    assert "brightness=35.3" in measured.splitlines()


def test_the_answer_is_the_likeliest_and_without_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def ask(model: object, text: str, tokens: int, *, seed: int | None = None) -> str:
        seeds.append(seed)
        return "<think>hm</think>\n Far  right.\n"

    monkeypatch.setattr(language, "ask", ask)
    monkeypatch.setattr(language, "load_model", lambda *_, **__: None)
    assert Language("no/model").describe("llm", PICTURE, RECORD) == "Far right."
    assert seeds == [None]
    monkeypatch.setattr(language, "ask", lambda *_: "<think> and on and on")
    with pytest.raises(
        DataError, match=r"^llm:no/model: expected an answer to the question about the record, got nothing$"
    ):
        Language("no/model").describe("llm", PICTURE, RECORD)


def test_a_checkpoint_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(language, "load_model", lambda *a, **k: asked.append((a, k)))
    monkeypatch.setattr(language, "ask", lambda *_: "said")
    made = Language("owner/model")
    Language("owner/model", made.state()).describe("llm", PICTURE, RECORD)
    assert asked[0][0][0] == "owner/model"
    assert asked[0][1] == {"local_only": True}
    with pytest.raises(
        TextError, match=r"^provider: expected the folder of the model m@12345678 \(provider=llm:FOLDER\)"
    ):
        Language("m@12345678", made.state()).describe("llm", PICTURE, RECORD)


def test_a_model_that_is_not_here_is_one_line() -> None:
    with pytest.raises(
        TextError, match=r"^provider: expected a model on this disk, or a network to fetch it, got llm:"
    ):
        Language("no-owner/no-such-model").describe("llm", PICTURE, RECORD)
