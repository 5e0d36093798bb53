"""Descriptions by a language model: how answers are read, and tiny models made here that answer by heart.

The models know nothing: each token of theirs is followed by exactly one other, so that what they say is known, sampled
or not. The attention and the perceptron of their only layer are zero, embedding and output are written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import class_prompts, read_prompts
from ultra_dsmoe.text.generate import as_yaml, generate_prompts, load_model, question, read_answer

LOGIT = 60.0  # of the one token that may follow: certain under any temperature


def make_parrot(folder: Path, sayings: dict[str, list[str]], chat: str | None = None) -> Path:
    """Write a Llama model that answers with ``sayings[last word of the question]``, else with ``sayings[""]``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary, follows = {"<unk>": 0, "<eos>": 1}, {}
    for start, pieces in sayings.items():
        last = vocabulary.setdefault(start, len(vocabulary)) if start else 0
        for piece in pieces:
            token = vocabulary[f"{start}|{piece}"] = len(vocabulary)
            follows[last], last = token, token
        follows[last] = 1
    size = len(vocabulary)
    width = -(-size // 4) * 4
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        eos_token_id=1,
        bos_token_id=None,
    )
    net = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in net.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        net.model.embed_tokens.weight.copy_(torch.eye(size, width))
        net.lm_head.weight.zero_()
        for token in range(size):  # any other token starts what is said to the unknown word
            net.lm_head.weight[follows.get(token, follows.get(0, 1)), token] = LOGIT
    net.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex(r"^[^|]*\|"), ""), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ({"chat_template": chat} if chat else {})))
    return folder


# The question's class name comes last, so that the answer depends on it.
BY_CLASS = '{{ messages[0]["content"].split(\'class "\')[1].split(\'"\')[0].replace(" ", "_") }}'
REASONING = BY_CLASS + "\n<think>"


LINE, SPOT, NET = "a thin dark line", "a pale round spot", "a net of cracks"


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ("a thin dark line\na pale round spot\n", [LINE, SPOT]),
        ("1. A thin dark line.\n2) a pale round spot\n(3) a net of cracks", ["A thin dark line", SPOT, NET]),
        ("- **a thin dark line**\n* “a pale round spot”\n• 'a net of cracks',", [LINE, SPOT, NET]),
        ("Sure! Here are three descriptions:\n\na thin dark line\nI hope this helps you.", [LINE]),
        ("<think>\nIt may be a thin dark crack.\n</think>\n\na pale round spot", [SPOT]),
        ("It may be a thin dark crack.\n</think>\na pale round spot", [SPOT]),
        ("<think>It may be a thin dark crack and", []),
        ("Pin hole: a pale round spot\npin_hole - a speck of white", [SPOT, "a speck of white"]),
        ("Description 1: a pale round spot\nLine 2: A pale round spot.", [SPOT]),
        ('```json\n[\n "a thin dark line",\n "a pale round spot"\n]\n```', [LINE, SPOT]),
        ("1.5 mm wide bright holes\n3 tiny dark pits", ["1.5 mm wide bright holes", "3 tiny dark pits"]),
        ("a {name} with a thin line\n### Pin hole\nspot\na b c\nIs it a crack?", []),
        (" ".join(["word"] * 41), []),
        ("", []),
    ],
)
def test_answers_are_read(answer: str, lines: list[str]) -> None:
    assert read_answer(answer, "pin_hole") == lines


def test_the_question_names_everything() -> None:
    text = question("pin_hole", ["open", "pin_hole"], 4, "bare {boards}")
    assert 'Write 4 different descriptions of the class "pin hole"' in text
    assert "told apart are: open, pin hole." in text
    assert "The images show bare {boards}." in text


def test_a_reasoning_model_describes_every_class(tmp_path: Path) -> None:
    sayings = {
        "<think>": ["hm, a thin dark line", "</think>", "\n1. a white speck in copper\n", "2. a tiny ragged hole"],
    }
    model = load_model(str(make_parrot(tmp_path / "parrot", sayings, REASONING)))
    seen: list[str] = []
    made = generate_prompts(["pin_hole"], model, per_class=2, progress=seen.append)
    assert made == {"pin_hole": ["a white speck in copper", "a tiny ragged hole"]}
    assert seen == ["1/1 pin_hole"]


def test_classes_get_their_own_answers_and_share_none(tmp_path: Path) -> None:
    sayings = {
        "spur": ["a thin spike of copper\n", "a small bump on an edge\n", "a thorn beside a trace"],
        "pin_hole": ["A small bump on an edge.\n", "a white speck in copper"],
    }
    model = load_model(str(make_parrot(tmp_path / "parrot", sayings, BY_CLASS)))
    made = generate_prompts({0: "spur", 1: "pin_hole"}, model, per_class=2)
    assert made == {
        "spur": ["a thin spike of copper", "a small bump on an edge"],
        "pin_hole": ["a white speck in copper"],
    }


def test_a_plain_model_goes_on_writing(tmp_path: Path) -> None:
    model = load_model(str(make_parrot(tmp_path / "parrot", {"": ["- a thin dark line\n", "- a pale spot here"]})))
    before = torch.get_rng_state()
    assert generate_prompts(["crack"], model) == {"crack": ["a thin dark line", "a pale spot here"]}
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers stay where they were"


def test_nothing_usable_is_one_line(tmp_path: Path) -> None:
    sayings = {"spur": ["a thin spike of copper"], "short": ["Sure! Here it is:"]}
    model = load_model(str(make_parrot(tmp_path / "parrot", sayings, BY_CLASS)))
    with pytest.raises(TextError, match=r"model: expected a description of 'short' .*such as 'Sure! Here it is:'"):
        generate_prompts(["spur", "short"], model, per_class=1)


def test_a_question_longer_than_the_context_is_one_line(tmp_path: Path) -> None:
    model = load_model(str(make_parrot(tmp_path / "parrot", {"": ["a thin dark line"]})))
    model[1].config.max_position_embeddings = 100
    with pytest.raises(TextError, match=r"model: expected room for a question of \d+ tokens .*context of 100 tokens"):
        generate_prompts(["spur"], model)


def test_the_seed_decides(tmp_path: Path) -> None:
    """A model without preferences says other words under another seed, the same under the same."""
    from ultra_dsmoe.text.generate import ask

    sayings = {"": [f"w{i} " for i in range(30)]}
    tokenizer, net = load_model(str(make_parrot(tmp_path / "parrot", sayings)))
    with torch.no_grad():
        net.lm_head.weight.zero_()
    one, again, other = (ask((tokenizer, net), "question", 40, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"model: expected a model folder with a config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TextError, match=r"model: expected a complete model on this disk, got .*"):
        load_model(str(tmp_path))
    with pytest.raises(TextError, match=r"model: expected an existing folder or a model id"):
        load_model(str(tmp_path / "none" / "at" / "all"))
    with pytest.raises(TextError, match="model: expected a model on this disk, or a network"):
        load_model("no-owner/no-such-model")


def test_a_model_without_an_output_layer_is_refused(tmp_path: Path) -> None:
    folder = make_parrot(tmp_path / "parrot", {"": ["a thin dark line"]})
    load_model(str(folder))[1].model.save_pretrained(folder)
    with pytest.raises(
        TextError, match=r"model: expected a causal language model with all its weights, got .* without lm_head"
    ):
        load_model(str(folder))


def test_the_file_is_what_training_reads(tmp_path: Path) -> None:
    prompts = {"spur": ["a thin spike: pale, not long", "- odd # start"], "7": ["ein schmaler Riß"]}
    file = tmp_path / "prompts.yaml"
    file.write_text(as_yaml(prompts, "a model\nseed=1"), encoding="utf-8")
    assert read_prompts(file) == prompts
    assert class_prompts(["spur", "7"], read_prompts(file))[1] == ["a photo of a 7 defect: ein schmaler Riß"]
    text = file.read_text(encoding="utf-8")
    assert "REVIEW EVERY LINE" in text.splitlines()[0]
    assert "# a model seed=1\n" in text
    assert yaml.safe_load(text) == prompts
