"""TinyViT's window attention, without the state that timm keeps on it.

A module of its own because it imports timm, which takes a second: only nets with a TinyViT encoder pay that.
"""

from __future__ import annotations

import torch
from timm.models.tiny_vit import Attention
from torch import Tensor


class WindowAttention(Attention):
    """timm's attention over the tokens of one window, with position biases gathered anew in every forward.

    timm keeps the gathered biases between evaluation forwards. Kept with a gradient they break the deep copy behind the
    moving average; and they go stale where parameters change in evaluation mode, by that average or by loading weights.
    The gather costs a few microseconds.

    Args:
        dim: Channels of the tokens.
        key_dim: Channels of a head's keys and queries.
        num_heads: Number of heads.
        attn_ratio: Ratio of the values' to the keys' channels.
        resolution: Height and width of a window, in tokens.
    """

    attention_bias_idxs: Tensor

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """Return the bias of every pair of tokens, (heads, N, N)."""
        return self.attention_biases[:, self.attention_bias_idxs]


def without_cache(attention: Attention) -> WindowAttention:
    """Return a `WindowAttention` with the settings and weights of ``attention``."""
    dim = attention.norm.normalized_shape[0]
    new = WindowAttention(
        dim, attention.key_dim, attention.num_heads, attention.attn_ratio, resolution=attention.resolution
    )
    new.load_state_dict(attention.state_dict())
    return new
