"""Model YAMLs with our layers, built by the host's parser."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from toys import ToyChain, ToyNeck, ToyRecord, toy_yaml, with_row
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv, Index

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.neck.pick import Pick
from ultra_dsmoe.plugin.parser import Graph


@pytest.fixture(autouse=True)
def _activation_as_found() -> Iterator[None]:
    before = Conv.default_act
    yield
    Conv.default_act = before  # older hosts leave a YAML's activation behind


def digest(model: nn.Module) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest()


def build(d: dict[str, Any], verbose: bool = False) -> nn.Sequential:
    return tasks.parse_model(d, 3, verbose)[0]


@pytest.mark.parametrize(
    ("scale", "width", "chain"), [("n", 32, 2), ("s", 64, 2), ("m", 96, 4)]
)  # 128 x width; round(6 x depth)
def test_rows_are_scaled(scale: str, width: int, chain: int) -> None:
    layers = build(toy_yaml(scale))
    assert isinstance(layers[2], ToyChain)
    assert len(layers[2].chain) == chain
    assert {c.conv.out_channels for c in layers[2].chain} == {width}


def test_channels_reach_rows_of_every_kind() -> None:
    layers = build(toy_yaml("s"))
    assert isinstance(layers[8], ToyNeck)
    assert [c.conv.in_channels for c in layers[8].convs] == [128, 256, 512]  # C2f, ours, stock Conv
    assert [type(layers[i]) for i in (9, 10, 11)] == [Pick] * 3
    assert [m[0].conv.in_channels for m in layers[13].cv2] == [128, 256, 256]  # through Pick into a stock head
    assert not any(isinstance(m, Index) for m in layers)


def test_rows_carry_what_the_host_attaches() -> None:
    layers, save = tasks.parse_model(toy_yaml(), 3, False)
    assert [m.i for m in layers] == list(range(14))
    assert layers[8].f == [4, 6, 7]
    assert layers[8].type.endswith("ToyNeck")
    assert layers[2].np == sum(p.numel() for p in layers[2].parameters())
    assert sorted(set(save)) == [4, 6, 7, 8, 9, 10, 11]


def test_forward_and_step() -> None:
    model = tasks.DetectionModel(toy_yaml(), verbose=False)
    assert model.stride.tolist() == [8, 16, 32]
    model.train()
    out = model(torch.rand(1, 3, 64, 64))
    feats = out["feats"] if isinstance(out, dict) else out
    feats[0].mean().backward()
    assert model.model[2].chain[0].conv.weight.grad.abs().sum() > 0


def test_same_seed_same_weights() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(digest(build(toy_yaml())))
    assert models[0] == models[1]


def test_probing_uses_no_random_numbers() -> None:
    """The first convolution gets what a stock build under the same seed gives it."""
    torch.manual_seed(3)
    ours = build(toy_yaml())[0].conv.weight
    torch.manual_seed(3)
    stock = tasks.parse_model({"nc": 3, "width_multiple": 0.25, "backbone": toy_yaml()["backbone"][:1], "head": []}, 3)
    assert torch.equal(ours, stock[0][0].conv.weight)


def test_yaml_is_left_as_it_was() -> None:
    d = toy_yaml()
    build(d)
    assert d == toy_yaml()


@pytest.mark.parametrize("activation", ["nn.ReLU()", "torch.nn.PReLU()"])
def test_activation_reaches_our_rows(activation: str) -> None:
    layers = build(toy_yaml(activation=activation))
    kinds = {type(m.act) for m in layers.modules() if isinstance(m, Conv)}
    assert kinds == {getattr(nn, activation.split(".")[-1][:-2])}
    assert all(p.device.type == "cpu" for p in layers.parameters())


def test_activation_does_not_leak_into_the_next_model() -> None:
    stock = {"nc": 3, "activation": "nn.ReLU()", "backbone": [[-1, 1, "Conv", [64, 3, 2]]], "head": []}
    tasks.parse_model(stock, 3, False)
    expected = type(Conv.default_act)  # what the host itself leaves behind
    build(toy_yaml(activation="nn.ReLU()"))
    assert type(Conv.default_act) is expected


def test_the_rule_sees_the_row() -> None:
    row = [-1, 3, "ToyRecord", ["nc", "'text'", "[1, 2]", "plain", None, 2.5, "reg_max"]]
    d = with_row(5, row, dsmoe={"twice": True}, reg_max=8, end2end=True)
    d["backbone"][3][2:] = ["Conv", [256, 3, 2]]
    layer = build({**d, "backbone": d["backbone"][:6], "head": []})[5]
    seen = ToyRecord.seen
    assert seen.args == [3, "text", [1, 2], "plain", None, 2.5, 8]
    assert (seen.n, seen.nc, seen.c1, seen.width, seen.max_channels) == (1, 3, 64, 0.25, 1024)
    assert (seen.reg_max, seen.end2end, seen.options) == (8, True, {"twice": True})
    assert [m.flag for m in layer] == [True, True]  # two repeats, keyword arguments handed on


def test_a_row_of_ours_may_come_first() -> None:
    d = {"nc": 2, "backbone": [[-1, 1, "ToyChain", [16]], [-1, 1, "Conv", [32, 3, 2]]], "head": []}
    layers = build(d)
    assert layers[0].chain[0].conv.in_channels == 3
    assert layers[1].conv.in_channels == 16


def test_scale_is_assumed_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ultralytics")
    logger.addHandler(caplog.handler)
    try:
        layers = build({**toy_yaml(), "scale": ""})
    finally:
        logger.removeHandler(caplog.handler)
    warnings = [r.getMessage() for r in caplog.records if "scale" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].endswith("no model scale passed. Assuming scale='n'.")
    assert layers[0].conv.out_channels == 16


def test_table_lists_the_real_rows(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ultralytics")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "ultralytics")
    try:
        layers = build(toy_yaml(), verbose=True)
    finally:
        logger.removeHandler(caplog.handler)
    lines = [r.getMessage() for r in caplog.records][-14:]
    for i, (line, layer) in enumerate(zip(lines, layers, strict=True)):
        assert line.split()[0] == str(i)
        assert layer.type in line
        assert f"{layer.np:.0f}" in line.split()
    assert "Index" not in "".join(lines)


def test_stock_yaml_goes_to_the_host_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a stock YAML was taken apart")

    monkeypatch.setattr(Graph, "__init__", fail)
    model = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    assert sum(p.numel() for p in model.parameters()) == 2_624_080
    with pytest.raises(AssertionError, match="taken apart"):
        build(toy_yaml())


BROKEN = {
    "misspelt layer": (with_row(6, [-1, 1, "ToyChian", [512]]), "row 6: expected .*did you mean 'ToyChain'.*ToyChian"),
    "misspelt stock layer": (with_row(3, [-1, 1, "Convv", [256, 3, 2]]), "row 3: .*did you mean 'Conv'"),
    "three entries": (with_row(6, [-1, 1, "ToyChain"]), r"row 6: expected \[from, repeats, layer"),
    "later row": (with_row(6, [9, 1, "ToyChain", [512]]), "row 6 .*rows that come before it, got 9"),
    "before the first row": (with_row(2, [-9, 1, "ToyChain", [512]]), "row 2 .*rows that come before it"),
    "no input": (with_row(8, [[], 1, "ToyNeck", [[256]]]), "row 8 .*rows that come before it"),
    "no argument": (with_row(6, [-1, 1, "ToyChain", []]), "row 6 .*arguments that the layer accepts"),
    "wrong type": (with_row(6, [-1, 1, "ToyChain", ["wide"]]), "row 6 .*arguments that the layer accepts"),
    "too many inputs": (
        with_row(6, [[4, 5], 1, "ToyChain", [512]]),
        r"row 6 \(ToyChain\): expected 'from' with 1 inputs, got 2",
    ),
    "stock row on a list": (with_row(9, [8, 1, "Conv", [64]]), "row 9 .*through Pick.*row 8 .ToyNeck"),
    "list row in a list": (with_row(12, [[8, 7], 1, "Concat", [1]]), "row 12 .*through Pick"),
    "our row on a list row": (with_row(9, [8, 1, "ToyChain", [64]]), "expected 'from' with 1 inputs, got 3"),
    "pick too far": (with_row(9, [8, 1, "Pick", [3]]), "an index from 0 to 2, got 3"),
    "pick from a map": (with_row(9, [7, 1, "Pick", [0]]), "returns a list of maps"),
    "unknown scale": (toy_yaml("x"), "one of .'n', 's', 'm'.*got x"),
    "options no mapping": (toy_yaml(dsmoe=[1]), "section 'dsmoe' of the model YAML: expected a mapping"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_errors_name_the_row(case: str) -> None:
    d, message = BROKEN[case]
    with pytest.raises(ConfigError, match=message) as caught:
        build(d)
    assert "\n" not in str(caught.value)


def test_a_yaml_without_our_layers_keeps_the_hosts_errors() -> None:
    with pytest.raises(KeyError, match="Zzz"):
        build({"nc": 1, "backbone": [[-1, 1, "Zzz", []]], "head": []})


def test_a_lone_misspelt_layer_is_recognised() -> None:
    with pytest.raises(ConfigError, match="did you mean 'SparseMoE'"):
        build({"nc": 1, "backbone": [[-1, 1, "SparseMOE", []]], "head": []})
