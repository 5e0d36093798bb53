"""Let the text speak where classes are decided: a class branch's output with the classes' anchors beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ultra_dsmoe.nn.base import autocast_off
from ultra_dsmoe.nn.neck.poincare_alignment import PoincareAlignment

_WIDTH = 16  # dimensions of the ball: room for tens of classes at little work
_INIT_TAU = 1.0  # at the fusion's 0.2 the fresh term swings by 5, and classes learn later than without text


class TextLogits(nn.Conv2d):
    """The 1x1 output convolution of a class branch, plus how near each position is to each class's text.

    ``s_k = Conv1x1(f)_k + gain (t_k - mean_j t_j)``, ``t_k = -d(exp0 u, exp0 a_k) / tau``. The text term sums to zero
    over the classes: it says which class, the convolution alone says whether there is a defect. One class therefore
    gets nothing from it.

    It is a convolution with the host's parameter names, so stock class branches transfer and the host's bias
    initialisation, class renaming and INT8 rules find what they look for.

    Source: our choice, after [DSMoE] Eq. 12 and 30: injected into the pyramid alone, the text could be taken away at no
    cost (docs/dsmoe.md).
    """

    text: Tensor | None = None  # T (K, d_t) of the forward that is under way, set and cleared by the head

    def __init__(self, c: int, nc: int, text_width: int, *, gain: float = 1.0, hyperbolic: bool = True) -> None:
        """Build the output layer.

        Args:
            c: Channels of the branch's hidden map.
            nc: Number of classes K.
            text_width: Width d_t of T.
            gain: Weight that the text term starts with; 0 starts as the plain convolution.
            hyperbolic: False compares by cosine instead of hyperbolic distance.
        """
        super().__init__(c, nc, 1)
        self.align = PoincareAlignment(c, text_width, nc, width=_WIDTH, hyperbolic=hyperbolic, tau=_INIT_TAU)
        self.gain = nn.Parameter(torch.full((1,), float(gain)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the class logits, (B, K, H, W), of a map (B, C, H, W)."""
        return super().forward(x) + self.text_term(x)

    def text_term(self, x: Tensor) -> Tensor:
        """Return what text adds to the logits, (B, K, H, W); its sum over the classes is zero."""
        b, _, h, w = x.shape
        (anchors,) = self.align.constants(self.text)
        with autocast_off(x):
            t = self.align.logits(self.align.image_tangent(x), anchors.float())
            t = self.gain.float() * (t - t.mean(-1, keepdim=True))
        return t.transpose(1, 2).reshape(b, -1, h, w).to(x.dtype)
