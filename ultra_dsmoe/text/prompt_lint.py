"""Linter of a data set's prompts: what training would refuse, and what the encoder cannot tell apart.

Prompts made of names alone are judged too, as training judges them. Faults are what stops a training, or makes two
classes one for the encoder; everything else is a caution.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.bank import TextBank
from ultra_dsmoe.text.class_separation import CLOSEST, class_cosines, identical_pairs
from ultra_dsmoe.text.encoders import HashEncoder, make_encoder, signs
from ultra_dsmoe.text.model_hub import load_local_first
from ultra_dsmoe.text.models import MAX_TOKENS, SentenceEncoder
from ultra_dsmoe.text.prompts import near

# Cosine of two descriptions' spelling from which one is a variant of the other. Our choice, from the packaged sets:
# sentences that differ in one number word reach 0.98, different sentences 0.64.
SAME_WORDING = 0.9
SHOWN = 60  # characters of a text in a finding
NAMED = 6  # classes that a finding names before it counts
FAULTS = ("unknown", "empty", "same", "close")


@dataclass(frozen=True)
class PromptFinding:
    """One thing to look at.

    Attributes:
        kind: ``unknown``, ``empty``, ``same`` (one description for several classes), ``close`` (classes at almost one
            vector), ``missing``, ``near`` (almost the same description again) or ``long``; the first four are faults.
        classes: Names of the classes it is about.
        what: What was found.
        way_out: What to do.
    """

    kind: str
    classes: tuple[str, ...]
    what: str
    way_out: str

    @property
    def is_fault(self) -> bool:
        """Whether the prompts need a change."""
        return self.kind in FAULTS

    def __str__(self) -> str:
        """Return one line."""
        more = f" and {len(self.classes) - NAMED} more" if len(self.classes) > NAMED else ""
        names = ", ".join(self.classes[:NAMED]) + more
        return f"{'fault' if self.is_fault else 'caution'}: {names}: {self.what}; {self.way_out}"


def lint_section(labels: Sequence[str], section: Mapping[Any, Any]) -> tuple[dict[str, list[str]], list[PromptFinding]]:
    """Check the form of a ``prompts`` section, entry by entry.

    Args:
        labels: Class names in class order.
        section: Class name to description(s), as read from YAML.

    Returns:
        The usable descriptions of every described class in class order, and the findings.
    """
    found: dict[str, list[str]] = {}
    findings = []
    for key, value in section.items():
        label = str(key).strip()
        if label not in labels:
            advice = near(label, labels).strip() or f"the classes are {', '.join(labels[:NAMED])}"
            way_out = f"correct the name or remove the entry {advice}"
            findings.append(
                PromptFinding("unknown", (label,), "prompts for a class that the data set has not", way_out)
            )
            continue
        entries = [value] if isinstance(value, str) or not isinstance(value, (list, tuple)) else value
        texts = [" ".join(entry.split()) for entry in entries if isinstance(entry, str) and entry.strip()]
        if bad := len(entries) - len(texts) or int(not entries):
            what = f"{bad} of {max(len(entries), 1)} descriptions empty or no text"
            way_out = "write a sentence, in quotes where YAML reads another type"
            findings.append(PromptFinding("empty", (label,), what, way_out))
        if texts:
            found[label] = texts
    keys = {str(key).strip() for key in section}
    if missing := tuple(label for label in labels if label not in keys):
        way_out = "describe what a camera sees, or the name alone is what the net reads"
        findings.append(PromptFinding("missing", missing, "no description", way_out))
    return {label: found[label] for label in labels if label in found}, findings


def lint_wording(prompts: Mapping[str, Sequence[str]]) -> list[PromptFinding]:
    """Return descriptions that are there twice, word for word or nearly, within a class or in several.

    Args:
        prompts: Usable descriptions of every described class.
    """
    owners: dict[str, list[str]] = defaultdict(list)  # words -> class of each description of these words
    for label, texts in prompts.items():
        for text in texts:
            owners[_words(text)].append(label)
    findings = []
    for words, classes in owners.items():
        names = tuple(dict.fromkeys(classes))
        if len(names) > 1:
            way_out = "say in each what separates it from the others"
            findings.append(PromptFinding("same", names, f"all are described as {_quoted(words)}", way_out))
        elif len(classes) > 1:
            findings.append(PromptFinding("near", names, f"{_quoted(words)} is there {len(classes)} times", "keep one"))
    texts = list(owners)
    vectors = HashEncoder().encode(texts) if texts else np.zeros((0, 1))
    for group in _groups(vectors @ vectors.T, SAME_WORDING):
        names = tuple(dict.fromkeys(label for i in group for label in owners[texts[i]]))
        what = f"{len(group)} descriptions in almost the same words, such as {_quoted(texts[group[0]])}"
        way_out = "word them differently" if len(names) == 1 else "let each say what separates it from the others"
        findings.append(PromptFinding("near", names, what, way_out))
    return findings


def lint_vectors(bank: TextBank, closest: float = CLOSEST) -> list[PromptFinding]:
    """Return groups of classes whose vectors lie closer than ``closest``, see `class_separation.class_cosines`.

    Those that training refuses are always among them: with one vector for all, nothing is left once the common part of
    a causal model's is taken off.
    """
    cosines = class_cosines(bank.vectors, bank.encoder)
    for one, other in identical_pairs(bank.prompts, bank.vectors):
        cosines[one, other] = cosines[other, one] = 1
    findings = []
    for group in _groups(cosines, closest):
        part = cosines[np.ix_(group, group)]
        i, j = np.unravel_index(np.where(np.eye(len(group), dtype=bool), -np.inf, part).argmax(), part.shape)
        pair = f"{bank.names[group[i]]} and {bank.names[group[j]]}" if len(group) > 2 else "both"
        what = f"almost one vector to {bank.encoder} ({pair} at cosine {part[i, j]:.3f}, limit {closest:g})"
        way_out = "describe what separates them, or merge them"
        findings.append(PromptFinding("close", tuple(bank.names[g] for g in group), what, way_out))
    return findings


def lint_length(bank: TextBank) -> tuple[list[PromptFinding], str]:
    """Return prompts that the encoder would cut, and a note where that cannot be known on this machine.

    Only files on this disk are read.
    """
    try:
        encoder = make_encoder(bank.encoder)
        if isinstance(encoder, HashEncoder):  # reads any length
            return [], ""
        tokenizer, limit = load_local_first(lambda local: _tokenizer(encoder), bank.encoder, True)
    except TextError as e:
        return [], f"lengths not checked: {e}"
    findings = []
    for label, texts in zip(bank.names, bank.prompts, strict=True):
        for text in texts:
            count = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
            if count > limit:
                what = f"{count} tokens, of which {bank.encoder} reads {limit}: {_quoted(text)}"
                findings.append(PromptFinding("long", (label,), what, "shorten it; the end is never read"))
    return findings, ""


def _tokenizer(encoder: Any) -> tuple[Any, int]:
    """Return the tokenizer of an encoder with weights and how many tokens it reads."""
    if isinstance(encoder, SentenceEncoder):
        from sentence_transformers import SentenceTransformer

        model: Any = SentenceTransformer(encoder.source, device="cpu", local_files_only=True)
        return model.tokenizer, int(model.max_seq_length or model.tokenizer.model_max_length)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder.source, local_files_only=True), MAX_TOKENS


def _words(text: str) -> str:
    """Return the words and signs of a text alone: two texts that differ in case or punctuation are one."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = " ".join(re.findall(r"[^\W_]+", folded))
    return " ".join([words, *(run for run in signs(folded) if run not in words)]).strip() or folded


def _groups(cosines: np.ndarray, limit: float) -> list[list[int]]:
    """Return the groups of at least two that are linked by pairs at ``limit`` or above, each in order."""
    groups: list[list[int]] = []
    left = set(range(len(cosines)))
    while left:
        group, queue = set(), [min(left)]
        while queue:
            i = queue.pop()
            group.add(i)
            queue.extend(j for j in _linked(cosines[i], limit) if j in left and j not in group)
        left -= group
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


def _linked(row: np.ndarray, limit: float) -> Iterable[int]:
    return np.flatnonzero(row >= limit - 1e-6).tolist()  # float32: twins may stay a little below 1


def _quoted(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")
