"""Stage 5: align image positions and class semantics on the Poincaré ball and fuse them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultra_dsmoe import checks
from ultra_dsmoe.errors import TextError
from ultra_dsmoe.losses.alignment import batch_alignment
from ultra_dsmoe.nn.base import AuxLossMixin, autocast_off
from ultra_dsmoe.nn.contract import AuxTerm, Option
from ultra_dsmoe.nn.knockout import Knockout, constant
from ultra_dsmoe.nn.neck.poincare_alignment import HYPERBOLIC, RADIUS_RANGE, PoincareAlignment
from ultra_dsmoe.nn.registry import RowContext, RowPlan, register
from ultra_dsmoe.ops import poincare

_NORM_MARGIN, _PAIR_MARGIN = 0.05, 0.1  # of the hierarchy loss


@register
class HyperbolicFusion(AuxLossMixin, PoincareAlignment):
    """Fuse a map with the class anchors in the tangent space at the origin of the ball.

    Image vectors u_i and class anchors a_k (`PoincareAlignment`) are compared by hyperbolic distance; the output
    ``g_i = lam clip(u_i) + (1 - lam) sum_k softmax_k(-d/tau_h) a_k`` is the logarithm of the fused point, so no map
    onto the ball is left in the graph.

    Source: [DSMoE] Eq. 9-13. The fusion (11) is our reading of the prose; the supervision of the distances is our
    choice.
    """

    fast_parameters = (*PoincareAlignment.fast_parameters, "log_tau", "lam_logit", "parent_radius")
    options: ClassVar[dict[str, Option]] = {"hyperbolic": HYPERBOLIC}
    # [DSMoE] Eq. 31, the gains' sizes our choice.
    aux_terms: ClassVar[dict[str, AuxTerm]] = {
        "align": AuxTerm(0.5, batch_alignment, "align_loss"),
        "hier": AuxTerm(0.05),
    }
    knockouts = (Knockout("hyperbolic-constant", "hyperbolic fusion replaced by its mean", constant, mean=True),)

    def __init__(self, c: int, text_width: int, nc: int, *, hyperbolic: bool = True) -> None:
        """Build the block.

        Args:
            c: Channels C of the map, kept.
            text_width: Width d_t of T.
            nc: Number of classes K.
            hyperbolic: False replaces the distance by a cosine at the same shapes (the ablation).

        Raises:
            ConfigError: If a size is not a positive integer, or ``hyperbolic`` no switch.
        """
        checks.sizes("HyperbolicFusion", c=c, text_width=text_width, nc=nc)
        checks.flag("HyperbolicFusion hyperbolic", hyperbolic)
        super().__init__(c, text_width, nc, hyperbolic=hyperbolic)
        self.lam_logit = nn.Parameter(torch.zeros(1))  # lam = 0.5
        self.parent_radius = nn.Parameter(torch.zeros(0))
        self.register_buffer("members", torch.zeros(0, nc))  # rows: internal nodes of the taxonomy
        self.register_buffer("edges", torch.zeros(0, 2, dtype=torch.long))  # (parent, child) over leaves + internals
        self.register_buffer("foreign", torch.zeros(0, 0, dtype=torch.bool))  # of the edges

    @staticmethod
    def parse(ctx: RowContext) -> RowPlan:
        """Parse ``[[map, text], 1, HyperbolicFusion, []]``."""
        c1, text_width = ctx.inputs(2)
        return RowPlan([c1, text_width, ctx.nc], c1, {"hyperbolic": ctx.option("hyperbolic")})

    @torch.no_grad()
    def set_taxonomy(self, members: Tensor, edges: Tensor, radii: Tensor) -> None:
        """Take a taxonomy of P internal nodes over the K classes.

        Args:
            members: Which classes lie below each internal node, (P, K).
            edges: Pairs (parent, child) of node numbers: classes first, then internal nodes, (E, 2).
            radii: Initial tangent norm of all nodes, (K + P,).

        Raises:
            TextError: If the shapes do not fit the number of classes.
        """
        if members.shape[1:] != (self.nc,) or radii.shape != (self.nc + len(members),):
            got = f"members {tuple(members.shape)}, radii {tuple(radii.shape)}"
            raise TextError("taxonomy", f"members (P, {self.nc}) and radii ({self.nc} + P,)", got)
        if len(edges) and not 0 <= int(edges.min()) <= int(edges.max()) < len(radii):
            raise TextError("taxonomy", f"edges between nodes 0 to {len(radii) - 1}", f"up to {int(edges.max())}")
        like = self.radius
        self.members, self.edges = members.to(like), edges.long().to(like.device)
        self.foreign = foreign_nodes(self.edges, len(radii))
        self.radius.copy_(radii[: self.nc].clamp(*RADIUS_RANGE))
        self.parent_radius = nn.Parameter(radii[self.nc :].clamp(*RADIUS_RANGE).to(like))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take weights as any module does; a taxonomy comes with them, whatever its size."""
        sized = {name: state_dict.get(prefix + name) for name in ("members", "edges", "foreign", "parent_radius")}
        members = sized["members"]
        if members is not None and members.shape[1:] == (self.nc,):
            for name, value in sized.items():
                own = getattr(self, name)
                if value is not None and value.shape != own.shape:
                    room = own.new_zeros(value.shape)
                    setattr(self, name, nn.Parameter(room) if isinstance(own, nn.Parameter) else room)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return the fused tangent map g.

        Args:
            x: The map, (B, C, H, W), and T, (K, d_t).

        Returns:
            g, (B, C, H, W), norms at most 2.
        """
        feat, text = x
        b, c, h, w = feat.shape
        (anchors,) = self.constants(text)
        with autocast_off(feat):
            anchors = anchors.float()  # folded ones follow the precision of the module
            u = self.image_tangent(feat)
            logits = self.logits(u, anchors)
            lam = torch.sigmoid(self.lam_logit.float())
            g = lam * u + (1 - lam) * attend(logits, anchors)  # [DSMoE] Eq. 11
            g = poincare.clip_norm(g, dim=-2)
        if self.training:
            self.aux = {"align": logits.reshape(b, self.nc, h, w)}
            if len(self.edges):
                self.aux["hier"] = hierarchy_loss(*self.nodes(anchors), self.edges, self.foreign)
        return g.reshape(b, c, h, w).to(feat.dtype)

    def nodes(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Return tangent vectors and radii of all taxonomy nodes, (K + P, C) and (K + P,): classes, then internals."""
        mean = F.normalize(self.members.float() @ F.normalize(anchors, dim=-1), dim=-1)
        radius = self.parent_radius.float().clamp(*RADIUS_RANGE)
        nodes = torch.cat([anchors, radius.unsqueeze(-1) * mean])
        return nodes, poincare.norm(nodes).flatten()


def attend(logits: Tensor, anchors: Tensor) -> Tensor:
    """Return the mean of the anchors (K, D), weighted by the softmax of each position's logits: (B, K, L) -> (B, D, L).

    Written out, since ONNX Runtime takes long for a softmax over an axis with strides.
    """
    weight = (logits - logits.amax(1, keepdim=True)).exp()
    return (anchors.T @ weight) / poincare.total(weight, -2)


def hierarchy_loss(nodes: Tensor, radii: Tensor, edges: Tensor, foreign: Tensor | None = None) -> Tensor:
    """Penalise children nearer to the origin than their parent, and parents nearer to a foreign node than to a child.

    ``mean relu(|p| - |c| + .05) + mean relu(.1 + d(p, c) - d(p, n))`` over the edges (p, c) and all n that
    are neither below nor above p.

    Source: [DSMoE] Eq. 12 (norm ordering of the hierarchy); the margins are our choice.

    Args:
        nodes: Tangent vectors, (M, C).
        radii: Their norms, (M,).
        edges: (parent, child) pairs, (E, 2).
        foreign: `foreign_nodes` of the edges, where they are at hand.

    Returns:
        Scalar >= 0, with gradients to nodes and radii.
    """
    parent, child = edges.unbind(1)
    order = F.relu(radii[parent] - radii[child] + _NORM_MARGIN).mean()
    dist = poincare.distance(nodes, nodes)  # (M, M)
    foreign = foreign_nodes(edges, len(nodes)) if foreign is None else foreign
    gap = F.relu(_PAIR_MARGIN + dist[parent, child].unsqueeze(1) - dist[parent])  # (E, M)
    mask = foreign[parent]
    return order + (gap * mask).sum() / mask.sum().clamp_min(1)


def foreign_nodes(edges: Tensor, count: int) -> Tensor:
    """Return which of ``count`` taxonomy nodes are neither the same nor one above the other, bool (M, M)."""
    below = torch.eye(count, dtype=torch.bool)
    for _ in range(count):  # no chain is longer than the number of nodes
        for parent, child in edges.tolist():
            below[parent] |= below[child]
    return ~(below | below.T).to(edges.device)
