"""What our nets' export adds to the host's: refusals, defaults by format, what the file says about itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export import engine_export, exporting
from ultra_dsmoe.export.exporting import (
    accepted,
    built,
    fmt_of,
    metadata_of,
    require_format,
    set_opset,
    traced,
    with_defaults,
    with_metadata,
)
from ultra_dsmoe.export.static_experts import Coverage


class Mixture(nn.Module):
    """As a block with experts, as far as the export asks."""

    mode, k, kept = "gather", 5, (1, 4)

    def set_mode(self) -> None: ...


SpaceBroadcast = type("SpaceBroadcast", (nn.Module,), {})
PLAIN, EXPERTS, SAMPLING = nn.Sequential(nn.ReLU()), nn.Sequential(Mixture()), nn.Sequential(SpaceBroadcast())


@pytest.mark.parametrize(
    ("given", "fmt"),
    [(None, "torchscript"), ("ONNX", "onnx"), ("trt", "engine"), ("TensorRT", "engine"), ("openvino", "openvino")],
)
def test_format(given: str | None, fmt: str) -> None:
    assert fmt_of({"format": given}) == fmt
    assert fmt_of({}) == "torchscript"


@pytest.mark.parametrize(
    ("given", "opset"),
    [
        ({"format": "onnx"}, 17),
        ({"format": "trt"}, 17),
        ({"format": "onnx", "opset": 16}, 16),
        ({"format": "mnn"}, None),
    ],
)
def test_opset(given: dict[str, Any], opset: int | None) -> None:
    set_opset(given)
    assert given.get("opset") == opset


def test_formats_and_opsets_that_hold_no_such_net() -> None:
    with pytest.raises(ConfigError, match=r"format: expected onnx, .* a net with experts, got ncnn, whose converter"):
        require_format(EXPERTS, {"format": "ncnn"})
    require_format(PLAIN, {"format": "ncnn"})
    with pytest.raises(ConfigError, match=r"opset: expected 20 or lower, .* got 21"):
        require_format(PLAIN, {"format": "onnx", "opset": 21})
    require_format(PLAIN, {"format": "onnx", "opset": 20})
    with pytest.raises(ConfigError, match=r"opset: expected 16 or higher for a net with SpaceBroadcast .* got 15"):
        require_format(SAMPLING, {"format": "onnx", "opset": 15})
    for net, opset in ((SAMPLING, 16), (SAMPLING, None), (PLAIN, 15)):
        require_format(net, {"format": "onnx", "opset": opset})


def test_defaults_by_format_and_shapes() -> None:
    given = {"dsmoe_keep": 7}
    assert with_defaults(EXPERTS, given, {"format": "onnx"}) == {"dsmoe_keep": 7}
    assert with_defaults(EXPERTS, given, {"format": "engine"}) == {"dsmoe_keep": 7, "dsmoe_moe": "static"}
    assert with_defaults(EXPERTS, {"dsmoe_moe": "dense"}, {"format": "engine"}) == {"dsmoe_moe": "dense"}
    assert with_defaults(PLAIN, {}, {"format": "engine"}) == {}
    assert given == {"dsmoe_keep": 7}, "the caller's stay"
    dynamic = {"format": "onnx", "dynamic": True}
    assert with_defaults(EXPERTS, {}, dynamic) == {"dsmoe_dynamic_conv": False}
    assert with_defaults(EXPERTS, {"dsmoe_moe": "static"}, dynamic) == {"dsmoe_moe": "static"}
    assert with_defaults(PLAIN, {}, dynamic) == {}
    with pytest.raises(ConfigError, match="dsmoe_dynamic_conv: expected False beside dynamic=True and dsmoe_moe=gat"):
        with_defaults(EXPERTS, {"dsmoe_dynamic_conv": True}, dynamic)
    fixed = nn.Sequential(nn.ReLU())
    fixed[0].fixed_size = True
    with pytest.raises(ConfigError, match="dynamic: expected False for a net with ReLU, whose exported windows"):
        with_defaults(fixed, {}, dynamic)
    assert with_defaults(fixed, {}, {"format": "onnx"}) == {}


def test_data_go_to_the_host_where_its_format_takes_them() -> None:
    assert accepted({"format": "onnx", "imgsz": 64, "nosuch": 1}) == {"format": "onnx", "imgsz": 64, "nosuch": 1}
    openvino = {"format": "openvino", "data": "x.yaml", "fraction": 0.5}
    assert accepted(openvino) == openvino, "it calibrates"
    assert accepted({"format": "torchscript", "opset": 17}) == {"format": "torchscript", "opset": 17}, (
        "the host refuses"
    )


def test_what_the_file_says_about_its_experts() -> None:
    net = nn.Sequential(Mixture(), Mixture())
    assert metadata_of(PLAIN, SimpleNamespace()) == {}
    assert metadata_of(net, SimpleNamespace()) == {"dsmoe_moe": "gather", "dsmoe_topk": [5, 5]}
    for m in net:
        m.mode = "static"
    found = Coverage(kept=(1, 4), experts=8, k=5, images=3, image_share=0.5, mass_share=0.75)
    said = metadata_of(net, SimpleNamespace(coverage=[found]))
    assert (said["dsmoe_moe"], said["dsmoe_kept"]) == ("static", [[1, 4], [1, 4]])
    assert said["dsmoe_coverage"] == [{"experts": 8, "k": 5, "images": 3, "image_share": 0.5, "mass_share": 0.75}]
    assert "dsmoe_coverage" not in metadata_of(net, SimpleNamespace())


def test_it_is_said_while_the_export_runs_alone() -> None:
    model: Any = SimpleNamespace(callbacks={"on_export_start": []})
    model.add_callback = lambda event, function: model.callbacks[event].append(function)
    exporter = SimpleNamespace(metadata={"names": ["a"]})
    with with_metadata(model, EXPERTS, SimpleNamespace()):
        model.callbacks["on_export_start"][0](exporter)
    with pytest.raises(KeyError), with_metadata(model, EXPERTS, SimpleNamespace()):
        raise KeyError
    assert exporter.metadata == {"names": ["a"], "dsmoe_moe": "gather", "dsmoe_topk": [5]}
    assert model.callbacks == {"on_export_start": []}


def test_torch_traces_unless_it_is_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*args: Any, dynamo: bool = True) -> bool:
        return dynamo

    monkeypatch.setattr(torch.onnx, "export", export)
    with traced():
        assert torch.onnx.export(1) is False
        assert torch.onnx.export(1, dynamo=True) is True
    with pytest.raises(KeyError), traced():
        raise KeyError
    assert torch.onnx.export is export
    old = lambda *args: args  # noqa: E731  # of a torch that knows no other way
    monkeypatch.setattr(torch.onnx, "export", old)
    with traced():
        assert torch.onnx.export is old


@pytest.mark.parametrize(
    ("given", "wanted"), [({}, True), ({"dsmoe_parity": False}, False), ({"dsmoe_parity": "val"}, "val")]
)
def test_every_export_is_compared_unless_it_is_told_otherwise(
    given: dict[str, Any], wanted: object, monkeypatch: Any
) -> None:
    seen: list[Any] = []

    def check(model: Any, net: Any, wanted: object, kwargs: dict[str, Any]) -> None:
        seen.append((wanted, kwargs["opset"]))
        raise KeyError

    monkeypatch.setattr(exporting, "ParityCheck", check)
    with pytest.raises(KeyError):
        exporting.export(None, PLAIN, lambda **kwargs: "file", given, {"format": "onnx"})
    assert seen == [(wanted, 17)]


def test_engines_have_a_builder_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_export, "export_engine", lambda stock, kwargs: "an engine")
    assert built(lambda **kwargs: "the host's", {"format": "onnx"}) == "the host's"
    assert built(lambda **kwargs: "the host's", {"format": "trt"}) == "an engine"
