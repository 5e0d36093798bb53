"""A small mixture, gates that choose given experts, and what the mixture must compute, by plain loops."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ultra_dsmoe.nn import ExpertGate, SparseMoE

C, D, N, K = 8, 10, 7, 3


def moe_of(topk: int = 3, **kwargs: Any) -> SparseMoE:
    return SparseMoE(C, N, topk, text_width=D, **kwargs)


def gate_of(*chosen: Any, n: Any = N) -> Any:
    """G from lists of chosen experts, random weights that sum to one."""
    g = torch.zeros(len(chosen), n)
    for row, ids in zip(g, chosen, strict=True):
        row[ids] = torch.softmax(torch.randn(len(ids)), 0)
    return g


def random_gate(b: Any, k: Any, n: Any = N) -> Any:
    return gate_of(*(torch.randperm(n)[:k].tolist() for _ in range(b)), n=n)


def inputs(g: Any, h: int = 5, w: int = 6) -> Any:
    return [torch.randn(len(g), C, h, w), torch.randn(K, D), g]


def experts_by_loop(moe: Any, x: Any, text: Any, g: Any) -> Any:
    """Equation 21: one expert after the other, one image after the other."""
    out = torch.zeros_like(x)
    for b in range(len(x)):
        for n in g[b].nonzero().flatten().tolist():
            image = x[b : b + 1]
            if n == 0:
                y = moe.local(image)
            elif n == 1:
                y = moe.wide(image)
            else:
                e, m = moe.cross, n - 2
                maps = F.conv2d(image, e.w_f[m][..., None, None])
                if text is not None:
                    maps = maps + (e.w_t[m] @ text[m % len(text)]).view(1, -1, 1, 1)
                maps = F.conv2d(maps, e.dw[m].view(C, 1, 3, 3), e.conv_bias[m, :, 0], padding=1, groups=C)
                y = F.layer_norm(maps.permute(0, 2, 3, 1), (C,), e.ln_gain[m, :, 0], e.ln_bias[m, :, 0])
                y = F.silu(y).permute(0, 3, 1, 2)
            out[b] += g[b, n] * y[0]
    return out


def work_of(moe: Any, x: Any) -> Any:
    with FlopCounterMode(display=False) as counter:
        moe(x)
    return counter.get_total_flops()


class Routed(nn.Module):
    """Stages 7 and 8 as a model wires them."""

    def __init__(self, topk: int = 2) -> None:
        super().__init__()
        self.gate, self.moe = ExpertGate(C, N, topk, D), SparseMoE(C, N, topk, text_width=D)

    def forward(self, x: Any, text: Any) -> Any:
        g = self.gate([x, text])
        return self.moe([x, text, g]), g
