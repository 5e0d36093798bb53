"""Rows of a model YAML: which are ours, what they read, and how the layer's own rule is asked."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ultra_dsmoe.checks import is_whole, whole
from ultra_dsmoe.errors import ConfigError, DSMoEError, did_you_mean

# What wrong arguments of a layer, stock ones included, end in.
FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError, AssertionError)
# Names that a row's arguments may use beside literals, as in the host's rows.
VARIABLES = ("nc", "reg_max", "end2end", "kpt_shape", "scale", "depth", "width", "max_channels")


class Row:
    """One row: ``[from, repeats, layer, arguments]``; no dataclass, whose making costs every import of the host.

    Attributes:
        i: Its index.
        f: Where its input comes from, as written.
        n: Repeats.
        name: Class name of the layer.
        args: Arguments as written.
        ours: Whether the layer is one of ours.
        sources: Absolute indices of its inputs, -1 for the image.
        plan: What to build, once the layer's rule has been asked.
    """

    def __init__(self, i: int, f: int | list[int], n: int, name: str, args: list[Any], ours: bool) -> None:
        self.i, self.f, self.n, self.name, self.args, self.ours = i, f, n, name, args, ours
        self.sources: list[int] = []
        self.plan: Any = None

    @property
    def label(self) -> str:
        """How errors call this row."""
        return f"model YAML row {self.i} ({self.name})"

    def stock(self) -> list[Any]:
        """Return the row as the host reads it."""
        return [self.f, self.n, self.name, self.args]

    def ask(self, c1: list[Any], args: list[Any], d: dict[str, Any], width: float, max_channels: float) -> None:
        """Ask the layer's rule for the plan.

        Raises:
            ConfigError: If the row's arguments do not suit the rule.
        """
        from ultra_dsmoe.nn.registry import RowContext, plan_row

        options = d.get("dsmoe") or {}
        if not isinstance(options, dict):
            raise ConfigError("section 'dsmoe' of the model YAML", "a mapping", options)
        context = RowContext(
            name=self.name,
            c1=c1 if isinstance(self.f, list) else c1[0],
            args=args,
            n=self.n,
            nc=d.get("nc", 80),
            width=width,
            max_channels=max_channels,
            reg_max=d.get("reg_max", 16),
            end2end=bool(d.get("end2end")),
            options=options,
        )
        with self.blamed():
            self.plan = plan_row(context)

    def make(self) -> nn.Module:
        """Build the layer and attach what the host attaches to its own: index, inputs, type, number of parameters."""
        from ultra_dsmoe.nn.registry import LAYERS

        cls, plan = LAYERS[self.name], self.plan
        with self.blamed():
            copies = [cls(*plan.args, **plan.kwargs) for _ in range(plan.repeats)]
        layer: Any = copies[0] if len(copies) == 1 else nn.Sequential(*copies)
        layer.np = sum(p.numel() for p in layer.parameters())
        layer.i, layer.f, layer.type = self.i, self.f, f"{cls.__module__}.{cls.__qualname__}"
        return layer

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Name this row, by number and layer, in errors that its arguments cause."""
        try:
            yield
        except DSMoEError as e:  # a block knows its name alone
            of_rule, of_block = f"model YAML row {self.name}", f"{self.name} "
            if e.argument != of_rule and not e.argument.startswith(of_block):
                raise
            rest = "" if e.argument == of_rule else f" {e.argument.removeprefix(of_block)}"
            raise type(e)(f"{self.label}{rest}", e.expected, e.got) from e
        except FAULTS as e:
            raise ConfigError(self.label, "arguments that the layer accepts", f"{self.args} ({e})") from e


def names_of(d: Any) -> list[str]:
    """Return the layer names of a model YAML, nothing for what is none."""
    if not isinstance(d, dict):
        return []
    parts = [d.get(part) for part in ("backbone", "head")]
    rows = [row for part in parts if isinstance(part, (list, tuple)) for row in part]
    return [row[2] for row in rows if isinstance(row, (list, tuple)) and len(row) > 2 and isinstance(row[2], str)]


def is_ours(d: Any, known: Mapping[str, Any]) -> bool:
    """Whether a model YAML names a layer of ours; our layers are only imported when it names one the host lacks.

    Args:
        d: Content of the YAML.
        known: Names that the host's parser knows.

    Raises:
        ConfigError: If it names no layer at all that is ours, but one that looks like a misspelt one.
    """
    foreign = [name for name in names_of(d) if "." not in name and name not in known]
    if not foreign:
        return False
    layers = load_layers()
    if any(name in layers for name in foreign):
        return True
    for name in foreign:
        if hint := did_you_mean(name, layers):
            raise ConfigError("layer in the model YAML", f"a known name{hint}", name)
    return False


def task_of_head(d: Any, known: Mapping[str, Any]) -> str | None:
    """Return the task of a model YAML by its last layer: ``detect``, ``classify``, or None for any other.

    Args:
        d: Content of the YAML.
        known: Names that the host's parser knows.
    """
    names = names_of(d)
    head = load_layers().get(names[-1], known.get(names[-1])) if names else None
    if not isinstance(head, type) or issubclass(head, tuple(known[name] for name in ("Segment", "Pose", "OBB"))):
        return None
    kinds = {"classify": known["Classify"], "detect": known["Detect"]}
    return next((task for task, kind in kinds.items() if issubclass(head, kind)), None)


def load_layers() -> dict[str, type[nn.Module]]:
    """Import all layers of the package and return the registry."""
    from ultra_dsmoe.nn.registry import LAYERS

    return LAYERS


def read_rows(d: dict[str, Any], known: Mapping[str, Any]) -> list[Row]:
    """Read the rows of a YAML that has layers of ours.

    Raises:
        ConfigError: If a row is malformed, names an unknown layer, or reads one that does not come before it.
    """
    from ultra_dsmoe.model.options import check_rows  # late, as the layers

    layers, rows = load_layers(), []
    for i, raw in enumerate(check_rows(d)):
        f, n, name, args = _fields(i, raw)
        ours = name in layers
        if not ours and "." not in name and name not in known:
            names = [*layers, *(k for k, v in known.items() if isinstance(v, type) and issubclass(v, nn.Module))]
            raise ConfigError(f"model YAML row {i}", f"a known layer{did_you_mean(name, names)}", name)
        row = Row(i, f, n, name, list(args), ours)
        row.sources = [i + j if j < 0 else j for j in (f if isinstance(f, (list, tuple)) else [f])]
        if not row.sources or any(j >= i or j < (-1 if i == 0 else 0) for j in row.sources):
            raise ConfigError(row.label, "'from' with rows that come before it", f)
        rows.append(row)
    _check_head(rows, [row for row in rows if _is_head(layers.get(row.name, known.get(row.name)), known)])
    return rows


def _is_head(cls: Any, known: Mapping[str, Any]) -> bool:
    """Whether a layer is a detection head, the host's or ours."""
    return isinstance(cls, type) and issubclass(cls, known["Detect"])


def _check_head(rows: list[Row], heads: list[Row]) -> None:
    """Refuse a head that is not the last row, or is repeated; the host takes both and makes something else of them.

    Raises:
        ConfigError: If there is one.
    """
    for head in heads:
        if head is not rows[-1]:
            behind = rows[head.i + 1]
            raise ConfigError(head.label, "the head in the last row", f"row {behind.i} ({behind.name}) behind it")
        if head.n != 1:
            raise ConfigError(f"repeats of {head.label}", "1, it is a head", head.n)


def _fields(i: int, raw: Sequence[Any]) -> tuple[Any, int, str, Any]:
    """Return the four fields of row ``i``.

    Raises:
        ConfigError: If one of them is of another kind.
    """
    f, n, name, args = raw
    if not isinstance(name, str):
        raise ConfigError(f"model YAML row {i}", "the name of a layer as its third field", name)
    if not all(map(is_whole, f if isinstance(f, (list, tuple)) else [f])):
        raise ConfigError(f"model YAML row {i} ({name})", "'from' with the number of a row, or a list of them", f)
    whole(f"repeats of model YAML row {i} ({name})", n)
    return f, n, name, args


def resolve(args: list[Any], values: Mapping[str, Any]) -> list[Any]:
    """Replace names such as ``nc`` by their values and literals in quotes by what they say, as the host does."""
    resolved = []
    for arg in args:
        if isinstance(arg, str):
            if arg in VARIABLES and arg in values:
                arg = values[arg]
            else:
                with contextlib.suppress(ValueError, SyntaxError):
                    arg = ast.literal_eval(arg)
        resolved.append(arg)
    return resolved
