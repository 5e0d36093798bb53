"""Weights of another net into ours: which rows move where, what must fit, and a class branch of the width they have.

A model YAML of ours around a stock net says in ``dsmoe: {transfer: {theirs: ours}}`` where its rows stand here.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.model.pretrained import suited_net

MIN_TRANSFER = 1 / 3  # share of tensors that must fit; other scales and families reach a fifth by chance (counted)


def fitted(net: Any, source: Any) -> tuple[Any, bool]:
    """Return a net's weights as they are to be loaded into ours, by name and shape, and whether rows were moved.

    Args:
        net: A net of ours; its class branch is rebuilt where theirs is of another width.
        source: The net whose weights are wanted.

    Raises:
        WeightsError: If they are another architecture's.
    """
    if moves := _moves_for(net, source):
        source = _moved(net, source, moves)
    _require_same_architecture(net, source)
    head, other = net.model[-1], source.model[-1]
    if hasattr(head, "rebuild_class_branch") and _same_inputs(head, other):
        width = other.cv3[0][-1].in_channels
        if width != head.cv3[0][-1].in_channels:
            head.rebuild_class_branch(width)
            head.bias_init()
    return source, bool(moves)


def summary(net: nn.Module, source: nn.Module) -> str:
    """Return how many tensors of a net came from where."""
    return f"{_fitting(net, tensors(source))} of {len(tensors(net))} tensors from {name_of(source)}"


def _fitting(net: nn.Module, theirs: dict[str, torch.Size]) -> int:
    """Return how many of these tensors have a namesake of their shape here."""
    ours = tensors(net)
    return sum(ours.get(name) == shape for name, shape in theirs.items())


def _require_same_architecture(net: Any, source: nn.Module) -> None:
    """Refuse weights that fit here and there by chance only."""
    theirs = tensors(source)
    fit = _fitting(net, theirs)
    if fit < MIN_TRANSFER * len(theirs):
        wanted = str(net.yaml.get("yaml_file") or "this model")
        got = f"{name_of(source)}, of which {fit} of {len(theirs)} tensors fit"
        other = suited_net(source)
        hint = f" (these weights go into {other})" if other else ""
        raise WeightsError("pretrained weights", f"a checkpoint of {wanted.rsplit('/', 1)[-1]}{hint}", got)


def _moves_for(net: Any, source: Any) -> dict[int, int | str] | None:
    """Return that map of ``transfer`` by which most tensors of a net fit; None where it fits best as it is."""
    moves = net.options.get("transfer") or {}
    maps = list(moves.values()) if all(isinstance(m, dict) for m in moves.values()) else [moves]
    theirs = tensors(source)
    best, most = None, _fitting(net, theirs)
    for candidate in maps:
        places = {f"model.{i}": f"model.{place}" for i, place in _places(net, source, candidate).items()}
        names = ((".".join(name.split(".", 2)[:2]), name, shape) for name, shape in theirs.items())
        moved = {places[row] + name[len(row) :]: shape for row, name, shape in names if row in places}
        if (fit := _fitting(net, moved)) > most:
            best, most = candidate, fit
    return best


def _places(net: Any, source: Any, moves: dict[int, int | str]) -> dict[int, int | str]:
    """Return where each row of a net belongs: as ``moves`` says; others stay in the backbone, or where they fit."""
    backbone, taken = len(net.yaml["backbone"]), set(moves.values())
    places: dict[int, int | str] = {}
    for i, row in enumerate(source.model):
        if i in moves:
            places[i] = moves[i]
        elif i not in taken and (i < backbone or (i < len(net.model) and _alike(net.model[i], row))):
            places[i] = i
    return places


def _alike(row: nn.Module, other: nn.Module) -> bool:
    """Whether two rows are one layer: a neck that is kept stays where it stands, without a line for each row."""
    return type(row) is type(other) and tensors(row) == tensors(other)


def _moved(net: Any, source: nn.Module, moves: dict[int, int | str]) -> nn.Module:
    """Return a copy of a net with its rows at our places; a part of a row, as in "22.csp", is a place too."""
    rows: list[nn.Module] = [nn.Identity() for _ in net.model]
    theirs: Any = source.model
    for i, place in _places(net, source, moves).items():
        target, _, part = str(place).partition(".")
        if int(target) >= len(rows):
            continue
        row = deepcopy(theirs[i])
        if part:
            rows[int(target)].add_module(part, row)
        else:
            rows[int(target)] = row
    moved = deepcopy(source)
    moved.model = nn.Sequential(*rows)
    return moved


def tensors(net: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of a net's tensors by name, without counters, which fit everywhere."""
    return {name: value.shape for name, value in net.state_dict().items() if value.ndim}


def name_of(net: Any) -> str:
    """Return the name of a net's checkpoint or YAML."""
    name = getattr(net, "pt_path", None) or getattr(net, "yaml", {}).get("yaml_file") or "the net"
    return str(name).rsplit("/", 1)[-1]


def _same_inputs(head: Any, other: Any) -> bool:
    """Whether two heads read maps of the same widths, so that a class branch of one can run on the other's."""
    try:
        return [m[0].conv.in_channels for m in head.cv2] == [m[0].conv.in_channels for m in other.cv2]
    except (AttributeError, TypeError):
        return False
