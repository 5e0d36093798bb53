"""The attentions that neck and head of the T- and S-model can have, by the names that the model YAML uses."""

from __future__ import annotations

from torch import nn

from ultra_dsmoe import checks
from ultra_dsmoe.nn.attention.cbam import CBAM
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.contract import Option

ATTENTIONS: dict[str, type[nn.Module]] = {"da": DualAttention, "cbam": CBAM, "none": nn.Identity}  # [TS] Table 6
USUAL = "da"
MapAttention = DualAttention | CBAM  # for annotations
KINDS = (DualAttention, CBAM)  # for isinstance
# The option of every block that has one of them.
ATTENTION = Option(USUAL, lambda argument, kind: checks.one_of(argument, kind, ATTENTIONS))
