"""The host's decoupled detector with dual attention and text in its class branch."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from ultralytics.nn.modules import DFL, Conv, Detect, DWConv

from ultra_dsmoe import checks
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.attention.kinds import ATTENTIONS, KINDS, USUAL, MapAttention
from ultra_dsmoe.nn.head.dfl import BoxDistribution
from ultra_dsmoe.nn.head.text_logits import TextLogits
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register

_HOST_83_REG_MAX = 16  # what hosts before 8.4 have built in
_MOST_FOR_CLASSES = 64  # hidden channels on account of many classes, where text decides (our choice; the host: 100)
MAX_LEVELS = 6  # the teacher of [TS] detects on P2 to P7


@register
class DualAttentionDetect(Detect):
    """Detect with a `DualAttention` between the two convolution stages and the output of every class branch.

    Source: [TS] Sec. 5 (attention in the class branch only; anchor-free with DFL is our choice there);
    [DSMoE] Eq. 30, the split of class and box branch.

    The attention rides on the activation of a branch's last convolution block. So the branch keeps three children and
    the host's names (``cv3.i.0``, ``.1``, ``.2``): stock weights transfer by name, and the host goes on finding the
    output convolution at ``[-1]``, ``[2]`` and ``.2``, for its loading, its class renaming and its INT8 export alike.
    Since a fresh attention is the identity, a pretrained head starts out as it was.

    In end-to-end mode both class branches have one, each with its own weights.

    Given the classes' semantics T as its last input, the head lets text speak in its class logits (`TextLogits`). Where
    text decides alone, more than 64 classes do not widen the class branches, as they do the host's.
    """

    dfl: Any  # the host declares its own classes only
    attention_kind = USUAL  # of heads, and checkpoints, that do not name another

    def __init__(
        self,
        nc: int = 80,
        reg_max: int = 16,
        end2end: bool = False,
        ch: list[int] | tuple[int, ...] = (),
        *,
        dual_attention: bool = True,
        legacy: bool = False,
        text_width: int | None = None,
        text_beside: bool = False,
        hyperbolic: bool = True,
    ) -> None:
        """Build the head.

        Args:
            nc: Number of classes.
            reg_max: Bins of the box distribution; 1 regresses distances directly.
            end2end: Whether to add the one-to-one branches.
            ch: Channels of the feature maps, finest first.
            dual_attention: Whether the class branches have attention; without it the head is the host's.
            legacy: Whether class branches are plain 3x3 convolutions, as in YOLOv8, not depthwise ones.
            text_width: Width d_t of T; None for a head without text.
            text_beside: Whether the class convolutions stay the host's, with text beside them from nothing on.
            hyperbolic: False compares text by cosine instead of hyperbolic distance.

        Raises:
            ConfigError: If a count is not a positive integer, or the host has another ``reg_max`` built in.
        """
        checks.sizes("DualAttentionDetect", nc=nc, reg_max=reg_max)
        if not ch:
            raise ConfigError("DualAttentionDetect ch", "the channels of at least one feature map", ch)
        checks.sizes("DualAttentionDetect", ch=ch)
        # On the instance and first, since the host's constructor reads it: the parser leaves the class's flag as the
        # last stock model wanted it.
        self.legacy = bool(legacy)
        if "reg_max" in inspect.signature(Detect.__init__).parameters:
            super().__init__(nc, reg_max, end2end, ch)
        elif reg_max == _HOST_83_REG_MAX:
            self.end2end = bool(end2end)
            super().__init__(nc, ch)  # type: ignore[arg-type]  # this host's signature
        else:
            raise ConfigError("reg_max", f"{_HOST_83_REG_MAX} with ultralytics older than 8.4", reg_max)
        self._use_own_dfl()
        self.dual_attention = bool(dual_attention)
        self.text: dict[str, Any] | None = None
        if text_width is not None:
            self.text = {"text_width": text_width, "beside": text_beside, "hyperbolic": hyperbolic}
        for branches in self._class_branches().values():
            for branch in branches:
                self._attach_attention(branch)
        if self.text:
            outputs = [self._output(branch[-1].in_channels) for branch in self._class_branches()["cv3"]]
            for branches in self._class_branches().values():  # one-to-one starts as a copy, as the host's does
                for branch, output in zip(branches, outputs, strict=True):
                    branch[-1] = deepcopy(output)
            # What tells classes apart has the width of the ball there, and the hidden map need not grow with them.
            width = max(ch[0], min(nc, _MOST_FOR_CLASSES))
            if not text_beside and width != self.class_width:
                self.rebuild_class_branch(width)

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[from, ...], 1, DualAttentionDetect, [nc, dual_attention, legacy, text]]``.

        With ``decides`` or ``beside`` as text, the last input is a TextSemantics row, and classes are told apart by
        text alone or by convolution and text. ``reg_max`` and ``end2end`` are the model YAML's own keys, as for the
        host's Detect.
        """
        kwargs = {"dual_attention": ctx.arg(1, True), "legacy": ctx.arg(2, False)}
        for name, value in kwargs.items():
            checks.flag(f"DualAttentionDetect {name}", value)
        text = ctx.arg(3)
        if text is None:
            ch = ctx.inputs(1, MAX_LEVELS)
        else:
            checks.one_of("DualAttentionDetect text", text, ("decides", "beside"))
            *ch, text_width = ctx.inputs(2, MAX_LEVELS + 1)
            hyperbolic = bool(ctx.options.get("hyperbolic", True))
            kwargs |= {"text_width": text_width, "text_beside": text == "beside", "hyperbolic": hyperbolic}
        return RowPlan([ctx.arg(0, ctx.nc), ctx.reg_max, ctx.end2end, ch], ch, kwargs)

    def __call__(self, x: list[Tensor]) -> Any:
        """Run the head, with T laid where it is read: hooks and `forward` see the maps alone, as with the host's head.

        The host's trackers take every input of a head for a map.

        Args:
            x: Feature maps (B, C_l, H_l, W_l), finest first; for a head with text, T (K, d_t) after them.

        Returns:
            What the host's head returns.
        """
        if self.text is None:
            return super().__call__(x)
        *maps, text = x
        outputs = self.text_logits
        try:
            for output in outputs:
                output.text = text
            return super().__call__(maps)
        finally:
            for output in outputs:  # T carries a gradient: left on a module it would break deep copies
                output.text = None

    @property
    def text_logits(self) -> list[TextLogits]:
        """The class branches' output layers with text, in the order of `attentions`; empty without text."""
        outputs = (branch[-1] for group in self._class_branches().values() for branch in group)
        return [m for m in outputs if isinstance(m, TextLogits)]

    @property
    def attentions(self) -> list[MapAttention]:
        """The attention blocks, finest level first, one-to-many branches before one-to-one; empty without attention."""
        branches = (branch for group in self._class_branches().values() for branch in group)
        return [m for branch in branches for m in branch.modules() if isinstance(m, KINDS)]

    @property
    def class_width(self) -> int:
        """Hidden channels of the class branches."""
        return next(iter(self._class_branches().values()))[0][-1].in_channels

    def rebuild_class_branch(self, width: int) -> None:
        """Build every class branch anew with ``width`` hidden channels.

        The host derives the width from the number of classes, so a head pretrained on many has another one than a head
        for few; at the source's width all hidden layers transfer. Output biases, activation, normalisation settings,
        device, precision and training mode are kept.

        Raises:
            ConfigError: If ``width`` is not a positive integer or the head is fused already.
        """
        checks.whole("rebuild_class_branch width", width)
        groups = self._class_branches()
        if "cv3" not in groups or not hasattr(_last_conv(groups["cv3"][0]), "bn"):
            raise ConfigError("rebuild_class_branch", "a head that is not fused", "a fused one")
        fresh = nn.ModuleList(self._fresh_branch(branch, width) for branch in groups["cv3"])
        for name, branches in groups.items():  # one-to-one starts as a copy, as in the host's constructor
            setattr(self, name, deepcopy(fresh).train(branches.training))
            for new, old in zip(getattr(self, name), branches, strict=True):
                new[-1].bias.data.copy_(old[-1].bias.data)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickled head; older checkpoints hold the host's ``DFL``."""
        super().__setstate__(state)
        self._use_own_dfl()

    def _use_own_dfl(self) -> None:
        """Put our `BoxDistribution` in the place of the host's ``DFL``, if there is one (not with a single bin)."""
        if isinstance(self.dfl, DFL):
            self.dfl = BoxDistribution(self.dfl.conv)

    def _class_branches(self) -> dict[str, Any]:  # of module lists of Sequentials, which the type checker cannot see
        """Return the class branches by attribute name, without those that fusing removed."""
        groups = {name: getattr(self, name, None) for name in ("cv3", "one2one_cv3")}
        return {name: branches for name, branches in groups.items() if branches is not None}

    def _attach_attention(self, branch: nn.Sequential) -> None:
        """Put a fresh attention behind the activation of the branch's last convolution block."""
        if self.dual_attention:
            conv = _last_conv(branch)
            attention = ATTENTIONS[self.attention_kind](conv.conv.out_channels)
            conv.act = nn.Sequential(OrderedDict(act=conv.act, attention=attention))

    def _output(self, width: int) -> nn.Conv2d:
        """Return a fresh output layer for a class branch of ``width`` hidden channels."""
        return TextLogits(width, self.nc, **self.text) if self.text else nn.Conv2d(width, self.nc, 1)

    def _fresh_branch(self, old: nn.Sequential, width: int) -> nn.Sequential:
        """Return a branch like ``old`` with another hidden width and new weights."""
        first = next(m for m in old.modules() if isinstance(m, Conv))
        c1, act, bn = first.conv.in_channels, first.act, first.bn
        out: Any = old[-1]
        stages: list[nn.Module]
        if self.legacy:
            stages = [Conv(c1, width, 3, act=act), Conv(width, width, 3, act=act)]
        else:
            stages = [nn.Sequential(DWConv(c, c, 3, act=act), Conv(c, width, 1, act=act)) for c in (c1, width)]
        new = nn.Sequential(*stages, self._output(width))
        self._attach_attention(new)
        for m in new.modules():
            if isinstance(m, nn.BatchNorm2d):  # the host sets these once, when the model is built
                m.eps, m.momentum = bn.eps, bn.momentum
        return new.to(out.weight.device, out.weight.dtype)


def _last_conv(branch: nn.Sequential) -> Conv:
    """Return the convolution block before the branch's output, whichever style the branch has."""
    stage: Any = branch[1]
    return stage if isinstance(stage, Conv) else stage[-1]
