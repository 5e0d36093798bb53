"""Those who say the texts of an image, by name: rules, OCR of the record, vision-language and language models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ultra_dsmoe.errors import TextError, did_you_mean
from ultra_dsmoe.text.providers.base import TEXTS, Describer, Record, RecordReader, TextProvider
from ultra_dsmoe.text.providers.language import Language
from ultra_dsmoe.text.providers.ocr import ENGINES, OcrReader
from ultra_dsmoe.text.providers.rules import Rules
from ultra_dsmoe.text.providers.vision_language import VisionLanguage

__all__ = [
    "TEXTS",
    "Describer",
    "Language",
    "OcrReader",
    "Record",
    "RecordReader",
    "Rules",
    "TextProvider",
    "VisionLanguage",
    "make_provider",
    "provider_from_state",
]

EXPECTED = "rules, vlm:<id or folder>, llm:<id or folder>, ocr, ocr:cnocr, or several joined by +"
KINDS = ("rules", "ocr", "vlm", "llm")
# A plus inside a folder's name joins nothing.
_JOIN = re.compile(rf"\s*\+\s*(?=(?:{'|'.join(KINDS)})(?::|\s*\+|\s*$))")


def make_provider(spec: str = "rules") -> TextProvider:
    """Return the provider that a text names; nothing is loaded yet.

    Args:
        spec: ``rules``, ``vlm:<id or folder>``, ``llm:<id or folder>``, ``ocr``, ``ocr:cnocr``, or several joined by
            ``+``. What no part says, rules say.

    Raises:
        TextError: If a part is unknown, or two would say the same.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise TextError("provider", EXPECTED, spec)
    return _assemble(_JOIN.split(spec.strip()), spec, {})


def provider_from_state(state: Mapping[str, Any]) -> TextProvider:
    """Rebuild a provider from `TextProvider.state`; models are looked for on this disk alone, when they are needed.

    Raises:
        TextError: If it is something else, or of an unknown provider.
    """
    spec, parts = state.get("provider"), state.get("parts")
    if not isinstance(spec, str) or not isinstance(parts, Mapping):
        raise TextError("provider", "a provider's name and the state of its parts", f"{state!r}"[:80])
    return _assemble(_JOIN.split(spec), spec, parts)


def _assemble(words: list[str], spec: str, states: Mapping[str, Any]) -> TextProvider:
    """Return a provider of named parts."""
    says: dict[str, Any] = {}
    for word in words:
        kind, _, name = word.partition(":")
        if kind not in KINDS or (kind == "rules" and name):
            hint = did_you_mean(kind.rpartition("+")[2], KINDS) if kind not in KINDS else ""
            raise TextError("provider", f"{EXPECTED}{hint}", spec)
        if kind in says:
            raise TextError("provider", f"one part of the kind {kind}", spec)
        says[kind] = _part(kind, name, states.get(word))
    if {"rules", "vlm", "llm"} <= says.keys():
        raise TextError("provider", "rules only where vlm: or llm: leaves them something to say", spec)
    rules = says.get("rules") or _part("rules", "", states.get("rules"))
    return TextProvider(says.get("vlm", rules), says.get("llm", rules), says.get("ocr"))


def _part(kind: str, name: str, state: Mapping[str, Any] | None) -> Any:
    """Return one part, from its state where there is one."""
    if kind == "rules":
        return Rules() if state is None else Rules.from_state(state)
    if kind == "ocr":
        return OcrReader(name or ENGINES[0])
    if not name:
        raise TextError("provider", f"a model, as {kind}:FOLDER or {kind}:ID", kind)
    return VisionLanguage(name, state) if kind == "vlm" else Language(name, state)
