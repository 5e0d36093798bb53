"""Build model YAMLs whose rows name our layers, with the host's own parser doing all of its own rows.

Our rows become stock ``Index`` stubs, which have no parameters and exactly the channels they are told. Channels of
stock rows that feed ours are read from ``nn.BatchNorm2d`` rows put behind them, on the meta device, so that neither
memory nor random numbers are used. One last stock parse then makes the network, and the real layers take the place of
the stubs. A YAML without a layer of ours goes to the host untouched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ultra_dsmoe.checks import is_number, whole
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.plugin import layer_table
from ultra_dsmoe.plugin.yaml_rows import FAULTS, Row, read_rows, resolve

ACTIVATION = re.compile(r"(?:torch\.)?nn\.(\w+)\([\w\s.,=+-]*\)")


class Graph:
    """One model YAML on its way to a network.

    Args:
        tasks: The host's ``nn.tasks``.
        stock: The host's ``parse_model``.
        d: The YAML's content.
        ch: Channels of the image.
    """

    def __init__(self, tasks: Any, stock: Any, d: dict[str, Any], ch: int) -> None:
        self.tasks, self.stock, self.d, self.ch = tasks, stock, d, ch
        _check_activation(d.get("activation"))
        if "nc" in d:
            whole("'nc' of the model YAML", d["nc"])
        self.rows = read_rows(d, vars(tasks))
        self.scale, self.depth, self.width, self.max_channels = self._scale()
        self.stubs = [row.stock() for row in self.rows]  # rows of ours are replaced as soon as their channels are known
        self.channels: dict[int, Any] = {}  # outputs of our rows, and of the stock rows that feed them

    def _scale(self) -> tuple[str, float, float, float]:
        """Return scale letter, depth and width multiple and channel bound as the host understands them."""
        scales, scale = self.d.get("scales"), self.d.get("scale") or ""
        if not scales:
            depth, width = (self.d.get(key, 1.0) for key in ("depth_multiple", "width_multiple"))
            return (scale, *_multiples("depth_multiple, width_multiple", [depth, width, math.inf]))
        if not isinstance(scales, dict):
            raise ConfigError("'scales' of the model YAML", "a mapping of letters to [depth, width, channels]", scales)
        if not scale:
            scale = next(iter(scales))
            self.tasks.LOGGER.warning(f"no model scale passed. Assuming scale='{scale}'.")
        if scale not in scales:
            raise ConfigError(f"scale of {self.d.get('yaml_file', 'the model YAML')}", f"one of {list(scales)}", scale)
        return (scale, *_multiples(f"scales[{scale}]", scales[scale]))

    def parse_stock(self, rows: list[list[Any]], verbose: bool = False) -> list[Any]:
        """Let the host build ``rows``, none of which may be ours.

        Raises:
            ConfigError: If it cannot build one of them.
        """
        try:
            return self._parse(rows, verbose)
        except FAULTS:
            self._blame(rows)
            raise

    def _blame(self, rows: list[list[Any]]) -> None:
        """Name the first of ``rows`` with which the host fails: without the others, which only cost time here."""
        for row in self.rows[: len(rows)]:
            try:
                with torch.device("meta"):
                    self._parse(rows[: row.i + 1])
            except FAULTS as e:
                got = f"{rows[row.i]} ({type(e).__name__}: {e})"
                raise ConfigError(row.label, "inputs and arguments that the layer accepts", got) from e

    def _parse(self, rows: list[list[Any]], verbose: bool = False) -> list[Any]:
        """Ask the host's parser."""
        cut = len(self.d["backbone"])
        d = {**self.d, "scale": self.scale, "backbone": deepcopy(rows[:cut]), "head": deepcopy(rows[cut:])}
        return list(self.stock(d, self.ch, verbose)[0])

    def probe(self, needed: set[int]) -> None:
        """Learn the output channels of the stock rows ``needed``, and of every earlier one that feeds a row of ours."""
        last = max(needed)
        feeds = {j for row in self.rows if row.ours for j in row.sources if 0 <= j <= last and not self.rows[j].ours}
        points = sorted(feeds - self.channels.keys())
        prefix = self.stubs[: last + 1]
        with torch.device("meta"):
            layers = self.parse_stock([*prefix, *([j, 1, "nn.BatchNorm2d", []] for j in points)])
        for j, layer in zip(points, layers[len(prefix) :], strict=True):
            self.channels[j] = layer.num_features

    def plan(self, row: Row) -> None:
        """Ask the layer's own rule what to build for a row of ours, and put a stub with the same channels in place."""
        if needed := {j for j in row.sources if j >= 0} - self.channels.keys():
            self.probe(needed)
        c1 = [self.ch if j < 0 else self.channels[j] for j in row.sources]
        row.n = max(round(row.n * self.depth), 1) if row.n > 1 else row.n
        context = {"width": self.width, "max_channels": self.max_channels, "scale": self.scale, "depth": self.depth}
        row.ask(c1, resolve(row.args, {**self.d, **context}), self.d, self.width, self.max_channels)
        self.channels[row.i] = row.plan.c2
        first = row.plan.c2[0] if isinstance(row.plan.c2, (list, tuple)) else row.plan.c2
        self.stubs[row.i] = [row.sources[0] if row.i else -1, 1, "Index", [first]]

    def build(self, verbose: bool) -> tuple[nn.Sequential, list[int]]:
        """Return what the host's ``parse_model`` returns: the layers and the indices whose outputs are kept."""
        for row in self.rows:
            if row.ours:
                self.plan(row)
            elif lists := [j for j in row.sources if isinstance(self.channels.get(j), (list, tuple))]:
                raise ConfigError(
                    f"model YAML row {row.i} ({row.name})",
                    "tensor inputs (read a row that returns a list through Pick)",
                    f"row {lists[0]} ({self.rows[lists[0]].name})",
                )
        with layer_table.held_back(self.tasks.LOGGER) as lines:
            layers = self.parse_stock(self.stubs, verbose)
        with self.activation():
            for row in filter(lambda r: r.ours, self.rows):
                layers[row.i] = row.make()
                if connect := getattr(layers[row.i], "connect", None):
                    connect([layers[j] for j in row.sources if j >= 0])
        if verbose:
            layer_table.show(self.tasks.LOGGER, lines, self.rows, layers)
        kept = [j % m.i for m in layers for j in ([m.f] if isinstance(m.f, int) else m.f) if j != -1]
        return nn.Sequential(*layers), sorted(kept)

    @contextmanager
    def activation(self) -> Iterator[None]:
        """Make the YAML's ``activation:`` the default while our layers are built.

        Newer hosts put the default back at the end of a parse. What the YAML's text means is left to the host: a
        throwaway convolution of its own tells.
        """
        if not self.d.get("activation"):
            yield
            return
        conv = self.tasks.Conv
        with torch.random.fork_rng(devices=[]):  # not on the meta device: an activation may have parameters
            act = self.parse_stock([[-1, 1, "Conv", [8]]])[0].act
        before = conv.default_act
        conv.default_act = act
        try:
            yield
        finally:
            conv.default_act = before


def _multiples(where: str, values: Any) -> tuple[float, float, float]:
    """Return depth and width multiple and channel bound.

    Raises:
        ConfigError: If they are not three numbers above 0.
    """
    good = isinstance(values, (list, tuple)) and len(values) == 3
    if not good or not all((is_number(v) or v == math.inf) and v > 0 for v in values):
        raise ConfigError(f"{where} of the model YAML", "multiples above 0", values)
    depth, width, most = values
    return depth, width, most


def _check_activation(given: Any) -> None:
    """Refuse an ``activation:`` that is no layer of torch: the host evaluates what stands there.

    Raises:
        ConfigError: If it is something else.
    """
    layer = ACTIVATION.fullmatch(given) if isinstance(given, str) else None
    if given is not None and not (layer and isinstance(getattr(nn, layer[1], None), type)):
        raise ConfigError("'activation' of the model YAML", "a layer of torch.nn, such as nn.ReLU()", given)
