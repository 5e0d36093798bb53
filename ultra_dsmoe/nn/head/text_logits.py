"""Let the text speak where classes are decided: a class branch's output with the classes' anchors beside it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ultra_dsmoe.nn.base import autocast_off
from ultra_dsmoe.nn.knockout import Record, hooked
from ultra_dsmoe.nn.neck.poincare_alignment import PoincareAlignment

_WIDTH = 16  # dimensions of the ball: room for tens of classes at little work
_INIT_TAU = 1.0  # at the fusion's 0.2 the fresh term swings by 5, and classes learn later than without text


class TextLogits(nn.Conv2d):
    """The output layer of a class branch in which text says which class a position shows.

    ``s_k = w.f + b_k + gain (t_k - mean_j t_j)``, ``t_k = -d(exp0 u, exp0 a_k) / tau``. The convolution says whether
    there is a defect: its weights are the mean of its K rows. The text term sums to zero over the classes and alone
    says which. So one class gets nothing from text.

    ``beside=True`` leaves the convolution its K rows and starts with gain 0: with pretrained weights the head then
    starts as the host's. Trained from scratch, such a convolution learns the classes by itself and the text can be
    taken away at no cost (docs/results/log.md).

    It is a convolution with the host's parameter names, so stock class branches transfer and the host's bias
    initialisation, class renaming and INT8 rules find what they look for.

    Source: our choice, after [DSMoE] Eq. 12 and 30.
    """

    fast_parameters: tuple[str, ...] = ()
    text: Tensor | None = None  # T (K, d_t) of the forward that is under way, set and cleared by the head

    def __init__(self, c: int, nc: int, text_width: int, *, beside: bool = False, hyperbolic: bool = True) -> None:
        """Build the output layer.

        Args:
            c: Channels of the branch's hidden map.
            nc: Number of classes K.
            text_width: Width d_t of T.
            beside: Whether the convolution tells classes apart too, with text beside it from gain 0 on.
            hyperbolic: False compares by cosine instead of hyperbolic distance.
        """
        super().__init__(c, nc, 1)
        self.beside = beside
        self.align = PoincareAlignment(c, text_width, nc, width=_WIDTH, hyperbolic=hyperbolic, tau=_INIT_TAU)
        self.fast_parameters = ("gain",) if beside else ()
        self.gain = nn.Parameter(torch.full((1,), 0.0 if beside else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the class logits, (B, K, H, W), of a map (B, C, H, W)."""
        if self.beside:
            return super().forward(x) + self.text_term(x)
        assert self.bias is not None
        b, _, h, w = x.shape
        defect = self.weight.mean(0).flatten(1).T.to(x.dtype) @ x.flatten(2)  # (B, 1, L)
        t, mean = self._evidence(x)  # what has one value per position is added up first
        return (defect - mean + t).reshape(b, -1, h, w).to(self.bias.dtype) + self.bias[:, None, None]

    def text_term(self, x: Tensor) -> Tensor:
        """Return what text adds to the logits, (B, K, H, W); its sum over the classes is zero."""
        t, mean = self._evidence(x)
        return (t - mean).reshape(x.shape[0], -1, *x.shape[2:]).to(x.dtype)

    def _evidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return gain t_k, (B, K, L), and its mean over the classes, (B, 1, L), in fp32."""
        (anchors,) = self.align.constants(self.text)
        with autocast_off(x):
            t = self.align.logits(self.align.image_tangent(x), anchors.float(), self.gain.float())  # (B, K, L)
            # As a product: along this axis ReduceMean is slow in ONNX Runtime.
            mean = t.new_full((1, self.out_channels), 1 / self.out_channels) @ t
        return t, mean


def class_text_off(heads: list[Any], record: Record, seed: int) -> AbstractContextManager[None]:
    """Take the text's share out of the class logits of heads."""
    outputs = [m for head in heads for m in head.text_logits]
    return hooked(outputs, lambda m, args, out: out - m.text_term(args[0]))
