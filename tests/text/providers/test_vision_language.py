"""A vision-language model made here: two layers of random weights that load and answer as any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hit_pictures import images_of, make_set

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.providers import vision_language
from ultra_dsmoe.text.providers.vision_language import QUESTION, TOKENS, VisionLanguage
from ultra_dsmoe.text.sidecars import TextSource

WORDS = ["the", "picture", "shows", "many", "pink", "dots", "far", "left", "above", "below", "wide", "round", "line"]
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of random weights in a folder, with processor and tokenizer."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    made = tmp_path_factory.mktemp("blip")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    asked = sorted(set(QUESTION.lower().replace(",", " ,").replace(".", " .").replace(":", " :").split()) - set(WORDS))
    (made / "vocab.txt").write_text("\n".join([*special, *WORDS, *asked]) + "\n")
    tokenizer = BertTokenizerFast.from_pretrained(made)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(1)
    net = BlipForConditionalGeneration(
        BlipConfig(
            text_config={
                **size, "vocab_size": len(special) + len(WORDS) + len(asked), "encoder_hidden_size": 16,
                "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 3,
                "sep_token_id": 3,
            },
            vision_config={**size, "image_size": 32, "patch_size": 16, "initializer_range": 0.02},
            projection_dim=16,
        )
    )  # fmt: skip
    with torch.no_grad():  # large weights: another picture gives other words
        for name, weight in net.named_parameters():
            if weight.ndim > 1:
                weight.mul_(200 if "patch" in name or "crossattention" in name else 25)
        net.text_decoder.cls.predictions.bias[: len(special)] = -1e4  # it says words, and never ends by itself
    net.save_pretrained(made)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, tokenizer).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def eye(folder: Path) -> VisionLanguage:
    made = VisionLanguage(str(folder))
    made.settings["tokens"] = 12
    return made


def test_a_model_in_a_folder_answers_the_same_each_time(eye: VisionLanguage) -> None:
    first = eye.describe("vlm", PICTURE, None)
    assert first
    assert 1 <= len(first.split()) <= 12
    state = torch.get_rng_state()
    assert eye.describe("vlm", PICTURE, {"hits": 3.0}) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_the_question_is_no_part_of_the_answer(eye: VisionLanguage) -> None:
    answer = eye.describe("vlm", PICTURE, None)
    assert "describe this inspection image" not in answer.lower()


def test_the_picture_decides(eye: VisionLanguage) -> None:
    rng = np.random.default_rng(1)
    pictures = [np.full((32, 32, 3), 255, np.uint8), rng.integers(0, 255, (64, 32, 3), dtype=np.uint8), PICTURE]
    assert len({eye.describe("vlm", picture, None) for picture in pictures}) > 1


def test_a_chat_template_is_used_where_there_is_one(eye: VisionLanguage, monkeypatch: pytest.MonkeyPatch) -> None:
    eye.describe("vlm", PICTURE, None)
    processor = eye._loaded()[0]
    asked: list[str] = []
    monkeypatch.setattr(
        processor, "chat_template", "{{ messages[0].content[1].text }} the picture shows", raising=False
    )
    kept = type(processor).__call__

    def listen(self: object, images: object = None, text: object = None, **more: object) -> object:
        asked.extend(text)
        return kept(self, images=images, text=text, **more)

    monkeypatch.setattr(type(processor), "__call__", listen)
    eye.describe("vlm", PICTURE, None)
    assert asked == [f"{QUESTION} the picture shows"]


def test_an_empty_answer_is_one_line(eye: VisionLanguage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eye, "_ask", lambda image: "<think> hm \n")
    with pytest.raises(DataError, match=r"^vlm:.*: expected an answer to the question about the picture, got nothing$"):
        eye.describe("vlm", PICTURE, None)


def test_a_checkpoint_knows_the_name_alone(folder: Path) -> None:
    made = VisionLanguage(str(folder))
    assert made.state() == {"question": QUESTION, "tokens": TOKENS}
    name = made.id.partition(":")[2]
    again = VisionLanguage(name, json.loads(json.dumps({"question": "What?", "tokens": 5})))
    assert (again.id, again.state()["question"]) == (made.id, "What?"), "asked as it was"
    with pytest.raises(TextError, match=r"^provider: expected the folder of the model .*provider=vlm:FOLDER"):
        again.describe("vlm", PICTURE, None)


def test_what_cannot_be_loaded_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TextError, match=r"^provider: expected a complete model on this disk, got vlm:.*") as caught:
        VisionLanguage(str(tmp_path)).describe("vlm", PICTURE, None)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        TextError, match=r"^provider: expected a model on this disk, or a network to fetch it, got vlm:x/y"
    ):
        VisionLanguage("x/y").describe("vlm", PICTURE, None)
    with pytest.raises(TextError, match=r"^provider: expected a complete model on this disk, got vlm:x/y"):
        VisionLanguage("x/y", {"question": "What?", "tokens": 5}).describe("vlm", PICTURE, None)


def test_a_model_without_all_its_weights_is_one_line(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = load_file(broken / "model.safetensors")
    gone = next(name for name in weights if "vision_model.encoder" in name)
    save_file({name: w for name, w in weights.items() if name != gone}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        TextError, match=rf"^provider: expected a model with all its weights, got vlm:.* without {gone}$"
    ):
        VisionLanguage(str(broken)).describe("vlm", PICTURE, None)


def test_a_source_asks_each_picture_once_and_needs_no_model_for_kept_answers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vision_language, "TOKENS", 6)
    images = images_of(make_set(tmp_path / "set", train=2, val=1), "train")
    source = TextSource.named(f"vlm:{folder}")
    source.fit(images)
    said = source.read(images)
    assert all(text.llm.startswith("Recorded: ") for text in said), "what no part says rules say"
    assert all(1 <= len(text.vlm.split()) <= 6 for text in said)

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(VisionLanguage, "_ask", refuse)
    state = json.loads(json.dumps(source.state()))
    assert str(folder) not in json.dumps(state)
    assert TextSource.from_state(state).read(images) == said
