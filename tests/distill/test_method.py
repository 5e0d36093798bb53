"""The table of methods, what a pair of nets is for them, and one more method than the package has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ultra_dsmoe.distill import (
    METHODS,
    ActivationAttention,
    FeatureMethod,
    KDConfig,
    Level,
    OutputMethod,
    Pair,
    Seen,
    register_method,
    resolve,
)
from ultra_dsmoe.distill.config import check_form, parse
from ultra_dsmoe.distill.method import trait
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.contract import Option


def is_positive(argument: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or value <= 0:
        raise ConfigError(argument, "a number above 0", value)


def another(**attributes: Any) -> Any:
    """Return as much of a method as its settings need."""
    usual = {
        "gains": {"logit": 2.0},
        "adaptive": "none",
        "outputs": True,
        "options": {"softness": Option(4, is_positive)},
    }
    return SimpleNamespace(**{**usual, **attributes})


@pytest.fixture(autouse=True)
def no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the table as it was."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def test_those_of_the_package_are_presets_of_two() -> None:
    kinds = {name: (type(method), method.outputs) for name, method in METHODS.items()}
    assert kinds == {
        **dict.fromkeys(("attention", "mimic"), (FeatureMethod, False)),
        **dict.fromkeys(("self", "self-plain"), (OutputMethod, True)),
    }


def test_what_a_method_leaves_out_is_the_usual() -> None:
    register_method("logits", another())
    config = resolve("logits")
    assert (config.warmup, config.same_levels) == (0, False)
    register_method("slow", another(warmup=2.0, same_levels=True, unused=("compare",)))
    config = resolve("slow")
    assert (config.warmup, config.same_levels) == (2, True)
    assert parse(config.state()) == config
    with pytest.raises(ConfigError, match=r"expected options out of method, .*, got compare"):
        resolve({"method": "slow", "compare": False})


def test_a_registered_method_is_what_its_name_means() -> None:
    register_method("logits", another())
    register_method("logits", METHODS["logits"])  # again is no error: a module may be reloaded
    assert check_form("logits") == "logits"
    config = resolve("logits")
    assert (config.method, config.terms, config.adaptive, config.own) == ("logits", ("logit",), "none", {"softness": 4})
    assert [config.gain(name) for name in ("logit", "cls", "box")] == [2, 1, 1]
    given = resolve({"method": "logits", "softness": 1.5, "gains": {"logit": 3}, "adaptive": "ema"})
    assert (given.own, given.gain("logit"), given.adaptive) == ({"softness": 1.5}, 3, "ema")
    assert parse(given.state()) == given
    assert "own" not in given.state()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softness": 0}, "dsmoe_kd softness: expected a number above 0, got 0"),
        ({"sofness": 1}, r"dsmoe_kd: expected options out of .*\(did you mean 'softness'\?\), got sofness"),
        ({"gains": {"fg": 1}}, "dsmoe_kd gains: expected names out of logit, cls, box, got fg"),
    ],
)
def test_wrong_options_of_its_own(options: dict[str, Any], message: str) -> None:
    register_method("logits", another())
    with pytest.raises(ConfigError, match=f"^{message}$"):
        resolve({"method": "logits", **options})


def test_its_options_are_not_the_others() -> None:
    register_method("logits", another())
    with pytest.raises(ConfigError, match=r"expected options out of method, .*, got softness"):
        resolve({"method": "mimic", "softness": 2})
    assert KDConfig().own == {}


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("host", {}, "expected a name that is not taken, got host"),
        ("mimic", {}, "expected a name that is not taken, got mimic"),
        ("x", {"gains": {}}, "expected gains of terms that are not called cls or box, got {}"),
        ("x", {"gains": {"cls": 1}}, "expected gains of terms that are not called cls or box"),
    ],
)
def test_methods_that_clash(name: str, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as e:
        register_method(name, another(**attributes))
    assert str(e.value).startswith(f"register_method({name}): {message}")


def test_a_pair_knows_the_attention_of_each_level() -> None:
    rows = [nn.Identity(), DualAttention(16), DualAttention(8)]
    pair = Pair([Level(16, 0, 1), Level(32, 1, 2)], [4, 5], [8, 16, 24], rows)
    assert pair.own_attentions == [rows[1], None]  # the last is of another width than the map
    own, usual = pair.attentions
    assert own == rows[1].attended
    assert isinstance(usual.__self__, ActivationAttention)
    assert METHODS["attention"].about(pair) == ", the teacher's attention on 1"
    assert METHODS["mimic"].about(pair) == ""
    adapters = METHODS["mimic"].adapters(pair)
    assert [(a.conv.in_channels, a.conv.out_channels) for a in adapters] == [(4, 16), (5, 24)]
    assert torch.equal(adapters[0].conv.bias, torch.zeros(16))


# every option is read -------------------------------------------------------------------------------------------------

OTHER = {
    "temperature": 3.0,
    "normalize": False,
    "cls_temperature": 5.0,
    "box_temperature": 5.0,
    "mu": 0.0,
    "match": False,
}
# These are the trainer's, whatever the method: which levels, terms and weights there are, and when.
GENERAL = {"method", "levels", "adaptive", "gains", "compare", "warmup", "own"}


def shown() -> Any:
    """Return what a net of one level shows of two images: a map, and scores and boxes of its 16 cells."""
    heads = {"scores": 3 * torch.randn(2, 3, 16) - 4, "boxes": torch.randn(2, 4 * 16, 16)}
    return Seen([torch.randn(2, 8, 4, 4)], heads)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_option_of_a_method_is_read_by_it(name: str) -> None:
    pair = Pair([Level(8, 0, 0)], [8], [8], [nn.Identity()], (16, 16))
    method, teacher, student = METHODS[name], shown(), shown()
    batch = {"bboxes": torch.tensor([[0.4, 0.4, 0.5, 0.5]]), "batch_idx": torch.zeros(1)}
    adapters = method.adapters(pair)

    def terms(**options: Any) -> list[float]:
        config = resolve({"method": name, **options})
        return [t.item() for t in method.terms(config, pair, adapters, teacher, student, batch).values()]

    usual = terms()
    assert usual == terms(), "chance would pass for a difference"
    for key in {*(f.name for f in fields(KDConfig)), *method.options} - GENERAL - set(trait(name, "unused")):
        assert terms(**{key: OTHER[key]}) != usual, f"{key} of {name} changes nothing"
    for key in trait(name, "unused"):
        with pytest.raises(ConfigError, match=f"expected options out of .*, got {key}$"):
            resolve({"method": name, key: OTHER[key]})
