"""What can be switched off, by name, and which blocks of a network each entry concerns.

A block says itself what of it can be switched off (``knockouts`` of its class). Here is what concerns several kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.explain import switches
from ultra_dsmoe.explain.record import blocks, head_attentions, hub_outputs
from ultra_dsmoe.nn import registry
from ultra_dsmoe.nn.contract import DETECT, task_of
from ultra_dsmoe.nn.knockout import Knockout, Record, constant

Find = Callable[[nn.Module], list[Any]]
CONTROL = "control"  # evaluated last: it also shows that all the others gave everything back


@dataclass(frozen=True)
class Entry:
    """A knock-out and the blocks of a network that it concerns.

    Attributes:
        knockout: What is switched off, and how.
        find: Returns the blocks; where there are none, it does not apply.
        task: Of the nets that have such blocks.
    """

    knockout: Knockout
    find: Find
    task: str = DETECT

    @property
    def name(self) -> str:
        """Short name, as in ``only=``."""
        return self.knockout.name

    @property
    def what(self) -> str:
        """What is done, in plain words."""
        return self.knockout.what

    @contextmanager
    def switch(self, net: nn.Module, record: Record, seed: int) -> Iterator[None]:
        """Have the thing off in ``net`` for the length of the block."""
        anew = switches.unfolded(net) if self.knockout.text else nullcontext()
        with anew, self.knockout.switch(self.find(net), record, seed):
            yield


def of_class(cls: type[nn.Module], knockout: Knockout) -> Entry:
    """Return the entry of a knock-out that a layer brings along."""
    article = "an" if cls.__name__[0] in "AEIOU" else "a"
    needs = knockout.needs or f"{article} {cls.__name__} row"

    def find(net: nn.Module) -> list[Any]:
        return [part for m in blocks(net, cls) if knockout.applies(m) for part in knockout.parts(m)]

    return Entry(replace(knockout, needs=needs), find, task_of(cls))


_ATTENTION = "a head with attention"
_SHARED = (
    Entry(
        Knockout("hub-constant", "hub output replaced by its mean", constant, "a FeatureAggregation row"), hub_outputs
    ),
    Entry(
        Knockout("attention-off", "head attention weighs everything by 1", switches.attention_off, _ATTENTION),
        head_attentions,
    ),
    Entry(
        Knockout("attention-constant", "head attention replaced by its mean", switches.attention_constant, _ATTENTION),
        head_attentions,
    ),
    Entry(Knockout(CONTROL, "nothing switched off", switches.unchanged, "nothing"), lambda net: [net]),
)


def catalogue() -> dict[str, Entry]:
    """Return all entries by name: those of all layers, a user's own included, then the shared ones.

    Raises:
        ConfigError: If a layer has given one the name of a shared one.
    """
    own = {knockout.name: of_class(cls, knockout) for cls, knockout in registry.knockouts()}
    for entry in _SHARED:
        if entry.name in own:
            raise ConfigError("knockouts of a layer", "names that are not taken", entry.name)
    return {**own, **{entry.name: entry for entry in _SHARED}}


def applicable(net: nn.Module, only: list[str] | None = None) -> tuple[list[Entry], list[str]]:
    """Return the entries that apply to a network, and a note on each that does not.

    Args:
        net: The network.
        only: Names to choose from; all where omitted.
    """
    fitting = [k for k in _chosen(only) if k.find(net)]
    return fitting, [f"{k.name} does not apply: the model has not {k.knockout.needs}" for k in lacking(net, only)]


def lacking(net: nn.Module, only: list[str] | None = None) -> list[Entry]:
    """Return the entries that do not apply to a network, those of other tasks only where they are named.

    Args:
        net: The network.
        only: Names to choose from; all where omitted.
    """
    task = getattr(net, "task", DETECT)
    return [k for k in _chosen(only) if not k.find(net) and (only is not None or k.task == task)]


def _chosen(only: list[str] | None) -> list[Entry]:
    return [k for k in catalogue().values() if only is None or k.name in only]
