"""Providers by name: which part says what, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.providers import (
    Language,
    OcrReader,
    Rules,
    VisionLanguage,
    make_provider,
    provider_from_state,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model; nothing is loaded here."""
    made = tmp_path / "eye+ear"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


@pytest.mark.parametrize(
    ("spec", "vlm", "llm", "reader", "name"),
    [
        ("rules", Rules, Rules, None, "rules"),
        ("ocr", Rules, Rules, OcrReader, "ocr+rules"),
        ("ocr+rules", Rules, Rules, OcrReader, "ocr+rules"),
        ("ocr:cnocr", Rules, Rules, OcrReader, "ocr:cnocr+rules"),
        ("vlm:Salesforce/blip", VisionLanguage, Rules, None, "vlm:Salesforce/blip+rules"),
        (" llm:gpt2 + ocr:rapidocr ", Rules, Language, OcrReader, "ocr+rules+llm:gpt2"),
        ("llm:gpt2+vlm:blip", VisionLanguage, Language, None, "vlm:blip+llm:gpt2"),
    ],
)
def test_each_part_says_its_own(spec: str, vlm: type, llm: type, reader: type | None, name: str) -> None:
    made = make_provider(spec)
    assert (type(made.vlm), type(made.llm)) == (vlm, llm)
    assert isinstance(made.reader, reader) if reader else made.reader is None
    assert made.id == name
    again = provider_from_state(json.loads(json.dumps(made.state())))
    assert (again.id, again.state()) == (name, made.state())


def test_rules_of_both_texts_are_one() -> None:
    made = make_provider("rules")
    assert made.vlm is made.llm, "the training half is measured once"


def test_a_folder_is_known_by_its_name_and_content(folder: Path) -> None:
    made = make_provider(f"vlm:{folder}+llm:{folder}")
    state = json.dumps(made.state())
    assert str(folder) not in state, "no path of this machine goes into a checkpoint"
    assert made.vlm.id.startswith("vlm:eye+ear@")
    assert provider_from_state(json.loads(state)).id == made.id
    (folder / "config.json").write_text('{"other": 1}')
    assert make_provider(f"vlm:{folder}").vlm.id != made.vlm.id


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rulse", r"^provider: expected rules, vlm:.* joined by \+ \(did you mean 'rules'\?\), got rulse$"),
        ("ocr+rulse", r"did you mean 'rules'\?\), got ocr\+rulse$"),
        ("vml:x", r"did you mean 'vlm'\?\), got vml:x$"),
        ("", r"^provider: expected rules, vlm:"),
        (3, r"^provider: expected rules, vlm:.*, got 3$"),
        ("rules:x", r"^provider: expected rules, vlm:.*, got rules:x$"),
        ("vlm", r"^provider: expected a model, as vlm:FOLDER or vlm:ID, got vlm$"),
        ("vlm:", r"^provider: expected a model, as vlm:FOLDER or vlm:ID, got vlm$"),
        ("vlm:a+vlm:b", r"^provider: expected one part of the kind vlm, got vlm:a\+vlm:b$"),
        ("vlm:a+llm:b+rules", r"^provider: expected rules only where vlm: or llm: leaves them something to say, got "),
        ("vlm:./no/such/folder", r"^provider vlm: expected an existing folder or a model id, got "),
        ("ocr:cnorc", r"^provider: expected ocr:rapidocr or ocr:cnocr \(did you mean 'cnocr'\?\), got ocr:cnorc$"),
    ],
)
def test_another_name_is_one_line(spec: str, message: str) -> None:
    with pytest.raises(TextError, match=message) as caught:
        make_provider(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"provider": "rules"}, {"provider": 1, "parts": {}}])
def test_another_state_is_one_line(state: dict[str, object]) -> None:
    with pytest.raises(TextError, match=r"^provider: expected a provider's name and the state of its parts, got "):
        provider_from_state(state)
