"""The enhanced KL divergence between what two heads say at the same anchor points, and its plain twin.

Detectors decide for every class by itself, so that the divergence of the class scores is one of Bernoulli variables,
per anchor and class; a softmax over the classes would compare something else. The formulas take logits, in fp32: the
caller sees to that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FOREGROUND = 0.05  # teacher's confidence from which an anchor's box counts
_EPS = 1e-6  # of a sum of weights: no anchor counts
_TINY = 1e-12  # of a gradient's norm: two heads that say the same


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(sigmoid(p) || sigmoid(q)) of logits, element by element: >= 0, zero for equal ones.

    Stable at any logits: both signs of p and q give the same number, and the one with p <= 0 loses no digits.

    Args:
        p: Logits of the distribution that counts the surprise, any shape.
        q: Logits of the other one, same shape.
    """
    sign = torch.where(p > 0, -1.0, 1.0)
    p, q = sign * p, sign * q
    return torch.sigmoid(p) * (p - q) + F.softplus(q) - F.softplus(p)


def confidence(teacher_scores: Tensor) -> Tensor:
    """Return omega, the teacher's largest class probability at each anchor, (B, A), of logits (B, nc, A)."""
    return teacher_scores.detach().sigmoid().amax(1)


def class_divergence(teacher: Tensor, student: Tensor, weight: Tensor, temperature: float, mu: float) -> Tensor:
    """Return L_cls: the weighted mean over anchors of the classes' divergences, summed over classes.

    Source: [GASNet], which names an enhanced KL loss and gives no formula: all of it is ours. mu > 0 also counts what
    surprises the teacher, so that a student is held back where the teacher sees nothing.

    Args:
        teacher: Class logits of the teacher, (B, nc, A); detached.
        student: The student's, same shape; get the gradient.
        weight: What an anchor counts, >= 0, (B, A).
        temperature: T > 0; the result is multiplied by T^2, so that it sets how soft and not how strong.
        mu: Share of the reverse divergence, 0 to 1.

    Returns:
        A number >= 0, zero for equal logits.
    """
    p, q = teacher / temperature, student / temperature
    each = (1 - mu) * bernoulli_kl(p, q)
    if mu > 0:
        each = each + mu * bernoulli_kl(q, p)
    return temperature**2 * _mean(each.sum(1), weight)


def box_divergence(teacher: Tensor, student: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Return L_box: the weighted mean over anchors of the divergence of a side's distribution, the mean of four sides.

    Source: [GASNet], ours as `class_divergence`.

    Args:
        teacher: Logits of the sides' distributions, (B, 4 bins, A); detached.
        student: The student's, same shape; get the gradient.
        weight: What an anchor counts, >= 0, (B, A).
        temperature: T > 0; the result is multiplied by T^2.

    Returns:
        A number >= 0: zero for equal logits, and where no anchor counts.
    """
    p, q = (
        F.log_softmax(logits.unflatten(1, (4, -1)) / temperature, 2)  # (B, 4, bins, A)
        for logits in (teacher, student)
    )
    each = F.kl_div(q, p, log_target=True, reduction="none").sum(2).mean(1)
    return temperature**2 * _mean(each, weight)


def foreground(weight: Tensor) -> Tensor:
    """Return m: omega where it is above `FOREGROUND`, 0 elsewhere, (B, A)."""
    return weight * (weight > FOREGROUND)


def as_strong(plain: Callable[[Tensor], Tensor], enhanced: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return the plain loss times a number that makes its gradient as long as the enhanced loss's, of this batch.

    A mean over all anchors is mostly one over the background, where the heads agree: with the same gain it pulls
    several times less, and a comparison of the two would be one of two strengths. Measured anew for each batch, so
    nothing has to be kept or agreed upon between workers.

    Args:
        plain: Loss of the student's logits.
        enhanced: The loss to be compared with.
        logits: The student's.
    """
    lengths = [_length(loss, logits) for loss in (enhanced, plain)]
    return plain(logits) * (lengths[0] / lengths[1].clamp_min(_TINY))


def _length(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    at = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(at), at)[0].norm()


def _mean(each: Tensor, weight: Tensor) -> Tensor:
    return (weight * each).sum() / weight.sum().clamp_min(_EPS)
