"""Self-distillation: the student's head learns to say what a teacher's says, at the same anchor points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ultra_dsmoe.checks import flag, is_number, number
from ultra_dsmoe.distill.enhanced_kl import as_strong, box_divergence, class_divergence, confidence, foreground
from ultra_dsmoe.distill.method import Pair, Seen, register_method
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.base import autocast_off
from ultra_dsmoe.nn.contract import Option

ONE2MANY = "one2many"  # of an end-to-end head's two outputs the one that trains the backbone
SCORES, BOXES = "scores", "boxes"  # the host's names of a head's outputs
HOTTEST = 100.0  # temperature at which all scores are nearly the same (our choice)


def _temperature(argument: str, value: Any) -> None:
    if not is_number(value, high=HOTTEST) or value <= 0:
        raise ConfigError(argument, f"a number above 0, at most {HOTTEST:g}", value)


def _share(argument: str, value: Any) -> None:
    number(argument, value, 0, 1)


# Ours, as the formula. With these and the gains below the terms pulled a third as much as the host's loss in a trial.
SOFT = {"cls_temperature": Option(2.0, _temperature), "box_temperature": Option(1.0, _temperature)}
MU = Option(0.5, _share)


class OutputMethod:
    """Class scores and box distributions of both heads, by the divergences of `ultra_dsmoe.distill.enhanced_kl`.

    Attributes:
        plain: Whether every anchor counts the same and the divergence has one direction, the ordinary KL; as strong as
            the enhanced one unless the option ``match`` says no.
    """

    outputs = True
    same_levels = True
    adaptive = "none"  # they would move what the gains are there to say
    warmup = 3.0
    unused = ("temperature", "normalize")

    def __init__(self, *, plain: bool) -> None:
        """Build a preset."""
        self.plain = plain
        self.gains: Mapping[str, float] = MappingProxyType({"kd_cls": 1.0, "kd_box": 0.5})
        own = {"match": Option(True, flag)} if plain else {"mu": MU}
        self.options: Mapping[str, Option] = MappingProxyType({**SOFT, **own})

    def adapters(self, pair: Pair) -> nn.ModuleList:
        """Return nothing: both heads speak of the same classes and anchors."""
        return nn.ModuleList()

    def terms(
        self, config: Any, pair: Pair, adapters: nn.ModuleList, teacher: Seen, student: Seen, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return ``kd_cls`` and ``kd_box`` of a batch; arguments as of `Method.terms`.

        Without a box distribution that both heads have, as YOLO26 has none, ``kd_box`` is zero.
        """
        taught = _said(teacher, [level.teacher for level in pair.levels])
        said = _said(student, [level.student for level in pair.levels])
        with autocast_off(said[SCORES]):
            classes = self._class_term(config.own, taught[SCORES].float(), said[SCORES].float())
            if not _comparable(_bins(taught[BOXES]), _bins(said[BOXES])):
                return {"kd_cls": classes, "kd_box": classes.new_zeros(())}
            weight = confidence(taught[SCORES].float())
            return {"kd_cls": classes, "kd_box": self._box_term(config.own, weight, taught[BOXES], said[BOXES])}

    def idle(self, pair: Pair) -> tuple[str, ...]:
        """Return the term that stays 0 where the boxes cannot be compared."""
        return () if _comparable(*pair.bins) else ("kd_box",)

    def about(self, pair: Pair) -> str:
        """Say where the boxes cannot be compared."""
        if not self.idle(pair):
            return ""
        student, teacher = pair.bins
        return f", classes alone (bins of a box side: {student} and {teacher} of the teacher; kd_box stays 0)"

    def _class_term(self, own: Mapping[str, Any], teacher: Tensor, student: Tensor) -> Tensor:
        weight, soft = confidence(teacher), own["cls_temperature"]
        if not self.plain:
            return class_divergence(teacher, student, weight, soft, own["mu"])
        plain = partial(class_divergence, teacher, weight=torch.ones_like(weight), temperature=soft, mu=0.0)
        enhanced = partial(class_divergence, teacher, weight=weight, temperature=soft, mu=MU.default)
        return as_strong(plain, enhanced, student) if own["match"] else plain(student)

    def _box_term(self, own: Mapping[str, Any], weight: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
        teacher, student, soft = teacher.float(), student.float(), own["box_temperature"]
        enhanced = partial(box_divergence, teacher, weight=foreground(weight), temperature=soft)
        if not self.plain:
            return enhanced(student)
        plain = partial(box_divergence, teacher, weight=torch.ones_like(weight), temperature=soft)
        return as_strong(plain, enhanced, student) if own["match"] else plain(student)


def _said(seen: Seen, levels: Sequence[int]) -> dict[str, Tensor]:
    """Return class and box logits of the anchors of some levels, (B, nc, A) and (B, 4 bins, A)."""
    heads = seen.outputs.get(ONE2MANY, seen.outputs)
    cells = [m.shape[-2] * m.shape[-1] for m in seen.maps]
    found = {}
    for name in (SCORES, BOXES):
        parts = heads[name].split(cells, -1)
        found[name] = torch.cat([parts[level] for level in levels], -1)
    return found


def _bins(boxes: Tensor) -> int:
    return boxes.shape[1] // 4


def _comparable(student: int, teacher: int) -> bool:
    """Whether two heads have the same distribution of a box side: one bin is none."""
    return student == teacher > 1


register_method("self", OutputMethod(plain=False))
register_method("self-plain", OutputMethod(plain=True))
