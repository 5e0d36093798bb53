"""What the export of our networks needs beside the host's own exporter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.reference_choice import entry_of as entry_of_references
from ultra_dsmoe.export.pair_parity import PairParity
from ultra_dsmoe.export.parity_check import ParityCheck
from ultra_dsmoe.export.precision import bits_of
from ultra_dsmoe.export.static_mode import KeptExperts, require_references
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_state import KEY, entry_of
from ultra_dsmoe.model.settings import in_force
from ultra_dsmoe.runtime import reference_entry

ONNX_FORMATS = {"onnx", "engine"}  # formats whose ONNX file takes any opset; others have their own bounds
NEWEST_OPSET = 20  # that torch's TorchScript exporter writes, in every release so far
OPSET = 17  # the newest that TensorRT 8.6 reads
SAMPLING, SAMPLING_OPSET = ("SpaceBroadcast",), 16  # blocks that sample a map, and the first opset that can
INT8 = 8  # bits
UNFIT_FORMATS = {"ncnn": "whose converter, pnnx, writes a graph of experts that it cannot read"}  # tried: 20260526


def export(model: Any, net: Any, stock: Callable[..., str], given: dict[str, Any], kwargs: dict[str, Any]) -> str:
    """Export a network of ours with the host's exporter.

    Args:
        model: ``YOLO`` object.
        net: Its network.
        stock: The host's export, bound to ``model``.
        given: Our keys.
        kwargs: The host's arguments.

    Returns:
        The exported file or folder.

    Raises:
        ConfigError: If keys and arguments do not suit each other or the network; also where an engine was asked for
            and this machine could only leave the ONNX file.
        ParityError: If the file does something else than the network.
    """
    from ultra_dsmoe.export.staging import staged

    require_format(net, kwargs)
    set_opset(kwargs)
    given = with_defaults(net, given, kwargs)
    if bits_of(kwargs) == INT8:
        require_references(net)
    parity = gate_of(net)(model, net, given.get("dsmoe_parity", True), kwargs)
    kept = KeptExperts(model, net, given, kwargs)
    with in_force(net, given, kept.numbers), staged(model) as stage:
        with traced(), with_metadata(model, net, kept):
            file = built(stock, accepted(kwargs))
        parity.run(file)
        stage.publish()
        file = stage.final(file)
    if file and fmt_of(kwargs) == "engine":
        from ultra_dsmoe.export.engine_export import require_engine

        require_engine(file)
    return file


def gate_of(net: Any) -> Any:
    """Return the class of the gate for a kind of network."""
    return PairParity if isinstance(net, PairModel) else ParityCheck


def require_format(net: Any, kwargs: dict[str, Any]) -> None:
    """Refuse, before any work, formats and opsets that cannot hold a network of ours.

    Raises:
        ConfigError: If the format has no operators for it, or the opset is too old.
    """
    fmt, opset = fmt_of(kwargs), kwargs.get("opset")
    if fmt in UNFIT_FORMATS and any(hasattr(m, "set_mode") for m in net.modules()):
        wanted = "onnx, openvino, torchscript or engine for a net with experts"
        raise ConfigError("format", wanted, f"{fmt}, {UNFIT_FORMATS[fmt]}")
    if isinstance(opset, int) and opset > NEWEST_OPSET:
        raise ConfigError("opset", f"{NEWEST_OPSET} or lower, which torch's exporter writes", opset)
    samples = any(type(m).__name__ in SAMPLING for m in net.modules())
    if samples and isinstance(opset, int) and opset < SAMPLING_OPSET:
        wanted = f"{SAMPLING_OPSET} or higher for a net with {', '.join(SAMPLING)} (GridSample is not older)"
        raise ConfigError("opset", wanted, opset)


def built(stock: Callable[..., str], kwargs: dict[str, Any]) -> str:
    """Export; an engine where this machine can build one as we want it, else what it is built from."""
    if fmt_of(kwargs) != "engine":
        return stock(**kwargs)
    from ultra_dsmoe.export.engine_export import export_engine

    return export_engine(stock, kwargs)


def fmt_of(kwargs: dict[str, Any]) -> str:
    """Return the format of an export in lower case, the host's other names for engines resolved; its default."""
    fmt = str(kwargs.get("format") or "torchscript").lower()
    return "engine" if fmt in {"tensorrt", "trt"} else fmt


def set_opset(kwargs: dict[str, Any]) -> None:
    """Choose the opset of an export, unless the user did."""
    if fmt_of(kwargs) in ONNX_FORMATS:
        kwargs["opset"] = kwargs.get("opset") or OPSET


def with_defaults(net: Any, given: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return our keys with those that format and shapes imply.

    An engine gets ``static`` execution. Where the batch is dynamic, gathered weights cannot be a convolution's: their
    number of groups, batch times experts, would change with every call.

    Raises:
        ConfigError: If a convolution with gathered weights was asked for beside a dynamic batch, or free sizes of a net
            that has one size.
    """
    from ultralytics.utils import LOGGER

    fixed = {type(m).__name__ for m in net.modules() if getattr(m, "fixed_size", False)}
    if kwargs.get("dynamic") and fixed:
        wanted = f"False for a net with {', '.join(sorted(fixed))}, whose exported windows are those of one image size"
        raise ConfigError("dynamic", wanted, True)
    blocks = [m for m in net.modules() if hasattr(m, "set_mode")]
    given = dict(given)
    if blocks and fmt_of(kwargs) == "engine":
        given.setdefault("dsmoe_moe", "static")
    mode = given.get("dsmoe_moe", blocks[0].mode if blocks else "static")
    if kwargs.get("dynamic") and mode != "static":
        if given.get("dsmoe_dynamic_conv"):
            wanted = f"False beside dynamic=True and dsmoe_moe={mode} (their groups would change with the batch)"
            raise ConfigError("dsmoe_dynamic_conv", wanted, True)
        given["dsmoe_dynamic_conv"] = False
        LOGGER.info(f"dynamic=True: dsmoe_moe={mode} is exported without convolutions whose weights are gathered")
    return given


def accepted(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without a data set that the format's exporter refuses: static execution has used it."""
    from ultralytics.engine.exporter import export_formats

    table = export_formats()
    by_format = dict(zip(table["Argument"], table["Arguments"], strict=True))
    checked = set().union(*by_format.values())
    taken = by_format.get(fmt_of(kwargs), checked)
    return {k: v for k, v in kwargs.items() if k not in {"data", "fraction"} & checked or k in taken}


@contextmanager
def with_metadata(model: Any, net: Any, kept: KeptExperts) -> Iterator[None]:
    """Have the exporter write down, in the file's metadata, how the mixtures are computed and which experts exist."""

    def note(exporter: Any) -> None:
        exporter.metadata.update(metadata_of(net, kept))

    model.add_callback("on_export_start", note)
    try:
        yield
    finally:
        model.callbacks["on_export_start"].remove(note)


def metadata_of(net: Any, kept: KeptExperts) -> dict[str, Any]:
    """Return our entries for an exported file's metadata; empty for a detector without experts and references."""
    from dataclasses import asdict

    if isinstance(net, PairModel):
        return {KEY: entry_of(net)}
    mixtures: list[Any] = [m for m in net.modules() if hasattr(m, "set_mode")]
    entry = entry_of_references(net)
    about = {} if entry is None else {reference_entry.KEY: entry.as_text()}
    if not mixtures:
        return about
    found = about | {"dsmoe_moe": mixtures[0].mode, "dsmoe_topk": [m.k for m in mixtures]}
    if mixtures[0].mode == "static":
        found["dsmoe_kept"] = [list(m.kept) for m in mixtures]
    if "coverage" in vars(kept):  # found during this call, not by hand before
        found["dsmoe_coverage"] = [{k: v for k, v in asdict(c).items() if k != "kept"} for c in kept.coverage]
    return found


@contextmanager
def traced() -> Iterator[None]:
    """Make torch's ONNX export trace the network, as newer hosts ask it to.

    The oldest hosts leave the choice to torch, whose default became another exporter with other needs.
    """
    import torch.onnx

    stock = torch.onnx.export

    @functools.wraps(stock)
    def export(*args: Any, **kwargs: Any) -> Any:
        return stock(*args, **{"dynamo": False, **kwargs})

    if "dynamo" in signature(stock).parameters:
        torch.onnx.export = export
    try:
        yield
    finally:
        torch.onnx.export = stock
