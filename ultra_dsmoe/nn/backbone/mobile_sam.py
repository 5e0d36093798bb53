"""MobileSAM's image encoder as a detector's backbone: the four stages of a TinyViT at the detector's input size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn.backbone.mobile_sam_keys import load_mobile_sam
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

CHANNELS = {  # of X2 to X5, as timm defines the variants; MobileSAM's is the 5m one
    "tiny_vit_5m_224": (64, 128, 160, 320),
    "tiny_vit_11m_224": (64, 128, 256, 448),
    "tiny_vit_21m_224": (96, 192, 384, 576),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, RGB of 0..1: what all TinyViTs were trained on
STRIDE = 32
_RGB = 3


@register
class MobileSAM(nn.Module):
    """Encode an image with TinyViT and hand on its four stages.

    Source: [DSMoE] Stage 3, which names MobileSAM without details. Ours: TinyViT-5M at the detector's own size, stages
    of strides 4, 8, 16, 32. MobileSAM itself keeps stride 16 in its last stage; a stride there has no weights of its
    own, so MobileSAM's fit as they are.

    Images are RGB of 0..1, as the host feeds them. They are normalised by ImageNet's mean and deviation with or without
    pretrained weights: the graph and the meaning of a checkpoint do not depend on how training began, and from scratch
    the first batch norm absorbs it. A grey image is repeated to three channels, which is what pretrained weights expect
    of it; the stem keeps its three channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, c1: int = _RGB, variant: str = "tiny_vit_5m_224", pretrained: str | None = None) -> None:
        """Build the encoder, from scratch unless weights are given.

        Args:
            c1: Channels of the image, 3 or 1.
            variant: Name of the TinyViT, see `CHANNELS`.
            pretrained: Path of a MobileSAM checkpoint, for the 5m variant.

        Raises:
            ConfigError: If ``c1`` or ``variant`` is none of the supported ones.
            WeightsError: If the checkpoint is missing, damaged or of another architecture.
        """
        from timm import create_model  # takes a second, which stock models must not pay

        from ultra_dsmoe.nn.backbone.window_attention import without_cache

        super().__init__()
        if c1 not in (1, _RGB):
            raise ConfigError("MobileSAM c1", "an image of 3 channels or 1", c1)
        self.c1, self.variant, self.channels = c1, _checked(variant), list(CHANNELS[variant])
        net: Any = create_model(variant, pretrained=False, num_classes=0)
        self.patch_embed: nn.Module = net.patch_embed
        self.stages: nn.Sequential = net.stages
        for stage in net.stages[1:]:  # the first one is convolutions only
            for block in stage.blocks:
                block.attn = without_cache(block.attn)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, _RGB, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, _RGB, 1, 1), persistent=False)
        if pretrained is not None:
            load_mobile_sam(self, pretrained)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[-1, 1, MobileSAM, [variant, pretrained]]``; rows behind it take the stages with ``Pick``."""
        (c1,) = ctx.inputs(1)
        variant = _checked(ctx.arg(0, "tiny_vit_5m_224"))
        return RowPlan([c1, variant, ctx.arg(1)], list(CHANNELS[variant]))

    def normalise(self, x: Tensor) -> Tensor:
        """Return the normalised image, (B, 3, H, W), of an image of 0..1."""
        x = x if self.c1 == _RGB else x.expand(-1, _RGB, -1, -1)
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode images.

        Args:
            x: Images of 0..1, (B, c1, H, W), H and W multiples of 32.

        Returns:
            X2 to X5, each (B, C_l, H / 2^l, W / 2^l).

        Raises:
            ShapeError: If the images have another size or number of channels.
        """
        if not torch.jit.is_tracing() and (x.shape[1] != self.c1 or x.shape[2] % STRIDE or x.shape[3] % STRIDE):
            expected = f"images (B, {self.c1}, H, W) with H and W multiples of {STRIDE}"
            raise ShapeError("MobileSAM input", expected, f"{tuple(x.shape)}")
        x = self.patch_embed(self.normalise(x))
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(x)
        return feats


def _checked(variant: str) -> str:
    """Return ``variant`` if it is a known one."""
    return checks.one_of("MobileSAM variant", variant, CHANNELS)
