"""What a way to distil has to say of itself, and the table of those there are, by the names that ``dsmoe_kd`` knows.

`FeatureMethod` is the one of this package, in two presets. Another one is an object with the attributes of `Method`,
enrolled by `register_method` before the training; a run that goes on needs it enrolled again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from ultra_dsmoe.distill.attention import ActivationAttention, Attention, neck_attention
from ultra_dsmoe.distill.levels import Level
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.attention.kinds import MapAttention
from ultra_dsmoe.nn.contract import Option

HOST = "host"  # the preset that leaves distillation to the host
DETECTION = ("cls", "box")  # terms of the student's own criterion that the adaptive weights move too
# What a method may leave out, and what it then has.
USUAL: Mapping[str, Any] = MappingProxyType(
    {"warmup": 0.0, "same_levels": False, "unused": (), "idle": lambda pair: ()}
)


@dataclass
class Seen:
    """What a net showed of a batch.

    Attributes:
        maps: What its detectors read, finest first.
        outputs: What its head made of them, as the host's criterion gets it; None for methods without ``outputs``.
    """

    maps: list[Tensor] = field(default_factory=list)
    outputs: Any = None


class Pair:
    """Student and teacher, as far as a method has to know them before the first batch.

    Attributes:
        levels: Levels that both have and that are to be distilled.
        student_widths: Channels of the student's maps.
        teacher_widths: Channels of the teacher's maps.
        teacher_rows: Rows that make the teacher's maps.
        bins: How many bins the distribution of a box side has, of the student and of the teacher; 1 is none.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        student_widths: Sequence[int],
        teacher_widths: Sequence[int],
        teacher_rows: Sequence[nn.Module],
        bins: tuple[int, int] = (1, 1),
    ) -> None:
        self.levels = tuple(levels)
        self.student_widths, self.teacher_widths = student_widths, teacher_widths
        self.teacher_rows, self.bins = teacher_rows, bins

    @cached_property
    def own_attentions(self) -> list[MapAttention | None]:
        """The attention that the teacher's neck ends in, per level."""
        return [neck_attention(self.teacher_rows[at], self.teacher_widths[at]) for _, _, at in self.levels]

    @cached_property
    def attentions(self) -> list[Attention]:
        """M of each level: the teacher's own attention, or where its maps are large."""
        return [(own or ActivationAttention()).attended for own in self.own_attentions]


class Method(Protocol):
    """One way to distil.

    Beside these it may have, see `USUAL`: ``warmup``, the epochs over which it usually grows to its strength;
    ``same_levels``, whether it needs a teacher of the student's strides; ``unused``, general options of `KDConfig` that
    mean nothing to it and are refused; ``idle``, a function that returns the terms which stay 0 for a `Pair`.

    Attributes:
        gains: Usual gain of each term, in order; none may be called ``cls`` or ``box``.
        adaptive: Usual rule of the adaptive weights.
        outputs: Whether it reads what the heads say: then the teacher's runs too.
        options: Keys of its own in a ``dsmoe_kd`` mapping; their values are in `KDConfig.own`.
    """

    gains: Mapping[str, float]
    adaptive: str
    outputs: bool
    options: Mapping[str, Option]

    def adapters(self, pair: Pair) -> nn.ModuleList:
        """Return what is trained along with the student; an empty list where nothing is."""

    def terms(
        self, config: Any, pair: Pair, adapters: nn.ModuleList, teacher: Seen, student: Seen, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the terms of a batch as scalars, without gains and weights.

        Args:
            config: Settings, a `KDConfig`.
            pair: The two nets.
            adapters: What `adapters` returned.
            teacher: What the teacher showed; without gradients.
            student: What the student showed.
            batch: Images and labels.
        """

    def about(self, pair: Pair) -> str:
        """Return what the log says beside the method's name, beginning with a comma; may be empty."""


METHODS: dict[str, Method] = {}


def trait(name: str, what: str) -> Any:
    """Return what a method says of itself, or the usual where it may leave that out; names as in `USUAL`."""
    return getattr(METHODS[name], what, USUAL[what])


def register_method(name: str, method: Method) -> None:
    """Enrol a method, so that ``dsmoe_kd=name`` and ``method: name`` in a ``dsmoe_kd`` YAML mean it.

    Raises:
        ConfigError: If the name is taken, or a term is called like one of the detection's.
    """
    if name == HOST or METHODS.get(name, method) is not method:
        raise ConfigError(f"register_method({name})", "a name that is not taken", name)
    if not method.gains or set(method.gains) & set(DETECTION):
        raise ConfigError(f"register_method({name})", "gains of terms that are not called cls or box", {**method.gains})
    METHODS[name] = method
