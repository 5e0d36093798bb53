"""Wrong arguments of our blocks and wrong rows of a model YAML: each argument wrong in each way."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import pytest
from refusals import SMALL, one_line

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.registry import LAYERS
from ultra_dsmoe.plugin.yaml_rows import load_layers

# Of every block: arguments that suit it, those that must be whole numbers above 0, and switches.
BLOCKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "Allocate": ({"c_level": 16, "c_hub": 16, "scale": 1}, "c_level c_hub", "gated"),
    "BandSplit": ({"c": 16}, "c patch tau", ""),
    "CBAM": ({"c": 16}, "c reduction k", ""),
    "CMAF": ({"c_map": 16, "c": 16}, "c_map c heads", ""),
    "ChannelSync": ({"ch": [16, 16]}, "ch", "residual"),
    "DSA": ({"c": 16}, "c k dilation", ""),
    "DecoupledDetect": ({"nc": 3, "ch": [16], "hidden": 16}, "nc reg_max hidden", ""),
    "DualAttention": ({"c": 16}, "c reduction dilation", "residual"),
    "DualAttentionDetect": ({"nc": 3, "ch": [16]}, "nc reg_max", ""),
    "ExpertEnsemble": ({"c": 16, "text_width": 8, "experts": 4}, "c text_width experts", ""),
    "ExpertGate": ({"c": 16, "experts": 4}, "c experts topk", ""),
    "FeatureAggregation": ({"c": 16}, "c", ""),
    "FeatureDifference": ({"channels": 16}, "channels", ""),
    "FGPEM": ({"c": 16}, "c patch tau", "spatial_gate"),
    "GAD": ({"c1": 16, "c2": 16}, "c1 c2", ""),
    "HubFusion": ({"ch": [16, 16, 16, 16], "c2": 16}, "c2 ch", ""),
    "HubInject": ({"c_level": 16, "c_hub": 16, "scale": 1}, "c_level c_hub", ""),
    "HyperbolicFusion": ({"c": 16, "text_width": 8, "nc": 3}, "c text_width nc", "hyperbolic"),
    "ImageProjection": ({"c1": 16, "c2": 16}, "c1 c2", ""),
    "MFA": ({"ch": [16, 16, 16], "c2": 16}, "c2 ch", ""),
    "NeckBlock": ({"c1": 16, "c_other": 16, "c2": 16}, "c1 c_other c2 n", "on"),
    "PairClassify": ({"nc": 3, "c1": 16}, "nc c1 c hidden", ""),
    "Reference": ({"channels": 3}, "channels", ""),
    "ResidualFusion": ({"ch": [16, 16]}, "", "enabled"),
    "SparseMoE": ({"c": 16, "experts": 4}, "c experts topk", ""),
    "SpaceBroadcast": ({"c": 16, "text_width": 8, "c2": 16}, "c text_width c2", ""),
    "SplitText": ({"width": 16}, "width", ""),
    "SwinStage": ({"c": 32}, "c depth window", ""),
    "TextAdapter": ({"c1": 16}, "c1 c2 hidden", ""),
    "TextSemantics": ({"nc": 3}, "nc width heads", "text"),
}
ELSEWHERE = {"MobileSAM", "Pick"}  # their arguments are no sizes; the former needs a library that takes seconds
NO_SIZES: tuple[object, ...] = (0, -1, 2.5, "x", True, {})
NO_SWITCHES = (1, "x", None)
SIZES = [(name, key, wrong) for name, (_, keys, _) in BLOCKS.items() for key in keys.split() for wrong in NO_SIZES]
SWITCHES = [
    (name, key, wrong) for name, (_, _, keys) in BLOCKS.items() for key in keys.split() for wrong in NO_SWITCHES
]
OTHERS = [
    ("Allocate", "scale", 3),
    ("Allocate", "gain", -1),
    ("BandSplit", "split", "fourier"),
    ("BandSplit", "tau", 7),
    ("CBAM", "k", 4),
    ("CMAF", "heads", 5),
    ("CMAF", "fusion", "sum"),
    ("CMAF", "attention", "none"),
    ("ChannelSync", "c_lateral", [16]),
    ("FGPEM", "gain", float("nan")),
    ("FGPEM", "features", None),
    ("FGPEM", "channel_gate", True),
    ("MFA", "reference", 3),
    ("MFA", "ch", [16]),
    ("DSA", "k", 4),
    ("DecoupledDetect", "detector", 5),
    ("DecoupledDetect", "ch", []),
    ("DualAttentionDetect", "ch", [0]),
    ("ExpertGate", "kinds", ["foo"]),
    ("HubFusion", "ch", [16, 16]),
    ("HubFusion", "ch", [16, 16, 16, "x"]),
    ("HubFusion", "downsampling", None),
    ("HubInject", "scale", [1]),
    ("HubInject", "gain", float("nan")),
    ("NeckBlock", "direction", 5),
    ("PairClassify", "dropout", 1.5),
    ("Pick", "index", -1),
    ("Pick", "index", "x"),
    ("Reference", "form", "packed"),
    ("Reference", "window", 3),  # of the default form, which has none
    ("ResidualFusion", "ch", ["x"]),
    ("SparseMoE", "mode", 5),
    ("SplitText", "numbers", -1),
    ("SplitText", "norm", "imagnet"),
    ("TextAdapter", "index", 0),
    ("TextAdapter", "numbers", 16),
]


@pytest.mark.parametrize(("name", "key", "wrong"), [*SIZES, *SWITCHES, *OTHERS])
def test_blocks(name: str, key: str, wrong: object) -> None:
    good = BLOCKS[name][0] if name in BLOCKS else {}
    with pytest.raises(ConfigError) as e:
        load_layers()[name](**{**good, key: wrong})
    one_line(e.value, key)


def test_all_blocks_are_here() -> None:
    """A new block gets its row; what suits it builds it."""
    ours = {name for name, layer in load_layers().items() if layer.__module__.startswith("ultra_dsmoe.nn")}
    assert ours == {*BLOCKS, *ELSEWHERE}
    for name, (good, sizes, switches) in BLOCKS.items():
        LAYERS[name](**good)
        assert {*sizes.split(), *switches.split()} <= set(inspect.signature(LAYERS[name]).parameters)


FIELDS: dict[int, list[Any]] = {
    0: ["x", 1.5, None, True, [], [None], ["x"], [[0]], {}, 9, -9],
    1: ["x", 0, -1, 1.5, None, True, [1]],
    2: [5, None, ["CBAM"], "", "CBAN"],
    3: [5, "x", None, {}, [0], ["x"], [None], [2.5], [[16]]],
}
ROWS = [(column, wrong) for column, values in FIELDS.items() for wrong in values]


@pytest.mark.parametrize(("column", "wrong"), ROWS)
def test_rows(column: int, wrong: object) -> None:
    cfg = deepcopy(SMALL)
    cfg["backbone"][3][column] = wrong
    with pytest.raises(ConfigError) as e:
        DSMoEModel(cfg, verbose=False)
    one_line(e.value)
    assert "model YAML" in str(e.value) or "CBAM" in str(e.value)


SECTIONS: dict[str, list[Any]] = {
    "backbone": [None, 5, "x", {}, [5], ["x"], [[-1, 1]]],
    "nc": [0, -1, "x", 2.5, True, [6]],
    "reg_max": [0, "x", None],
    "scales": [5, "x", ["n"], {"n": None}, {"n": 5}, {"n": "x"}, {"n": [1, 1]}, {"n": [0, 1, 8]}, {"n": ["a", 1, 8]}],
    "depth_multiple": [0, "x", None],
    "activation": [5, "nn.Foo()", "nn.ReLU", "__import__('os').getcwd()", ["nn.ReLU()"], True],
    "dsmoe": [5, "x", ["experts"], {"foo": 1}, {"gains": 5}, {"gains": {"bal": "x"}}, {"gamma": 0}, {"qfl": 5}],
}


@pytest.mark.parametrize(("key", "wrong"), [(key, wrong) for key, values in SECTIONS.items() for wrong in values])
def test_sections(key: str, wrong: object) -> None:
    with pytest.raises(ConfigError) as e:
        DSMoEModel({**deepcopy(SMALL), key: wrong}, verbose=False)
    one_line(e.value)


# Rows that are wrong wherever they stand, and what their line says of them besides number and layer.
BAD_ROWS: dict[str, tuple[Any, str]] = {
    "short": ([-1, 1, "Conv"], "[from, repeats, layer, [arguments]]"),
    "a word": ("Conv", "[from, repeats, layer, [arguments]]"),
    "nothing": (None, "[from, repeats, layer, [arguments]]"),
    "arguments a word": ([-1, 1, "Conv", "x"], "[from, repeats, layer, [arguments]]"),
    "misspelt": ([-1, 1, "Convv", [16]], "did you mean 'Conv'?"),
    "layer a number": ([-1, 1, 5, [16]], "the name of a layer"),
    "from a word": (["x", 1, "Conv", [16]], "(Conv): expected 'from'"),
    "from behind": ([30, 1, "Conv", [16]], "(Conv): expected 'from' with rows that come before it"),
    "repeats": ([-1, 0, "Conv", [16]], "(Conv): expected a positive integer"),
}
BAD_BEFORE: dict[str, tuple[Any, str]] = {
    "channels a word": ([-1, 1, "Conv", ["x"]], "(Conv): expected inputs and arguments that the layer accepts"),
    "channels missing": ([-1, 1, "Conv", []], "(Conv): expected inputs and arguments that the layer accepts"),
    "channels negative": ([-1, 1, "Conv", [-16]], "(Conv): expected inputs and arguments that the layer accepts"),
    "too many": ([-1, 1, "Conv", [16] * 12], "(Conv): expected inputs and arguments that the layer accepts"),
    "two inputs": ([[-1, 0], 1, "Conv", [16]], "(Conv): expected inputs and arguments that the layer accepts"),
    "two inputs of ours": ([[-1, 0], 1, "CBAM", []], "(CBAM): expected 'from' with 1 inputs"),
}


def refused(number: int, part: str, backbone: list[Any], head: list[Any]) -> None:
    """Check that a model YAML ends in one line that names row ``number``."""
    with pytest.raises(ConfigError) as e:
        DSMoEModel({**deepcopy(SMALL), "backbone": backbone, "head": head}, verbose=False)
    one_line(e.value, f"model YAML row {number}", part)


@pytest.mark.parametrize("kind", [*BAD_ROWS, *BAD_BEFORE])
def test_bad_rows_before_the_head(kind: str) -> None:
    row, part = {**BAD_ROWS, **BAD_BEFORE}[kind]
    first, *others = deepcopy(SMALL["backbone"])
    refused(1, part, [first, row, *others], deepcopy(SMALL["head"]))


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_behind_the_head(kind: str) -> None:
    row, part = BAD_ROWS[kind]
    refused(6, part, deepcopy(SMALL["backbone"]), [*deepcopy(SMALL["head"]), row])


BEHIND = "model YAML row 5 (DualAttentionDetect): expected the head in the last row, got row 6 (Conv) behind it"


@pytest.mark.parametrize("source", [-1, 5, 4, 0])
def test_a_row_behind_the_head(source: int) -> None:
    """Whether it reads the head or what lies before: whatever else is wrong with it."""
    for arguments in ([16], []):
        row = [source, 1, "Conv", arguments]
        refused(5, BEHIND, deepcopy(SMALL["backbone"]), [*deepcopy(SMALL["head"]), row])


def test_heads_that_are_missing_repeated_or_in_the_middle() -> None:
    backbone, (conv, head) = deepcopy(SMALL["backbone"]), deepcopy(SMALL["head"])
    missing = "(Conv): expected a detection head in the last row, got Conv"
    refused(4, missing, backbone, [conv])
    refused(3, "(CBAM): expected a detection head in the last row, got CBAM", backbone, [])
    refused(5, BEHIND, backbone, [conv, head, [4, 1, "Conv", [16]], [[3, 6], *head[1:]]])
    refused(4, "expected the head in the last row, got row 5 (Conv)", [*backbone, [[3], *head[1:]]], [[3, *conv[1:]]])
    refused(5, "(DualAttentionDetect): expected 1, it is a head, got 2", backbone, [conv, [head[0], 2, *head[2:]]])
    refused(5, "(Detect): expected the head", backbone, [conv, [[3, 4], 1, "Detect", ["nc"]], conv])
    refused(5, "(Classify): expected a detection head", backbone, [conv, [4, 1, "Classify", ["nc"]]])
