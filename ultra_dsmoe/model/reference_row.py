"""The row in front of a net that makes it see a reference beside the image, and any detector turned into such a net."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.options import check_rows
from ultra_dsmoe.nn.reference.reference import DEFAULT_FORM, FORMS, MIXED, PACKED, Reference

OWN, STOCK = "without the row", "stock"  # maps of `transfer`: of the net itself, and of the one that it goes around
_BUILT = ("model", "yaml", "save", "criterion")  # attributes of a net that another build has anew


def has_reference(net: Any) -> bool:
    """Whether the first row of a net takes images with their references."""
    rows = getattr(net, "model", None)
    return isinstance(rows, nn.Sequential) and len(rows) > 0 and isinstance(rows[0], Reference)


def reference_channels(net: Any) -> int:
    """Return the channels of an image alone, in a net that takes it with its reference."""
    row: Reference = net.model[0]
    return row.channels


def with_reference(net_or_yaml: Any, form: str = DEFAULT_FORM, channels: int = 3) -> dict[str, Any]:
    """Return the model YAML of a net with the row in front: all other rows move by one.

    Weights of the net as it was, and of the stock net that it goes around, find their places by ``transfer``. A stock
    net keeps the host's loss.

    Args:
        net_or_yaml: A net, a model YAML's content, or its name.
        form: Of `Reference`; ``features`` needs a row of its own further on, so that no rule can add it.
        channels: Of an image alone.

    Raises:
        ConfigError: If a value is something else, or the net has the row already.
    """
    checks.one_of("form of the Reference row", form, [f for f in FORMS if f in (*PACKED, *MIXED)])
    checks.whole("channels of an image", channels)
    given = getattr(net_or_yaml, "yaml", net_or_yaml)
    d = deepcopy(given) if isinstance(given, dict) else yaml_model_load(given)
    rows, name = check_rows(d), Path(str(d.get("yaml_file", "model.yaml")))
    if any(row[2] == Reference.__name__ for row in rows):
        raise ConfigError("model", f"a net without a {Reference.__name__} row", name.name)
    moved = [[_moved(row[0]), *row[1:]] for row in rows]
    cut = len(d["backbone"])
    d["backbone"], d["head"] = [[-1, 1, Reference.__name__, [form]], *moved[:cut]], moved[cut:]
    options = d.get("dsmoe")
    d["dsmoe"] = {**({"loss": "host"} if options is None else options), "transfer": _transfer(options or {}, len(rows))}
    d["channels"] = 2 * channels
    d["yaml_file"] = f"{name.stem}-ref{name.suffix}"
    return d


def converted(net: Any, channels: int, form: str = DEFAULT_FORM) -> DSMoEModel:
    """Return a net with the row in front, with all weights and everything else that it had, names and text included.

    Args:
        net: A detector, stock or ours.
        channels: Of an image alone. A net of other channels than the row hands on must have been made for these: its
            first kernels, added up, then read what the row hands on first, gray of the image or the image.
        form: See `with_reference`.

    Raises:
        ConfigError: If it is no detector, or has the row already.
        WeightsError: If it is fused, or does not take what the row hands on.
    """
    ours = isinstance(net, DSMoEModel)
    if not ours and type(net) is not DetectionModel:  # the host's other tasks derive from it
        kinds = "a detector (YOLOv8, YOLO11, YOLO26 or one of ours) to compare images with references"
        raise ConfigError("model", kinds, type(net).__name__)
    if net.is_fused():
        raise WeightsError("model", "a net that is not fused for inference", f"{net.yaml.get('yaml_file', 'one')}")
    new = DSMoEModel(with_reference(net, form, channels), verbose=False)
    rows = deepcopy(net.model)
    _suit(rows[0], new.model[0], channels)
    for i, row in enumerate(rows, 1):
        row.i, row.f = i, _moved(row.f)
        new.model[i] = row
    for name, value in vars(net).items():
        if not name.startswith("_") and name not in _BUILT:
            setattr(new, name, deepcopy(value))
    p = next(net.parameters())
    new.model[0].to(p.device, p.dtype)
    return new.train(net.training)


def _moved(f: Any) -> Any:
    """Return where a row's input comes from when there is a row more in front; what counts backwards stays."""
    if isinstance(f, (list, tuple)):
        return [_moved(j) for j in f]
    return f + 1 if f >= 0 else f


def _transfer(options: dict[str, Any], rows: int) -> dict[Any, Any]:
    """Return where weights go: of the net without the row, and of those for which it had a map."""
    own = {i: i + 1 for i in range(rows)}
    if not (given := options.get("transfer")):
        return own
    families = given if all(isinstance(m, dict) for m in given.values()) else {STOCK: given}
    maps = {name: {**_kept(m, rows), **{i: _place(p) for i, p in m.items()}} for name, m in families.items()}
    return {OWN: own, **maps}


def _kept(moves: dict[int, Any], rows: int) -> dict[int, int]:
    """Return the rows of a map that keep their numbers, which need no mention in a net without a row in front."""
    return {i: i + 1 for i in range(rows) if i not in moves and i not in moves.values()}


def _place(place: int | str) -> int | str:
    """Return a place, a row or a part of one as in "22.csp", by one row further on."""
    if isinstance(place, int):
        return place + 1
    row, _, part = place.partition(".")
    return f"{int(row) + 1}.{part}"


@torch.no_grad()
def _suit(first: nn.Module, row: Any, channels: int) -> None:
    """Widen the first convolution of a net to what the row hands on, so that it reads the image there as it did.

    Raises:
        WeightsError: If it is for images of other channels.
    """
    conv: Any = next((m for m in first.modules() if isinstance(m, nn.Conv2d)), None)
    wanted = row.handed_on
    if conv is None or conv.in_channels == wanted:
        return
    if conv.in_channels != channels or conv.groups != 1:
        raise WeightsError("model", f"a net for images of {channels} channels", f"one for {conv.in_channels}")
    wide = conv.weight.new_zeros(conv.out_channels, wanted, *conv.kernel_size)
    wide[:, 0] = conv.weight.sum(1)
    conv.weight, conv.in_channels = nn.Parameter(wide, conv.weight.requires_grad), wanted
