"""The ``dsmoe:`` section: which keys and values it takes, and what is said about all others."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.options import check_options
from ultra_dsmoe.model.pair_options import check_pair_options
from ultra_dsmoe.nn import ExpertGate, FeatureAggregation, HyperbolicFusion, TextSemantics
from ultra_dsmoe.nn.registry import aux_names, options

GOOD: dict[str, list[Any]] = {
    "experts": [32],
    "topk": ["auto", 5],
    "text": [True, False],
    "hyperbolic": [True, False],
    "loss": ["dsmoe", "host"],
    "cls_loss": ["qfl", "bce"],
    "qfl": [{}, {"alpha": 0, "beta": 5}, {"alpha": 1}, {"beta": 0.5}],
    "residual_path": [False],
    "neck_down": [True],
    "gains": [None, {}, {"bal": 0}, {"align": 2.5, "ort": 1}],
    "gamma": [1.5, 1],
    "transfer": [{0: 0}, {4: "22.csp", 6: 8}, {"yolov8": {0: 1}, "yolo26": {2: "3.cv1"}}],
}
BAD: dict[str, list[tuple[Any, str]]] = {
    "text": [(1, "true or false"), ("True", "true or false"), (None, "true or false")],
    "hyperbolic": [(0, "true or false")],
    "residual_path": [("yes", "true or false")],
    "neck_down": [([], "true or false")],
    "loss": [
        ("hosts", "one of dsmoe, host (did you mean 'host'?)"),
        (None, "one of dsmoe, host"),
        (["host"], "one of dsmoe, host"),
    ],
    "cls_loss": [("focal", "one of qfl, bce"), (True, "one of qfl, bce")],
    "qfl": [([0.5], "a mapping with alpha and beta"), (None, "a mapping with alpha and beta")],
    "gamma": [(value, "a number above 0, the exponent of the gray transform") for value in (None, 0, True, "2")],
    "gains": [([1], "a mapping of gains"), (1.0, "a mapping of gains")],
    "transfer": [
        (value, "a mapping of row numbers, stock row to row here")
        for value in (
            [0, 1], None, 3, {-1: 0}, {0: -1}, {0: 1.5}, {True: 0}, {0: True}, {0: "csp"}, {0: "22."}, {0: "22.csp.x"},
            {"0": 1}, {"yolov8": {0: 1}, "x": 3}, {"yolov8": {"a": 1}},
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in GOOD.items() for v in values])
def test_what_it_takes(key: str, value: Any) -> None:
    section = {key: value}
    assert check_options(section) is section


def test_no_section_is_an_empty_one() -> None:
    assert check_options(None) == check_options({}) == {}


@pytest.mark.parametrize(("key", "value", "expected"), [(k, v, e) for k, pairs in BAD.items() for v, e in pairs])
def test_what_it_refuses(key: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dsmoe\.{key}: expected {re.escape(expected)}, got ") as caught:
        check_options({key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", [[], "text", 3, True])
def test_no_mapping(section: Any) -> None:
    with pytest.raises(ConfigError, match=r"^dsmoe: section of the model YAML: expected a mapping, got "):
        check_options(section)


def test_an_unknown_key_hears_of_its_neighbour() -> None:
    with pytest.raises(
        ConfigError, match=r"expected keys out of allocation_gate, .* \(did you mean 'hyperbolic'\?\), got hyperbolik"
    ):
        check_options({"text": True, "hyperbolik": True})


@pytest.mark.parametrize("check", [check_options, check_pair_options])
def test_keys_are_those_of_the_kind_of_net(check: Any) -> None:
    """A detector has no fusion of texts and a classifier no experts, nor is either told of the other's."""
    detectors, classifiers = {"topk", "experts", "qfl"}, {"fusion", "text_width", "pfa"}
    own, foreign = (detectors, classifiers) if check is check_options else (classifiers, detectors)
    for key in (*foreign, "nothing_like_any"):
        with pytest.raises(ConfigError, match="expected keys out of ") as e:
            check({key: None})
        known = {*e.value.expected.removeprefix("keys out of ").partition(" (did")[0].split(", ")}
        assert own <= known
        assert not foreign & known


def test_a_layer_in_the_rows_brings_its_keys_into_any_net() -> None:
    assert check_pair_options({"topk": 3}, ["SparseMoE"]) == {"topk": 3}
    assert check_options({"text_width": 8}, ["SplitText"]) == {"text_width": 8}


@pytest.mark.parametrize(
    ("qfl", "message"),
    [
        ({"alpha": 1.01}, r"^dsmoe\.qfl\.alpha: expected a number from 0 to 1, got 1\.01$"),
        ({"alpha": -0.01}, r"^dsmoe\.qfl\.alpha: "),
        ({"beta": 5.5}, r"^dsmoe\.qfl\.beta: expected a number from 0 to 5, got 5\.5$"),
        ({"beta": True}, r"^dsmoe\.qfl\.beta: "),
        ({"beta": float("nan")}, r"^dsmoe\.qfl\.beta: "),
        ({"beta": "1"}, r"^dsmoe\.qfl\.beta: "),
        ({"alfa": 1}, r"^dsmoe\.qfl: expected names out of alpha, beta \(did you mean 'alpha'\?\), got alfa$"),
    ],
)
def test_parameters_of_the_focal_loss(qfl: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options({"qfl": qfl})


def test_keys_of_blocks_and_gains_of_their_terms_come_from_the_classes() -> None:
    assert {*options()} >= {
        "experts", "topk", "text", "hyperbolic", "attention", "detector", "residual_path", "neck_down"
    }  # fmt: skip
    kinds = (TextSemantics, HyperbolicFusion, ExpertGate, FeatureAggregation)
    gains = {name: term.gain for kind in kinds for name, term in kind.aux_terms.items()}
    assert gains == {"ort": 0.01, "align": 0.5, "hier": 0.05, "bal": 0.01, "ga": 0.05}
    assert {*aux_names()} >= {*gains}
    assert len(aux_names()) == len({*aux_names()})


@pytest.mark.parametrize("value", [-0.1, True, "1", None, float("nan"), float("inf")])
def test_a_gain_is_a_number_that_is_not_negative(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^dsmoe\.gains\.bal: expected a number >= 0, got "):
        check_options({"gains": {"bal": value}})


def test_an_unknown_gain() -> None:
    with pytest.raises(ConfigError, match=r"^dsmoe\.gains: expected names out of bal, .*mean 'align'\?\), got alignn$"):
        check_options({"gains": {"alignn": 1}})
