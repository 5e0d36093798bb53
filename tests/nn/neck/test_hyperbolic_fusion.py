"""HyperbolicFusion against geoopt in float64, the taxonomy's loss by hand, anchors that keep apart."""

import math
from typing import Any

import geoopt
import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake

from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.nn import HyperbolicFusion, RowContext, TextSemantics
from ultra_dsmoe.nn.neck.hyperbolic_fusion import attend, foreign_nodes, hierarchy_loss
from ultra_dsmoe.ops import poincare

C, D, K = 8, 12, 3


def block_of(nc: Any = K, **kwargs: Any) -> HyperbolicFusion:
    return HyperbolicFusion(C, D, nc, **kwargs)


def inputs(b: int = 2, h: int = 3, w: int = 4, nc: Any = K) -> Any:
    return [torch.randn(b, C, h, w), torch.randn(nc, D)]


def with_tree(block: Any) -> Any:
    """Classes 0 and 1 below node 3, class 2 and node 3 below node 4."""
    members = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    edges = torch.tensor([[3, 0], [3, 1], [4, 2], [4, 3]])
    block.set_taxonomy(members, edges, torch.tensor([1.2, 1.1, 1.0, 0.6, 0.2]))
    return block


@pytest.mark.parametrize("hyperbolic", [True, False])
@pytest.mark.parametrize(("b", "h", "w", "nc"), [(1, 1, 1, 1), (2, 3, 5, 1), (3, 7, 4, 6)])
def test_shape(hyperbolic: bool, b: int, h: int, w: int, nc: int) -> None:
    block = block_of(nc, hyperbolic=hyperbolic)
    g = block(inputs(b, h, w, nc))
    assert g.shape == (b, C, h, w)
    assert block.pop_aux()["align"].shape == (b, nc, h, w)
    block.eval()(inputs(b, h, w, nc))
    assert block.pop_aux() == {}


def test_a_taxonomy_is_part_of_the_state_and_works_in_half_precision() -> None:
    block = block_of()
    empty = {"members": (0, K), "edges": (0, 2), "foreign": (0, 0), "parent_radius": (0,)}
    assert {name: tuple(block.state_dict()[name].shape) for name in empty} == empty
    full = {"members": (2, K), "edges": (4, 2), "parent_radius": (2,)}
    state = with_tree(block).state_dict()
    assert {name: tuple(state[name].shape) for name in full} == full
    anchors = torch.randn(K, C)
    wanted = block.nodes(anchors)
    for got, value in zip(block.half().nodes(anchors), wanted, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, value, atol=1e-3, rtol=0)


def test_arguments() -> None:
    assert_refuses_others(HyperbolicFusion, "hyperbolic", c=8, text_width=16, nc=3)


def test_errors() -> None:
    block = block_of()
    for members, radii in ((torch.ones(1, 2), torch.ones(4)), (torch.ones(1, 3), torch.ones(3))):
        with pytest.raises(TextError, match=r"taxonomy: expected members \(P, 3\) and radii \(3 \+ P,\), got members"):
            block.set_taxonomy(members, torch.zeros(0, 2), radii)
    with pytest.raises(ConfigError, match="'from' with 2 inputs"):
        HyperbolicFusion.parse(RowContext("HyperbolicFusion", 8, []))


def reference(block: Any, x: Any, text: Any) -> Any:
    """Equations 9-12 of one position's vector (C,) in float64, on the ball itself."""
    ball = geoopt.PoincareBall(c=torch.ones((), dtype=torch.float64))
    x, text = x.double(), text.double()
    norm = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
    u = math.exp(block.log_scale.item()) * (
        block.image.weight.double() @ (norm * block.norm.weight.double() + block.norm.bias.double())
        + block.image.bias.double()
    )
    u = u * min(1.0, 2.0 / u.norm().item())
    centred = text - text.mean(0)
    anchors = []
    for k in range(len(text)):
        direction = block.anchor.weight.double() @ (centred[k] / centred[k].norm())
        anchors.append(block.radius[k].double() * direction / direction.norm())
    v, t = ball.expmap0(u), [ball.expmap0(a) for a in anchors]
    logits = torch.stack([-ball.dist(v, one) for one in t]) / math.exp(block.log_tau.item())
    weight = torch.softmax(logits, 0)
    lam = torch.sigmoid(block.lam_logit.double())
    g = lam * ball.logmap0(v) + (1 - lam) * sum(w * ball.logmap0(one) for w, one in zip(weight, t, strict=True))
    return g * (2.0 / g.norm()).clamp_max(1.0), logits


def test_value() -> None:
    block, (x, text) = shake(block_of()), inputs()
    block.radius.data[:] = torch.tensor([0.4, 1.0, 1.8])
    got = block([x, text])
    logits = block.pop_aux()["align"]
    for b, i, j in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        wanted, wanted_logits = reference(block, x[b, :, i, j], text)
        torch.testing.assert_close(got[b, :, i, j].double(), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits[b, :, i, j].double(), wanted_logits, atol=1e-3, rtol=1e-4)


def test_initial_scalars() -> None:
    block = block_of()
    assert block.log_scale.exp().item() == pytest.approx(0.15)
    assert block.log_tau.exp().item() == pytest.approx(0.2)
    assert torch.sigmoid(block.lam_logit).item() == 0.5
    assert block.radius.tolist() == [1, 1, 1]
    assert set(block.fast_parameters) <= {name for name, _ in block.named_parameters()}


def test_norms_are_clipped() -> None:
    block = block_of().eval()
    block.log_scale.data.fill_(5.0)
    block.lam_logit.data.fill_(10.0)
    norm = block(inputs())[0].norm(dim=0)
    torch.testing.assert_close(norm, torch.full_like(norm, 2.0), atol=1e-2, rtol=0)


def test_limits_of_lam() -> None:
    block, (x, text) = shake(block_of()).eval(), inputs()
    u = block.image_tangent(x).reshape(x.shape)
    block.lam_logit.data.fill_(40.0)
    torch.testing.assert_close(block([x, text]), u)
    single = shake(block_of(1)).eval()
    single.lam_logit.data.fill_(-40.0)
    anchor = single.text_constants(text[:1])[0].view(1, C, 1, 1)
    torch.testing.assert_close(single([x, text[:1]]), anchor.expand_as(x))


def test_tangent_vectors_are_a_normalised_map_through_a_linear_layer() -> None:
    block, (x, _) = shake(block_of()), inputs()
    tokens = block.image(block.norm(1e-3 * x.flatten(2).transpose(1, 2) + 5))  # a mean far from zero
    wanted = poincare.clip_norm(block.log_scale.exp() * tokens).transpose(1, 2)
    torch.testing.assert_close(block.image_tangent(1e-3 * x + 5), wanted, atol=1e-4, rtol=1e-3)


def test_attend_is_a_softmax() -> None:
    logits, anchors = 50 * torch.randn(2, K, 7), torch.randn(K, C)
    wanted = (logits.softmax(1).transpose(1, 2) @ anchors).transpose(1, 2)
    torch.testing.assert_close(attend(logits - 1e4, anchors), wanted, atol=1e-3, rtol=1e-3)


def test_position_on_an_anchor_names_its_class() -> None:
    block, (_, text) = block_of(), inputs()
    (anchors,) = block.text_constants(text)
    for hyperbolic in (True, False):
        block.hyperbolic = hyperbolic
        assert block.logits(anchors.T.unsqueeze(0), anchors)[0].argmax(0).tolist() == [0, 1, 2]


def test_without_ball_it_is_a_cosine() -> None:
    block, (x, text) = block_of(hyperbolic=False), inputs()
    block([x, text])
    logits = block.pop_aux()["align"]
    u = block.image_tangent(x)
    (anchors,) = block.text_constants(text)
    cosine = torch.cosine_similarity(u.unsqueeze(1), anchors.view(1, K, C, 1), dim=2)
    torch.testing.assert_close(logits.flatten(2), cosine / 0.2, atol=1e-4, rtol=1e-4)
    block.hyperbolic = True
    block([x, text])
    assert (block.pop_aux()["align"] - logits).abs().max() > 0.1


@pytest.mark.parametrize("nc", [2, 6, 18])
def test_anchors_keep_apart_by_their_text(nc: int) -> None:
    """Guard against inert text: even alike texts give different directions, and it is the text that they follow."""
    semantics, block = TextSemantics(nc).eval(), HyperbolicFusion(128, 256, nc)
    alike = F.normalize(semantics.bank + 3 * torch.randn(1, semantics.bank.shape[1]) / 39, dim=-1)
    assert (alike @ alike.T).min() > 0.85
    directions = []
    with torch.no_grad():
        for bank in (alike, alike.roll(1, 0)):  # the second time every class has its neighbour's text
            semantics.set_bank(bank)
            directions.append(F.normalize(block.text_constants(semantics(torch.zeros(1)))[0], dim=-1))
    assert (directions[0] @ directions[0].T - torch.eye(nc)).max() < 0.9
    followed = torch.cosine_similarity(directions[0].roll(1, 0), directions[1]).mean()
    stayed = torch.cosine_similarity(directions[0], directions[1]).mean()
    assert stayed < 0.5 < followed


def test_anchors_do_not_see_what_classes_share() -> None:
    block, (_, text) = block_of(), inputs()
    shifted = block.text_constants(text + 5.0)[0]
    torch.testing.assert_close(block.text_constants(text)[0], shifted, atol=1e-5, rtol=1e-4)


def test_single_class_keeps_its_text() -> None:
    block = block_of(1)
    one, other = (block.text_constants(torch.randn(1, D))[0] for _ in range(2))
    assert one.norm().item() == pytest.approx(1, abs=1e-5)
    assert (one - other).abs().max() > 0.1


def test_taxonomy_buffers() -> None:
    block = with_tree(block_of())
    torch.testing.assert_close(block.radius.data, torch.tensor([1.2, 1.1, 1.0]))
    torch.testing.assert_close(block.parent_radius.data, torch.tensor([0.6, 0.2]))
    (anchors,) = block.text_constants(torch.randn(K, D))
    nodes, radii = block.nodes(anchors)
    torch.testing.assert_close(radii, torch.tensor([1.2, 1.1, 1.0, 0.6, 0.2]))
    torch.testing.assert_close(nodes[:3], anchors)
    middle = F.normalize(anchors[0] / 1.2 + anchors[1] / 1.1, dim=0)
    torch.testing.assert_close(nodes[3], 0.6 * middle, atol=1e-5, rtol=1e-5)
    block.set_taxonomy(torch.ones(1, K), torch.tensor([[3, 0]]), torch.tensor([9.0, 0.0, 1.0, 7.0]))
    assert block.radius.tolist() == pytest.approx([2.0, 0.05, 1.0])
    assert block.parent_radius.tolist() == [2.0]


def test_hierarchy_term_only_with_a_taxonomy() -> None:
    block = block_of()
    block(inputs())
    assert set(block.pop_aux()) == {"align"}
    with_tree(block).parent_radius.data.fill_(1.9)  # parents further out than their children
    block(inputs())
    assert block.pop_aux()["hier"] > 0


def test_foreign_nodes_of_a_deep_tree() -> None:
    foreign = foreign_nodes(torch.tensor([[3, 0], [3, 1], [4, 2], [4, 3]]), 5)
    assert foreign[3].tolist() == [False, False, True, False, False]
    assert foreign[4].tolist() == [False] * 5  # all lie below it, grandchildren too
    assert foreign[0].tolist() == [False, True, True, False, False]
    assert torch.equal(foreign, foreign.T)


def test_taxonomy_edges_out_of_range() -> None:
    with pytest.raises(TextError, match=r"nodes 0 to 3"):
        block_of().set_taxonomy(torch.ones(1, K), torch.tensor([[4, 0]]), torch.ones(K + 1))


def test_hierarchy_loss_by_hand() -> None:
    """Four nodes on the two half-axes: distances on one ray are 2|a - b|, across the origin 2(a + b)."""
    at = torch.tensor([1.0, 0.5, -1.0, 0.2])  # classes 0, 1, 2 and their internal node 3 over 0 and 1
    nodes = torch.stack([at, torch.zeros(4)], 1)
    edges = torch.tensor([[3, 0], [3, 1]])
    order = 0.0  # .2 - 1 + .05 and .2 - .5 + .05 are negative
    # d(3, 0) = 1.6, d(3, 1) = .6, the foreign node is 2 at d = 2.4: both margins hold
    assert hierarchy_loss(nodes, at.abs(), edges).item() == pytest.approx(order, abs=1e-5)
    at[3] = 0.6  # now |p| > |child 1|; d(3, 0) = .8, d(3, 1) = .2, d(3, 2) = 3.2
    nodes = torch.stack([at, torch.zeros(4)], 1)
    order = (0 + 0.6 - 0.5 + 0.05) / 2
    assert hierarchy_loss(nodes, at.abs(), edges).item() == pytest.approx(order, abs=1e-5)
    at[3] = -0.2  # d(3, 0) = 2.4, d(3, 1) = 1.4, d(3, 2) = 1.6
    nodes = torch.stack([at, torch.zeros(4)], 1)
    pull = ((0.1 + 2.4 - 1.6) + 0) / 2  # .1 + 1.4 - 1.6 is negative
    assert hierarchy_loss(nodes, at.abs(), edges).item() == pytest.approx(pull, abs=1e-5)


def test_hierarchy_loss_without_foreign_nodes() -> None:
    nodes = torch.tensor([[1.0, 0], [0.5, 0]])
    assert hierarchy_loss(nodes, torch.tensor([1.0, 0.5]), torch.tensor([[1, 0]])).item() == 0


def test_gradients() -> None:
    assert_gradients_reach_all(shake(block_of()), [inputs()])
    block = with_tree(shake(block_of()))
    block.radius.data.fill_(1.0)
    block.parent_radius.data[:] = torch.tensor([0.98, 0.97])  # inside the margin
    g = block(inputs())
    aux = block.pop_aux()
    (g.square().sum() + aux["hier"] + aux["align"].square().mean()).backward()
    for name, p in block.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("scale", [0.0, 100.0])
def test_gradients_are_finite_at_the_edges(scale: float) -> None:
    x, text = inputs()
    leaves = [(scale * x).requires_grad_(), (scale * text).requires_grad_()]
    block = with_tree(block_of())
    g, aux = block(leaves), block.pop_aux()
    (g.sum() + aux["hier"] + aux["align"].sum()).backward()
    for t in (*leaves, *block.parameters()):
        assert torch.isfinite(t.grad).all()


def test_gradient_by_differences() -> None:
    """The block is an fp32 island, so gradcheck's double precision is out of reach."""
    block, (x, text) = shake(block_of()).eval(), inputs()
    weight = torch.randn(2, C, 3, 4)
    for leaf in (x, text):
        leaf.requires_grad_()
    (block([x, text]) * weight).sum().backward()
    for leaf in (x, text):
        direction, step = torch.randn_like(leaf), 1e-2
        with torch.no_grad():
            sums = [
                (block([x + s * direction, text] if leaf is x else [x, text + s * direction]) * weight).sum().item()
                for s in (step, -step)
            ]
        assert (leaf.grad * direction).sum().item() == pytest.approx(
            (sums[0] - sums[1]) / (2 * step), rel=2e-2, abs=1e-2
        )


@pytest.mark.parametrize("folded", [False, True])
def test_half_precision_stays_inside_in_fp32(folded: bool) -> None:
    block, (x, text) = shake(block_of()).eval(), inputs()
    wanted = block([x, text])
    if folded:
        block.fold_text(text)
    got = block.half()([x.half(), text.half()])
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), wanted, atol=1e-2, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block.float()([x, text])  # autocast is off inside: no bfloat16 distance
        assert block.text_constants(text)[0].dtype == torch.float32


def test_fold() -> None:
    block, (x, text) = shake(block_of()).eval(), inputs()
    wanted = block([x, text])
    block.fold_text(text)
    torch.testing.assert_close(block([x, torch.zeros_like(text)]), wanted)


def test_round_trips() -> None:
    assert_round_trips(shake(block_of()), block_of(), [inputs()], aux=True)
    assert_round_trips(with_tree(shake(block_of())), with_tree(block_of()), [inputs()], aux=True)
    for hyperbolic in (True, False):
        block = shake(block_of(hyperbolic=hyperbolic))
        assert_exports(block, [inputs(1)], [inputs(1)])
    x, text = inputs(1)
    block.fold_text(text)
    assert_exports(block, [[x, text]], [[torch.randn_like(x), text]])


def test_fused_norm_is_the_depth_on_the_ball() -> None:
    """What stage 6 reads: tanh|g| is the norm of the fused point."""
    g = block_of().eval()(inputs()).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.tanh(poincare.norm(g)), poincare.norm(poincare.exp0(g)))


def test_parse_rule() -> None:
    row = RowContext("HyperbolicFusion", [64, 256], [], nc=6, options={"hyperbolic": False})
    plan = HyperbolicFusion.parse(row)
    assert (plan.args, plan.kwargs, plan.c2) == ([64, 256, 6], {"hyperbolic": False}, 64)
