"""The attentions that neck and head of the T- and S-model can have, by the names that the model YAML uses."""

from __future__ import annotations

from torch import nn

from ultra_dsmoe.errors import ConfigError, did_you_mean
from ultra_dsmoe.nn.attention.cbam import CBAM
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.contract import Option

ATTENTIONS: dict[str, type[nn.Module]] = {"da": DualAttention, "cbam": CBAM, "none": nn.Identity}  # [TS] Table 6
USUAL = "da"
MapAttention = DualAttention | CBAM  # for annotations
KINDS = (DualAttention, CBAM)  # for isinstance


def check_attention(kind: object, place: str) -> str:
    """Return the name of an attention.

    Args:
        kind: What was given.
        place: Which block asks, for the error.

    Raises:
        ConfigError: If it is neither ``da`` nor ``cbam`` nor ``none``.
    """
    if not isinstance(kind, str) or kind not in ATTENTIONS:
        raise ConfigError(f"{place} attention", f"{' or '.join(ATTENTIONS)}{did_you_mean(kind, ATTENTIONS)}", kind)
    return kind


# The option of every block that has one of them.
ATTENTION = Option(USUAL, lambda argument, kind: check_attention(kind, argument.partition(".")[0]))
