"""The three kinds of expert of the sparse mixture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOCAL_KERNEL = 7  # length of the axis kernels (our choice)
GLOBAL_POOLS = (3, 7)  # boundaries, clusters (our choice: 7 at stride 16 spans 112 px)
_EPS = 1e-5  # of the layer normalisation
_KERNEL = 3
_POWER, _POOLED_POWER = 0.25, 0.16  # mean square of the maps that experts get, alone and with their means (measured)


class LocalExpert(nn.Module):
    """Axis-decomposed local expert: ``SiLU(Concat[PW(DW_1x7 X), PW(DW_7x1 X)])``.

    Source: [DSMoE] Eq. 22.
    """

    bias_warmup = False  # large biases drown what an expert says of the image

    def __init__(self, c: int) -> None:
        """Build the expert for ``c`` channels, even."""
        super().__init__()
        pad = LOCAL_KERNEL // 2
        self.row = nn.Conv2d(c, c, (1, LOCAL_KERNEL), padding=(0, pad), groups=c, bias=False)
        self.col = nn.Conv2d(c, c, (LOCAL_KERNEL, 1), padding=(pad, 0), groups=c, bias=False)
        self.row_pw, self.col_pw = nn.Conv2d(c, c // 2, 1), nn.Conv2d(c, c - c // 2, 1)
        _to_unit_power(self.row, self.col)
        _to_unit_power(self.row_pw, self.col_pw, power=_POWER)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape, (B, C, H, W)."""
        return F.silu(torch.cat([self.row_pw(self.row(x)), self.col_pw(self.col(x))], 1))


class GlobalExpert(nn.Module):
    """Multi-scale pooling expert: ``SiLU(Conv1x1(Concat[X, AvgPool3 X, AvgPool7 X]))``.

    Source: [DSMoE] Eq. 23.
    """

    bias_warmup = False

    def __init__(self, c: int) -> None:
        """Build the expert for ``c`` channels."""
        super().__init__()
        self.pools = nn.ModuleList(nn.AvgPool2d(k, 1, k // 2, count_include_pad=False) for k in GLOBAL_POOLS)
        self.mix = nn.Conv2d(c * (1 + len(GLOBAL_POOLS)), c, 1)
        _to_unit_power(self.mix, power=_POOLED_POWER)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape, (B, C, H, W)."""
        return F.silu(self.mix(torch.cat([x, *(pool(x) for pool in self.pools)], 1)))


@torch.no_grad()
def _to_unit_power(*layers: nn.Conv2d, power: float = 1.0) -> None:
    """Scale fresh convolutions so that of inputs of this mean square they make outputs of mean square 1.

    Cross-modal experts are normalised in front of their activation, these two are not: as torch initialises them, they
    came out at a fifth of the others' size, and the mixture hardly held them. Equations and graph stay as they are.
    """
    for layer in layers:
        layer.weight.mul_((3 / power) ** 0.5)  # torch's variance is 1 / (3 inputs)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class CrossModalExperts(nn.Module):
    """Stacked cross-modal experts: ``SiLU(LN_c(DW3x3(W_f X + W_t txt)))``, addressed by number.

    Expert n owns row n of every parameter. Its text is that of class ``n mod K``; ``W_t txt`` is a bias, exactly what
    a 1x1 convolution on the replicated text map would add.

    Source: [DSMoE] Eq. 24.
    """

    bias_warmup = False
    stacked_matrices = ("w_f", "w_t", "dw")

    def __init__(self, c: int, experts: int, text_width: int | None) -> None:
        """Build ``experts`` experts for ``c`` channels; ``text_width`` None leaves the text out."""
        super().__init__()
        self.c, self.experts = c, experts
        self.w_f = nn.Parameter(torch.empty(experts, c, c).uniform_(-1, 1) * (3 / c) ** 0.5)
        self.w_t = nn.Parameter(torch.randn(experts, c, text_width) * text_width**-0.5) if text_width else None
        # 3-D on purpose: a host optimizer would orthogonalise all experts as one matrix.
        self.dw = nn.Parameter(torch.empty(experts, c, _KERNEL * _KERNEL).uniform_(-1, 1) * (3 / _KERNEL**2) ** 0.5)
        self.conv_bias = nn.Parameter(torch.zeros(experts, c, 1))
        self.ln_gain = nn.Parameter(torch.ones(experts, c, 1))
        self.ln_bias = nn.Parameter(torch.zeros(experts, c, 1))

    def stacked(self, text: bool = True) -> list[nn.Parameter]:
        """Return the parameters, one row per expert each."""
        with_text = [self.w_t] if text and self.w_t is not None else []
        return [self.w_f, self.dw, self.conv_bias, self.ln_gain, self.ln_bias, *with_text]

    def text_bias(self, text: Tensor | None) -> Tensor:
        """Return ``W_t txt`` of all experts, (experts, C), from T, (K, d_t)."""
        if self.w_t is None:
            return self.w_f.new_zeros(self.experts, self.c)
        assert text is not None
        own = text[torch.arange(self.experts, device=text.device) % len(text)]  # (experts, d_t)
        return (self.w_t @ own.to(self.w_t.dtype).unsqueeze(-1)).squeeze(-1)

    def forward(self, x: Tensor, idx: Tensor, bias: Tensor, dynamic_conv: bool = True) -> Tensor:
        """Run experts ``idx`` on the maps, each image's own.

        Args:
            x: Maps, (B, 1, C, H, W).
            idx: Expert numbers, (B, k).
            bias: Text biases of all experts, (experts, C).
            dynamic_conv: Whether the depthwise part is a convolution whose weights are gathered and whose number of
                groups is fixed with the batch; otherwise nine shifted slices, the same result for any batch.

        Returns:
            One map per chosen expert, (B, k, C, H, W).
        """
        b, _, c, h, w = x.shape
        k = idx.shape[1]
        weight = self.w_f[idx].reshape(b, k * c, c)
        y = weight @ x.reshape(b, c, h * w) + bias[idx].reshape(b, k * c, 1).to(x.dtype)  # (B, kC, HW)
        if dynamic_conv:
            kernel = self.dw[idx].reshape(b * k * c, 1, _KERNEL, _KERNEL)
            y = F.conv2d(y.reshape(1, b * k * c, h, w), kernel, padding=_KERNEL // 2, groups=b * k * c)
        else:
            y = _shifted_slices(y.reshape(b, k * c, h, w), self.dw[idx].reshape(b, k * c, _KERNEL * _KERNEL))
        y = y.reshape(b, k, c, h * w) + self.conv_bias[idx]
        return self._activate(y, self.ln_gain[idx], self.ln_bias[idx]).reshape(b, k, c, h, w)

    def fixed(self, x: Tensor, ids: Tensor, bias: Tensor, m: int) -> Tensor:
        """Run the same experts on every image, as convolutions whose weights are constants of an exported graph.

        Args:
            x: Maps, (B, C, H, W).
            ids: Expert numbers, (M,).
            bias: Text biases of all experts, (experts, C).
            m: Number of experts M; read from ``ids`` it would be no constant in a traced graph.

        Returns:
            One map per expert, (B, M, C, H, W).
        """
        (b, _, h, w), c = x.shape, self.c
        y = F.conv2d(x, self.w_f[ids].reshape(m * c, c, 1, 1), bias[ids].reshape(m * c).to(x.dtype))
        kernel, shift = self.dw[ids].reshape(m * c, 1, _KERNEL, _KERNEL), self.conv_bias[ids].reshape(m * c)
        y = F.conv2d(y, kernel, shift, padding=_KERNEL // 2, groups=m * c).reshape(b, m, c, h * w)
        return self._activate(y, self.ln_gain[ids], self.ln_bias[ids]).reshape(b, m, c, h, w)

    @staticmethod
    def _activate(y: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """Normalise (B, k, C, HW) over its channels, scale, activate."""
        dtype, y = y.dtype, y.float()  # squares overflow in half precision
        y = y - y.mean(2, keepdim=True)
        y = y * torch.rsqrt((y * y).mean(2, keepdim=True) + _EPS)
        return F.silu(y.to(dtype) * gain + bias)


def _shifted_slices(y: Tensor, kernel: Tensor) -> Tensor:
    """Convolve depthwise, each image with its own kernels, by slices of the padded map; nothing but Mul and Add.

    Args:
        y: Maps, (B, kC, H, W).
        kernel: Taps in the order of rows, (B, kC, 9).
    """
    h, w = y.shape[-2:]
    padded = F.pad(y, (_KERNEL // 2,) * 4)
    taps = [(row, column) for row in range(_KERNEL) for column in range(_KERNEL)]
    slices = [padded[..., r : r + h, c : c + w] * kernel[..., i, None, None] for i, (r, c) in enumerate(taps)]
    return sum(slices[1:], slices[0])
