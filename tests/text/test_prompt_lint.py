"""The prompt linter: every planted fault is found once, sound prompts are not touched, packaged ones are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from ultra_dsmoe.text import TextBank, class_names, encode_bank, make_encoder
from ultra_dsmoe.text import prompt_lint as module
from ultra_dsmoe.text.cache import content_key
from ultra_dsmoe.text.class_separation import class_cosines
from ultra_dsmoe.text.prompt_lint import PromptFinding, lint_length, lint_section, lint_vectors, lint_wording

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
LABELS = ("spur", "short", "pin_hole")
SOUND = {
    "spur": ["a thin spike of copper sticking out of a trace", "a thorn that ends in the gap"],
    "short": ["a bridge that joins two neighbouring tracks"],
    "pin_hole": ["a white speck closed in by black on all sides"],
}


def kinds(findings: list[PromptFinding]) -> list[tuple[str, tuple[str, ...]]]:
    return [(f.kind, f.classes) for f in findings]


def bank(vectors: list[list[float]], encoder: str = "sentence:toy") -> TextBank:
    rows = np.array(vectors, dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"c{i}" for i in range(len(rows)))
    prompts = tuple((f"a photo of {n}",) for n in names)
    return TextBank(names, prompts, encoder, rows, content_key(prompts, encoder))


def test_sound_prompts_pass() -> None:
    usable, findings = lint_section(LABELS, SOUND)
    assert usable == SOUND
    assert not findings
    assert not lint_wording(usable)
    assert not lint_vectors(encode_bank(LABELS, usable, "hash"))
    assert lint_length(encode_bank(LABELS, usable, "hash")) == ([], "")


def test_form_of_the_section() -> None:
    section = {"sprue": "a spike", " spur ": ["  a \n spike ", "", 5], "short": [], "pin_hole": None}
    usable, findings = lint_section(LABELS, section)
    assert usable == {"spur": ["a spike"]}
    assert kinds(findings) == [
        ("unknown", ("sprue",)),
        ("empty", ("spur",)),
        ("empty", ("short",)),
        ("empty", ("pin_hole",)),
    ]
    assert "(did you mean 'spur'?)" in str(findings[0])
    assert "2 of 3 descriptions" in findings[1].what
    assert all(f.is_fault for f in findings)
    assert all("\n" not in str(f) for f in findings)


def test_a_class_without_an_entry_is_a_caution() -> None:
    usable, findings = lint_section(LABELS, {"short": "a bridge", 7: "x"})
    assert usable == {"short": ["a bridge"]}
    assert kinds(findings) == [("unknown", ("7",)), ("missing", ("spur", "pin_hole"))]
    assert [f.is_fault for f in findings] == [True, False]
    assert str(findings[1]).startswith("caution: spur, pin_hole: no description; ")
    assert lint_section(LABELS, SOUND)[1] == []


def test_the_same_words_in_two_classes_are_a_fault_and_twice_in_one_a_caution() -> None:
    findings = lint_wording({**SOUND, "short": ["A thorn, that ends in the gap!"]})
    assert kinds(findings) == [("same", ("spur", "short"))]
    assert findings[0].is_fault
    findings = lint_wording({**SOUND, "short": ["one bridge here", "One bridge here."]})
    assert kinds(findings) == [("near", ("short",))]
    assert "2 times" in findings[0].what
    assert not findings[0].is_fault


def test_near_duplicates_are_grouped() -> None:
    sentence = "a small raised round glass dot of a mould code on a bottle bottom, code number {}"
    prompts = {f"p{i}": [sentence.format(n)] for i, n in enumerate(("one", "two", "three"))}
    findings = lint_wording({**SOUND, **prompts})
    assert kinds(findings) == [("near", ("p0", "p1", "p2"))]
    assert not findings[0].is_fault
    assert not lint_wording({"a": ["a thin dark line on bright steel"], "b": ["a wide pale stain on dull cloth"]})


def test_close_classes_form_one_finding_that_names_the_closest_pair() -> None:
    near = [[1, 0, 0], [1, 0.1, 0], [1, 0.15, 0], [0, 0, 1]]
    (finding,) = lint_vectors(bank(near))
    assert (finding.kind, finding.classes, finding.is_fault) == ("close", ("c0", "c1", "c2"), True)
    assert "c1 and c2 at cosine 0.999" in finding.what
    assert not lint_vectors(bank(near), 0.9995)
    assert kinds(lint_vectors(bank([[1, 0], [1, 0]]), 1.0)) == [("close", ("c0", "c1"))]


def test_the_common_part_of_a_causal_models_vectors_does_not_count() -> None:
    """All raw cosines are above 0.99; without the common part the pair c0, c1 alone is close."""
    vectors = [[100, 5, 0, 0], [100, 5.1, 0, 0], [100, 0, 5, 0], [100, 0, 0, 5]]
    assert class_cosines(bank(vectors).vectors, "sentence:toy").min() > 0.99
    causal = bank(vectors, "causal-lm:toy")
    cosines = class_cosines(causal.vectors, causal.encoder)
    centred = causal.vectors - causal.vectors.mean(0)
    expected = centred[0] @ centred[2] / np.linalg.norm(centred[0]) / np.linalg.norm(centred[2])
    assert cosines[0, 2] == pytest.approx(expected, abs=1e-5)
    assert kinds(lint_vectors(causal)) == [("close", ("c0", "c1"))]
    two = bank([[1, 0.1], [1, 0]], "causal-lm:toy")
    cosine = class_cosines(two.vectors, two.encoder)[0, 1]
    assert cosine == pytest.approx(float(two.vectors[0] @ two.vectors[1]), abs=1e-6)
    twins = bank([[1, 0], [1, 0], [1, 0]], "causal-lm:toy")
    assert np.isfinite(class_cosines(twins.vectors, twins.encoder)).all()
    assert kinds(lint_vectors(twins)) == [("close", ("c0", "c1", "c2"))]


def test_pictograms_and_vowel_marks_are_words_too() -> None:
    """Words alone would be the same in both descriptions."""
    for one, other in (("a 🔥 mark", "a 💧 mark"), ("कि", "कु")):
        assert not [f for f in lint_wording({"a": [one], "b": [other]}) if f.kind == "same"]
    (same,) = lint_wording({"a": ["黑色 划痕"], "b": ["黑色、划痕。"]})
    assert (same.kind, same.what) == ("same", "all are described as '黑色 划痕'")


def test_classes_of_one_vector_are_a_fault() -> None:
    (finding,) = lint_vectors(bank([[1, 2], [1, 2], [1, -1]]))
    assert (finding.kind, finding.classes, finding.is_fault) == ("close", ("c0", "c1"), True)


def test_long_prompts_are_counted_by_the_models_own_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tokenizer:
        def __call__(self, text: str, **kwargs: object) -> dict[str, list[str]]:
            return {"input_ids": text.split()}

    monkeypatch.setattr(module, "_tokenizer", lambda encoder: (Tokenizer(), 12))
    (tmp_path / "config.json").write_text("{}")
    encoder = f"causal-lm:{tmp_path}"
    prompts = tuple((f"a photo of a {n} defect: " + "word " * words,) for n, words in (("a", 3), ("b", 7)))
    made = TextBank(("a", "b"), prompts, encoder, np.eye(2, dtype=np.float32), "k")
    findings, note = lint_length(made)
    assert not note
    assert kinds(findings) == [("long", ("b",))]
    assert f"13 tokens, of which {make_encoder(encoder).id}"[:25] in findings[0].what
    assert not findings[0].is_fault


def test_lengths_are_not_checked_without_the_model() -> None:
    findings, note = lint_length(bank([[1, 0], [0, 1]], "sentence:gone@01234567"))
    assert not findings
    assert note.startswith("lengths not checked: text encoder: expected the model 'gone'")


def test_a_finding_names_a_few_classes_and_counts_the_rest() -> None:
    finding = PromptFinding("near", tuple(f"c{i}" for i in range(9)), "w", "o")
    assert str(finding) == "caution: c0, c1, c2, c3, c4, c5 and 3 more: w; o"


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_prompts(path: Path) -> None:
    """Written out, so that a change of wording that brings two classes together is seen. bbmp holds placeholders."""
    data = yaml.safe_load(path.read_text())
    labels = class_names(data["names"])
    usable, findings = lint_section(labels, data["prompts"])
    findings += lint_wording(usable)
    findings += lint_vectors(encode_bank(labels, usable, "hash"))
    expected = [("near", labels), ("near", labels), ("close", labels)] if path.stem == "bbmp" else []
    assert kinds(findings) == expected
