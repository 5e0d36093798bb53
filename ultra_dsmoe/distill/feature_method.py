"""The method of the papers: compare the maps that student's and teacher's detectors read, level by level."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from ultra_dsmoe.distill.adapter import Adapter
from ultra_dsmoe.distill.method import Pair, Seen, register_method
from ultra_dsmoe.distill.terms import distillation_terms
from ultra_dsmoe.nn.contract import Option


class FeatureMethod:
    """Maps through an adapter per level; terms as of `distillation_terms`.

    Attributes:
        looks: Whether maps are looked at through the teacher's attention; without it there is no temperature.
    """

    outputs = False
    options: Mapping[str, Option] = MappingProxyType({})

    def __init__(self, gains: Mapping[str, float], adaptive: str, *, looks: bool) -> None:
        """Build a preset."""
        self.gains: Mapping[str, float] = MappingProxyType(dict(gains))
        self.adaptive, self.looks = adaptive, looks
        self.unused = () if looks else ("temperature",)

    def adapters(self, pair: Pair) -> nn.ModuleList:
        """Return the adapters f, one per level."""
        return nn.ModuleList(Adapter(pair.student_widths[s], pair.teacher_widths[t]) for _, s, t in pair.levels)

    def terms(
        self, config: Any, pair: Pair, adapters: nn.ModuleList, teacher: Seen, student: Seen, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the terms of a batch; arguments as of `Method.terms`."""
        teachers = [teacher.maps[level.teacher] for level in pair.levels]
        students = [
            adapter(student.maps[level.student], wanted.shape[-2:])
            for adapter, level, wanted in zip(adapters, pair.levels, teachers, strict=True)
        ]
        boxes, index = (batch[name].to(teachers[0].device) for name in ("bboxes", "batch_idx"))
        return distillation_terms(config, teachers, students, pair.attentions, boxes, index)

    def about(self, pair: Pair) -> str:
        """Say on how many levels the teacher has an attention of its own."""
        own = sum(attention is not None for attention in pair.own_attentions)
        return f", the teacher's attention on {own}" if self.looks else ""


# Gains are ours: L_fg and L_G at 1 weigh nearly as much as boxes and classes; a quarter did better (docs/ts_model.md).
register_method("attention", FeatureMethod({"fg": 0.25, "att": 1.0, "glob": 0.25}, "ema", looks=True))
register_method("mimic", FeatureMethod({"mimic": 1.0}, "none", looks=False))
