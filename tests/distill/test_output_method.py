"""Self-distillation as a method: its settings, which outputs it compares, and where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ultra_dsmoe.distill import Level, OutputMethod, Pair, Seen, resolve
from ultra_dsmoe.distill.config import parse
from ultra_dsmoe.distill.enhanced_kl import box_divergence, class_divergence, confidence, foreground
from ultra_dsmoe.distill.method import METHODS
from ultra_dsmoe.errors import ConfigError

NC, SIDES = 3, (4, 2)  # classes; cells per side of the two levels
LEVELS = [Level(8, 0, 0), Level(16, 1, 1)]
CELLS = [n * n for n in SIDES]


def seen(bins: int = 16, scale: float = 3.0, shift: float = -2.0) -> Seen:
    """Return what a net of two levels shows of two images."""
    maps = [torch.zeros(2, 5, n, n) for n in SIDES]
    heads = {"scores": scale * torch.randn(2, NC, sum(CELLS)) + shift, "boxes": torch.randn(2, 4 * bins, sum(CELLS))}
    return Seen(maps, heads)


def terms(name: str | dict[str, Any], teacher: Seen, student: Seen, levels: list[Level] | None = None) -> Any:
    config = resolve(name)
    assert config is not None
    pair = Pair(levels or LEVELS, [5, 5], [5, 5], [])
    return METHODS[config.method].terms(config, pair, nn.ModuleList(), teacher, student, {})


# settings -------------------------------------------------------------------------------------------------------------


def test_presets() -> None:
    for name in ("self", "self-plain"):
        config = resolve(name)
        assert isinstance(METHODS[name], OutputMethod)
        assert (config.terms, config.adaptive, config.warmup) == (("kd_cls", "kd_box"), "none", 3)
        assert [config.gain(term) for term in ("kd_cls", "kd_box", "cls", "box")] == [1, 0.5, 1, 1]
        assert config.same_levels
        assert parse(config.state()) == config
    assert resolve("self").own == {"cls_temperature": 2, "box_temperature": 1, "mu": 0.5}
    assert resolve("self-plain").own == {"cls_temperature": 2, "box_temperature": 1, "match": True}


def test_settings_may_be_given() -> None:
    config = resolve({"method": "self", "cls_temperature": 3, "mu": 0, "warmup": 0, "gains": {"kd_box": 2}})
    assert (config.own["cls_temperature"], config.own["mu"], config.warmup, config.gain("kd_box")) == (3, 0, 0, 2)
    assert parse(config.state()) == config
    assert resolve("attention").warmup == 0, "the others start at full strength"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cls_temperature": 0}, "dsmoe_kd cls_temperature: expected a number above 0, at most 100, got 0"),
        ({"cls_temperature": 101}, "at most 100, got 101"),
        ({"box_temperature": -1}, "dsmoe_kd box_temperature: expected a number above 0, at most 100, got -1"),
        ({"box_temperature": float("nan")}, "at most 100, got nan"),
        ({"mu": 1.5}, "dsmoe_kd mu: expected a number from 0 to 1, got 1.5"),
        ({"mu": "half"}, "a number from 0 to 1, got half"),
        ({"warmup": -1}, "dsmoe_kd warmup: expected a number >= 0, got -1"),
        ({"temperature": 2}, r"options out of method, .*\(did you mean 'cls_temperature'\?\), got temperature"),
        ({"normalize": True}, r"options out of method, .*, got normalize"),
        ({"cls_temprature": 2}, r"did you mean 'cls_temperature'\?\), got cls_temprature"),
        (
            {"gains": {"kd_class": 2}},
            r"out of kd_cls, kd_box, cls, box \(did you mean 'kd_cls'\?\), got kd_class",
        ),
        ({"match": False}, "options out of method, .*, got match"),
        ({"method": "self-plain", "mu": 0.5}, "options out of method, .*, got mu"),
        ({"method": "self-plain", "match": 1}, "dsmoe_kd match: expected true or false, got 1"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}$") as e:
        resolve({"method": "self", **options})
    assert "\n" not in str(e.value)


# value ----------------------------------------------------------------------------------------------------------------


def test_terms_are_the_enhanced_divergences() -> None:
    teacher, student = seen(shift=-6), seen(shift=-6)
    weight = confidence(teacher.outputs["scores"])
    found = terms({"method": "self", "cls_temperature": 3, "box_temperature": 2, "mu": 0.25}, teacher, student)
    scores, boxes = ([s.outputs[name] for s in (teacher, student)] for name in ("scores", "boxes"))
    torch.testing.assert_close(found["kd_cls"], class_divergence(scores[0], scores[1], weight, 3.0, 0.25))
    torch.testing.assert_close(found["kd_box"], box_divergence(boxes[0], boxes[1], foreground(weight), 2.0))
    assert (foreground(weight) == 0).any(), "every anchor counts: nothing would be proven"


def test_the_plain_ones_count_every_anchor_alike() -> None:
    teacher, student = seen(), seen()
    one = torch.ones(2, sum(CELLS))
    scores, boxes = ([s.outputs[name] for s in (teacher, student)] for name in ("scores", "boxes"))
    found = terms({"method": "self-plain", "match": False}, teacher, student)
    torch.testing.assert_close(found["kd_cls"], class_divergence(scores[0], scores[1], one, 2.0, 0.0))
    torch.testing.assert_close(found["kd_box"], box_divergence(boxes[0], boxes[1], one, 1.0))


def test_the_plain_ones_pull_as_much_as_the_enhanced_ones() -> None:
    teacher, student = seen(shift=-6), seen(shift=-6)
    length: dict[str, list[Tensor]] = {}
    for name in ("self", "self-plain"):
        heads = {key: value.clone().requires_grad_() for key, value in student.outputs.items()}
        found = terms(name, teacher, Seen(student.maps, heads))
        length[name] = [
            torch.autograd.grad(found[term], heads[key])[0].norm()
            for term, key in (("kd_cls", "scores"), ("kd_box", "boxes"))
        ]
    torch.testing.assert_close(length["self"], length["self-plain"])


def test_levels_are_those_wanted() -> None:
    teacher, student = seen(), seen()
    found = terms("self", teacher, student, [LEVELS[1]])
    last = [Seen([s.maps[1]], {k: v[..., CELLS[0] :] for k, v in s.outputs.items()}) for s in (teacher, student)]
    alone = terms("self", last[0], last[1], [Level(16, 0, 0)])
    assert found == alone
    assert found != terms("self", teacher, student)


def test_end_to_end_heads_learn_in_the_branch_that_trains_the_backbone() -> None:
    teacher, student, other = seen(), seen(), seen()
    expected = terms("self", teacher, student)
    for seen_, heads in ((teacher, teacher.outputs), (student, student.outputs)):
        seen_.outputs = {"one2many": heads, "one2one": other.outputs}
    assert terms("self", teacher, student) == expected


# limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["self", "self-plain"])
@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (16, 8), (1, 16)])
def test_without_a_common_distribution_classes_alone_are_taught(name: str, student: int, teacher: int) -> None:
    found = terms(name, seen(teacher), seen(student))
    assert found["kd_cls"] > 0
    assert found["kd_box"] == 0
    said = METHODS[name].about(Pair(LEVELS, [5, 5], [5, 5], [], (student, teacher)))
    assert said.startswith(f", classes alone (bins of a box side: {student} and {teacher} of the teacher")
    assert METHODS[name].about(Pair(LEVELS, [5, 5], [5, 5], [], (16, 16))) == ""


@pytest.mark.parametrize("name", ["self", "self-plain"])
def test_half_precision_is_computed_in_full(name: str) -> None:
    teacher, student = seen(scale=8), seen(scale=8)
    expected = terms(name, teacher, student)
    with torch.autocast("cpu", torch.bfloat16):
        found = terms(name, teacher, student)
    assert found == expected
    for s in (teacher, student):
        s.outputs = {key: value.bfloat16() for key, value in s.outputs.items()}
    found = terms(name, teacher, student)
    assert {v.dtype for v in found.values()} == {torch.float32}
    for term, value in found.items():
        torch.testing.assert_close(value, expected[term], rtol=0.05, atol=0)
