"""Decoupled detector of the T- and S-model: a stem per level, then classes and boxes on their own ways."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.attention.kinds import ATTENTION, ATTENTIONS, USUAL
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.nn.head.dual_attention_detect import MAX_LEVELS, DualAttentionDetect
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

DETECTORS = ("decoupled_da", "decoupled", "coupled")
_MIN_HIDDEN = 64  # channels of the towers are max(64, 256 w), our reading of [TS] Sec. 5


@register
class DecoupledDetect(DualAttentionDetect):
    """A stem CBS1x1 to c_h channels, then ``2 x CBS3x3 -> DA -> 1x1`` for classes and ``2 x CBS3x3 -> 1x1`` for boxes.

    Source: [TS] Sec. 5. Ours: anchor-free points with DFL in place of K-means anchors; hence no confidence branch.

    DA stands for the attention, which is ``da``, ``cbam`` or ``none``. ``detector`` names the ablations:
    ``decoupled_da``; ``decoupled``, without any attention; ``coupled``, where both
    tasks read one tower of two CBS3x3 (our reading: it differs from ``decoupled`` by the decoupling alone).
    """

    options: ClassVar[dict[str, Option]] = {"detector": Option(DETECTORS[0]), "attention": ATTENTION}

    def __init__(
        self,
        nc: int = 80,
        reg_max: int = 16,
        end2end: bool = False,
        ch: list[int] | tuple[int, ...] = (),
        *,
        hidden: int = 256,
        detector: str = DETECTORS[0],
        attention: str = USUAL,
    ) -> None:
        """Build the head.

        Args:
            nc: Number of classes.
            reg_max: Bins of the box distribution.
            end2end: Whether to add the one-to-one branches.
            ch: Channels of the feature maps, finest first.
            hidden: Channels c_h of stems and branches.
            detector: ``decoupled_da``, ``decoupled`` or ``coupled``.
            attention: ``da``, ``cbam`` or ``none``, of ``decoupled_da``.

        Raises:
            ConfigError: If ``detector`` or ``attention`` is none of them, or a count is not a positive integer.
        """
        checks.one_of("DecoupledDetect detector", detector, DETECTORS)
        checks.sizes("DecoupledDetect", hidden=hidden)
        self.attention_kind = checks.one_of("DecoupledDetect attention", attention, ATTENTIONS)
        super().__init__(nc, reg_max, end2end, [hidden] * len(ch), dual_attention=detector == DETECTORS[0], legacy=True)
        self.detector = detector
        tower = 2 if detector == "coupled" else 0
        self.stems = nn.ModuleList(
            nn.Sequential(Conv(c, hidden, 1), *(Conv(hidden, hidden, 3) for _ in range(tower))) for c in ch
        )
        if tower:
            self._replace("cv3", [_output_only(hidden, nc) for _ in ch])
            self._replace("cv2", [_output_only(hidden, 4 * reg_max) for _ in ch])
            return
        self._replace("cv2", [_branch(hidden, 4 * reg_max) for _ in ch])  # the host's have another width
        if self.class_width != hidden:  # the host widens branches for many classes
            self.rebuild_class_branch(hidden)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[from, ...], 1, DecoupledDetect, [nc, hidden, attention]]``.

        The section's ``detector`` names the variant, and its ``attention`` that of a row without one of its own.
        """
        ch = ctx.inputs(1, MAX_LEVELS)
        detector = ctx.option("detector")
        if ctx.arg(2, "none") != "none" and detector in DETECTORS[1:]:
            raise ConfigError("DecoupledDetect attention", f"none, with detector: {detector}", ctx.arg(2))
        kwargs = {
            "hidden": max(ctx.scaled(ctx.arg(1, 256)), _MIN_HIDDEN),
            "detector": detector,
            "attention": ctx.arg(2, ctx.option("attention")),
        }
        return RowPlan([ctx.arg(0, ctx.nc), ctx.reg_max, ctx.end2end, ch], ch, kwargs)

    def forward(self, x: list[Tensor]) -> Any:
        """Return what the host's head returns, from maps (B, C_l, H_l, W_l), finest first."""
        return super().forward([stem(level) for stem, level in zip(self.stems, x, strict=True)])

    def _replace(self, name: str, branches: list[nn.Sequential]) -> None:
        """Set the branches ``name`` and, in end-to-end mode, a copy of them as the one-to-one ones."""
        setattr(self, name, nn.ModuleList(branches))
        if hasattr(self, f"one2one_{name}"):
            setattr(self, f"one2one_{name}", deepcopy(nn.ModuleList(branches)))


class Shared(nn.Identity):
    """Stands where a branch has a convolution when the tower before it is shared.

    The host asks the first layer of a branch for ``conv.in_channels`` when it loads weights.
    """

    def __init__(self, c: int) -> None:
        """Build it for ``c`` channels."""
        super().__init__()
        self.in_channels = c

    @property
    def conv(self) -> Shared:
        """Itself, which knows the number of channels."""
        return self


def _branch(hidden: int, c2: int) -> nn.Sequential:
    return nn.Sequential(Conv(hidden, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, c2, 1))


def _output_only(hidden: int, c2: int) -> nn.Sequential:
    return nn.Sequential(Shared(hidden), Shared(hidden), nn.Conv2d(hidden, c2, 1))
