"""All distillation terms of a batch: every level's, averaged over levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ultra_dsmoe.distill.attention import Attention, attention_mask
from ultra_dsmoe.distill.config import KDConfig
from ultra_dsmoe.distill.feature_losses import attention_loss, foreground_loss, global_loss, mimic_loss
from ultra_dsmoe.distill.masks import scale_mask

_EPS = 1e-6  # of a standard deviation: two constant maps


def distillation_terms(
    config: KDConfig,
    teacher_maps: Sequence[Tensor],
    student_maps: Sequence[Tensor],
    attentions: Sequence[Attention],
    boxes_xywh_norm: Tensor,
    image_index: Tensor,
) -> dict[str, Tensor]:
    """Return the terms of `KDConfig.terms` without gains and weights, each the mean over the levels, in fp32.

    F is what a detector reads, the neck's output: where the neck ends in a dual attention, the map behind it. The same
    M, the teacher's of that level, looks at both maps.

    Source: [TS] Eq. 5, 10-13. Ours: `KDConfig.normalize`; (12) is multiplied by T^2, which its softmaxes divide it by,
    so that T sets how sharp the masks are and not how much they count.

    Args:
        config: Settings.
        teacher_maps: F^T of each level, (B, C_l, H_l, W_l); detached.
        student_maps: f(F^S) of each level, same shapes; get the gradient.
        attentions: M of each level.
        boxes_xywh_norm: Boxes of all images, centre and size as shares of the image, (N, 4).
        image_index: Image of each box, (N,).
    """
    level_terms = _LEVEL_TERMS[config.method]
    totals: dict[str, Tensor] = {}
    for teacher, student, attention in zip(teacher_maps, student_maps, attentions, strict=True):
        terms = level_terms(config, teacher, student, attention, boxes_xywh_norm, image_index)
        for name, term in terms.items():
            totals[name] = totals.get(name, 0.0) + term / len(teacher_maps)
    return totals


def _attention_terms(
    config: KDConfig, teacher: Tensor, student: Tensor, attention: Attention, boxes: Tensor, image_index: Tensor
) -> dict[str, Tensor]:
    with torch.no_grad():
        seen = attention(teacher)
    seen, student_seen = _comparable(seen, attention(student), config.normalize)
    mask, student_mask = (attention_mask(m, config.temperature) for m in (seen, student_seen))
    scale = scale_mask(boxes, image_index, len(teacher), (teacher.shape[-2], teacher.shape[-1]))
    if config.normalize:
        scale = scale / scale.sum((2, 3), keepdim=True)  # every box and the background are 1 each: a weighted mean
    return {
        "fg": foreground_loss(*_comparable(teacher, student, config.normalize), scale, mask),
        "att": attention_loss(mask, student_mask) * config.temperature**2,
        "glob": global_loss(seen, student_seen),
    }


def _mimic_terms(config: KDConfig, teacher: Tensor, student: Tensor, *_: Any) -> dict[str, Tensor]:
    return {"mimic": mimic_loss(*_comparable(teacher, student, config.normalize))}


_LEVEL_TERMS: dict[str, Callable[..., dict[str, Tensor]]] = {"attention": _attention_terms, "mimic": _mimic_terms}


def _comparable(teacher: Tensor, student: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Return two maps or attentions in fp32; where asked for, in the larger of their standard deviations."""
    teacher, student = teacher.float(), student.float()
    if not normalize:
        return teacher, student
    unit = torch.maximum(teacher.std(), student.detach().std()).clamp_min(_EPS)
    return teacher / unit, student / unit
