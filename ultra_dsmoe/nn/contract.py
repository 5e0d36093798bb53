"""What a block brings along beside its forward, as attributes of its class; every one of them may be left out.

==================  ========================================================================================
``options``         keys of the model YAML's ``dsmoe:`` section that its parse rule reads, `RowContext.option`
``aux_terms``       auxiliary terms of the loss that it leaves on itself, see `AuxLossMixin`
``run_settings``    attributes that keys may change for one call, see `SettingsMixin`
``knockouts``       what of it can be switched off, see `Knockout`
``connect``         method that is given the layers which its row reads, once all are built
``fast_parameters`` parameters that the trainer gives a faster pace, and its kin: `ultra_dsmoe.train.optimizer`
``task``            of the nets that it is made for, ``detect`` where it says nothing: theirs know its options
==================  ========================================================================================

`register` checks them, and whoever needs them asks the registry or the net: a new block touches its own file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Keys of the model YAML's ``dsmoe:`` section that concern the whole net, `ultra_dsmoe.model.options`.
NET_OPTIONS = ("loss", "cls_loss", "qfl", "gains", "gamma", "transfer")
DETECT, CLASSIFY = "detect", "classify"  # tasks of our nets, as Ultralytics calls them
AUX_COLUMN = "aux_loss"  # of results.csv, where all terms are added up that have no column of their own
HOST_COLUMNS = ("box_loss", "cls_loss", "dfl_loss", "l1_loss")


@dataclass(frozen=True)
class Option:
    """A key of a section of options: of the model YAML's ``dsmoe:``, or of a ``dsmoe_kd`` mapping.

    Blocks may share a key; they then declare one and the same `Option`.

    Attributes:
        default: Its value where the section has none.
        check: ``check(argument, value)`` raises a `ConfigError` that names ``argument`` for a wrong value; None leaves
            that to the block's constructor.
    """

    default: Any
    check: Callable[[str, Any], Any] | None = None

    def checked(self, argument: str, key: str, section: Mapping[str, Any]) -> Any:
        """Return the value that a section has under ``key``, the default where it has none.

        Args:
            argument: How an error calls the option.
            key: The option's key.
            section: The section.

        Raises:
            ConfigError: If the value is wrong.
        """
        if key not in section:
            return self.default
        if self.check is not None:
            self.check(argument, section[key])
        return section[key]


@dataclass(frozen=True)
class AuxTerm:
    """An auxiliary term of the loss.

    Attributes:
        gain: Its factor; ``gains`` in the model YAML's ``dsmoe:`` section overrides it.
        loss: ``loss(left, batch)`` gives the term, a scalar, of what the block left and of images and labels; None
            where the block left the term itself.
        column: Column of results.csv; terms of one column are added up.
    """

    gain: float
    loss: Callable[[Tensor, dict[str, Tensor]], Tensor] | None = None
    column: str = AUX_COLUMN


def task_of(layer: type) -> str:
    """Return the task of the nets that a layer is made for; any net may have it in a row."""
    return str(getattr(layer, "task", DETECT))
