"""Other wordings of one checkpoint: the vectors that arrive are those of `set_prompts`, and everything comes back."""

from __future__ import annotations

import csv
import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ultra_dsmoe.commands.paraphrases import COMMAND
from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.evaluate.evaluation import Evaluation, ImageStats
from ultra_dsmoe.evaluate.paired_bootstrap import Effect
from ultra_dsmoe.explain.paraphrases import (
    Report,
    Wording,
    as_csv,
    cells,
    evaluate,
    mixed,
    reword,
    sentence,
    trained_bank,
)
from ultra_dsmoe.nn.head.text_logits import TextLogits
from ultra_dsmoe.text import encode_bank

GAIN = 30.0  # of the text in the class logits: an untrained net whose scores depend on it
BIAS = 2.0  # of the class logits: scores of a tenth, where a fresh net has hundredths
TRAINED = {"spur": ["a thin spike", "a thorn on an edge"], "short": ["a bridge of copper"]}
OTHER: dict[str, str | list[str]] = {
    "spur": ["a bright round blob far from everything"],
    "mouse_bite": "a nibbled edge",
}


@pytest.fixture(scope="module")
def described(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with prompts of its own, in half precision as the host saves it."""
    content = torch.load(checkpoint, weights_only=False)
    net = deepcopy(content["model"])
    net.names = dict(enumerate(("missing_hole", "mouse_bite", "open_circuit", "short", "spur", "spurious_copper")))
    net.set_text(encode_bank(net.names, TRAINED, "hash"))
    for m in net.modules():
        if isinstance(m, TextLogits):
            m.gain.data.fill_(GAIN)
            m.bias.data.add_(BIAS)
    path = tmp_path_factory.mktemp("described") / "weights" / "best.pt"
    path.parent.mkdir()
    torch.save({**content, "model": net.half()}, path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(OTHER))
    return path


LOWEST = 1e-3  # confidence from which the host keeps a box: one there may fall either way


def apart(one: list[np.ndarray], two: list[np.ndarray]) -> float:
    """Return the largest difference between the confidences of two passes, sorted; a missing box has the lowest one."""
    largest = 0.0
    for a, b in zip(one, two, strict=True):
        sides = np.full((2, max(len(a), len(b), 1)), LOWEST)
        sides[0, : len(a)], sides[1, : len(b)] = -np.sort(-a), -np.sort(-b)
        largest = max(largest, float(np.abs(sides[0] - sides[1]).max()))
    return largest


def options(path: Path) -> dict[str, Any]:
    return {"model": str(path), "device": "cpu", "batch": 4}


def test_wordings_arrive_as_by_set_prompts(
    described: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = tmp_path / "same.yaml"
    same.write_text(yaml.safe_dump({"prompts": TRAINED}))
    seen: list[ImageStats] = []
    run = Evaluation.run
    monkeypatch.setattr(Evaluation, "run", lambda self, *args: seen.append(run(self, *args)) or seen[-1])
    evaluation = Evaluation(options(described))
    trained = trained_bank(evaluation)
    banks = {"same": reword(trained, str(same)), "other": reword(trained, str(other))}
    own = [row.bank.clone() for row in evaluation.net.text_rows()]
    report = evaluate(evaluation, banks, trained, boot=100)
    after = evaluation.run()
    assert all(torch.equal(a, row.bank) for a, row in zip(own, evaluation.net.text_rows(), strict=True))
    reference = Evaluation(options(described))
    reference.net.set_prompts({"spur": OTHER["spur"], "mouse_bite": OTHER["mouse_bite"]})
    expected = run(reference)

    base, unchanged, changed, last = ([np.asarray(c) for c in stats.conf] for stats in [*seen[:3], after])
    for a, b, c in zip(base, unchanged, last, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    # The classes that keep their wording come in half precision from the checkpoint, anew from `set_prompts`.
    assert apart(changed, expected.conf) < 1e-3
    assert apart(base, changed) > 1e-2

    first, second = report.wordings
    assert (first.reworded, second.reworded) == (0, 2)
    np.testing.assert_allclose(first.cosines, 1, atol=1e-6)
    assert first.effect.change == (0, 0)
    before = encode_bank(trained.names, TRAINED, "hash").vectors
    after_vectors = encode_bank(trained.names, OTHER, "hash", keep=trained.prompts).vectors
    np.testing.assert_allclose(second.cosines, (before * after_vectors).sum(1), atol=1e-3)
    assert np.flatnonzero(second.cosines < 0.99).tolist() == [1, 4]


def test_single_vectors_of_unequal_wordings_are_mixed_by_class() -> None:
    new, old = np.ones((2, 3, 4)), np.full((2, 1, 4), 2.0)
    for one, two, want in ((new, old, [[1, 1, 1], [2, 0, 0]]), (old, new, [[2, 0, 0], [1, 1, 1]])):
        np.testing.assert_array_equal(mixed(np.array([True, False]), one, two)[..., 0], want)


@pytest.mark.parametrize("made", [False, True])
def test_single_vectors_come_where_the_net_was_trained_on_them(made: bool, other: Path) -> None:
    trained = encode_bank(["spur", "mouse_bite"], {"spur": ["a spike", "a thorn"]}, "hash", each=made)
    bank = reword(trained, str(other))
    assert (None if bank.each is None else bank.each.shape[:2]) == ((2, 1) if made else None)


def test_command_writes_its_table(
    described: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [str(described), f"prompts={other},{other}", "device=cpu", "batch=4", "boot=100", f"out={out}"]
    assert COMMAND.main(words) == 0
    rows = list(csv.DictReader(io.StringIO((out / "paraphrases.csv").read_text())))
    assert [row["wording"] for row in rows] == ["as-trained", str(other)]
    assert rows[1]["reworded"] == "2"
    assert float(rows[1]["cosine short"]) == pytest.approx(1, abs=1e-3)
    shown = capsys.readouterr().out
    assert "2 of 6" in shown
    assert f"written: {out / 'paraphrases.csv'}" in shown


def test_bad_input_is_one_line_and_writes_nothing(described: Path, checkpoint: Path, tmp_path: Path) -> None:
    unknown, empty = tmp_path / "unknown.yaml", tmp_path / "empty.yaml"
    unknown.write_text("sprue: a spike")
    empty.write_text("{}")
    out = f"out={tmp_path / 'out'}"
    for words, kind, message in (
        ([str(described)], ConfigError, "prompts: expected YAML files of other wordings"),
        ([str(described), f"prompts={unknown}"], TextError, r"unknown\.yaml: prompts: .*\(did you mean 'spur'\?\)"),
        ([str(described), f"prompts={empty}"], TextError, "prompts: expected at least one class in .*, got none"),
        ([str(described), "prompts=none.yaml"], TextError, "prompts: expected an existing YAML file, got none.yaml"),
        ([str(described), "prompts=,"], ConfigError, "prompts: expected a value"),
        ([str(described), "promts=a.yaml"], ConfigError, r"did you mean 'prompts'\?"),
        (
            [str(checkpoint), f"prompts={unknown}"],
            ConfigError,
            "model: expected a network that was trained with prompts",
        ),
    ):
        with pytest.raises(kind, match=message) as caught:
            COMMAND.main([*words, out, "device=cpu"])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_verdicts() -> None:
    assert sentence(-2.3, -3.58, -0.95) == "worse by 0.9 to 3.6"
    assert sentence(2.0, 1.1, 2.9) == "better by 1.1 to 2.9"
    assert sentence(-0.5, -1.2, 0.1) == sentence(0.0, 0.0, 0.0) == "no evidence of a difference"


def test_what_is_written() -> None:
    effect = Effect((55.0, 26.0), (-2.0, -1.0), ((-3.0, -1.0), (-1.5, -0.5)))
    wording = Wording("b.yaml", 1, effect, np.array([1.0, 0.5]))
    report = Report((57.0, 27.0), ("spur", "short"), [wording], [])
    table = cells(report)
    assert table[2] == [
        "b.yaml", "1 of 2", "55.00", "-2.00 [-3.00, -1.00]", "26.00", "-1.00 [-1.50, -0.50]", "0.750", "0.500 short",
        "worse by 1.0 to 3.0",
    ]  # fmt: skip
    assert {len(row) for row in table} == {len(table[0])}
    lines = as_csv(report).splitlines()
    assert lines[0].endswith("map50_95_low,map50_95_high,cosine spur,cosine short")
    assert lines[2] == "b.yaml,1,55.0000,-2.0000,-3.0000,-1.0000,26.0000,-1.0000,-1.5000,-0.5000,1.0000,0.5000"
    assert {line.count(",") for line in lines} == {lines[0].count(",")}
