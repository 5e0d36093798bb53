"""CMAF: every form by hand, what reaches the gate and what does not, knock-outs, limits, errors, rows."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import pytest
import torch
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from torch import nn

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.explain.record import recording
from ultra_dsmoe.nn import CMAF, Record, RowContext
from ultra_dsmoe.train.optimizer import regroup

C_MAP, C, HEADS = 10, 16, 4
GATED = ("cmaf", "cmaf_nosig")
FORMS = [(fusion, attention) for fusion in GATED for attention in ("cells", "channel")]
FORMS += [("concat", "cells"), ("mean", "cells")]
KNOCKOUTS = {k.name: k for k in CMAF.knockouts}
PICTURE, VLM, LLM, TEXTS, WEIGHTS, UNIFORM = KNOCKOUTS  # in the order of their declaration
OF_INPUTS = (PICTURE, VLM, LLM, TEXTS)


def inputs(b: int = 2, h: int = 3, w: int = 5, c: int = C, c_map: int = C_MAP) -> list[Any]:
    return [torch.randn(b, c_map, h, w), *(torch.randn(b, c) for _ in range(3))]


def small(fusion: str = "cmaf", attention: str = "cells") -> Any:
    return shake(CMAF(C_MAP, C, HEADS, fusion, attention))


def normal(x: Any, norm: Any) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def linear(x: Any, layer: Any) -> Any:
    return x @ layer.weight.T + layer.bias


def heads(x: Any) -> list[Any]:
    return list(x.split(C // HEADS, -1))


@pytest.mark.parametrize("fusion", GATED)
def test_value_over_cells(fusion: str) -> None:
    block, (x, zi, zv, zl) = small(fusion).eval(), inputs()
    got = block([x, zi, zv, zl])
    zi, zv, zl = normal(zi, block.norm_image), normal(zv, block.norm_vlm), normal(zl, block.norm_llm)
    att = block.attention
    for i in range(len(x)):
        cells = normal(x[i].flatten(1).T, att.norm)
        c = []
        for z in (zv[i], zl[i]):
            parts = (heads(linear(t, p)) for t, p in ((z, att.query), (cells, att.key), (cells, att.value)))
            seen = [torch.softmax(k @ q / math.sqrt(C // HEADS), 0) @ v for q, k, v in zip(*parts, strict=True)]
            c.append(z + torch.cat(seen))
        w = linear(torch.cat([*c, zi[i]]), block.gate)
        w = 1 / (1 + torch.exp(-w)) if fusion == "cmaf" else w
        torch.testing.assert_close(got[i], w[0] * zv[i] + w[1] * zl[i] + w[2] * zi[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", GATED)
def test_value_as_written(fusion: str) -> None:
    """Equations 6 to 8 on vectors, whose maps are 1 x 1."""
    block, (x, zi, zv, zl) = small(fusion, "channel").eval(), inputs()
    got = block([x, zi, zv, zl])
    att = block.attention
    for i in range(len(x)):
        c = []
        projected = (heads(linear(z[i], p)) for z, p in ((zv, att.query), (zl, att.key), (zi, att.value)))
        for q, k, v in zip(*projected, strict=True):
            c.append(torch.softmax(torch.outer(q, k) / math.sqrt(C // HEADS), 1) @ v)
        w = linear(torch.cat(c), block.gate)
        w = 1 / (1 + torch.exp(-w)) if fusion == "cmaf" else w
        torch.testing.assert_close(got[i], w[0] * zv[i] + w[1] * zl[i] + w[2] * zi[i], atol=1e-5, rtol=1e-5)


def test_value_of_the_comparisons() -> None:
    x = inputs()
    for fusion in ("concat", "mean"):
        block = small(fusion)
        zi, zv, zl = normal(x[1], block.norm_image), normal(x[2], block.norm_vlm), normal(x[3], block.norm_llm)
        wanted = torch.cat([zv, zl, zi], 1) if fusion == "concat" else (zv + zl + zi) / 3
        torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


def test_none_is_the_picture_alone() -> None:
    block, x = CMAF(C_MAP, C, fusion="none"), inputs()
    assert not list(block.parameters())
    assert block(x) is x[1]
    assert block([x[0], x[1], None, None]) is x[1]


def explained(block: Any, x: list[Any], part: int) -> float:
    """Return the share of the variance of W's logits that is gone where input ``part`` is its mean over the batch."""
    logits = []
    with torch.no_grad():
        for inside in (x, [t.mean(0, keepdim=True).expand_as(t) if i == part else t for i, t in enumerate(x)]):
            block.record_weights = True
            block(inside)
            logits.append(torch.logit(block.weights.double()))
    return ((logits[0] - logits[1]).var(0).sum() / logits[0].var(0).sum()).item()


def untrained(attention: str) -> Any:
    """A block of the paper's size with a gate that reads something, its projection as any fresh layer's."""
    block = CMAF(64, 256, 4, attention=attention)
    nn.init.normal_(block.gate.weight, std=block.gate.in_features**-0.5)
    return block.eval()


def test_all_inputs_reach_the_weights() -> None:
    """Guard against an inert fusion, with features of deviation 1 as behind a normalisation."""
    block, x = untrained("cells"), inputs(256, 7, 7, 256, 64)
    of_map, of_image, of_vlm, of_llm = (explained(block, x, part) for part in range(4))
    assert min(of_image, of_vlm, of_llm) > 0.2
    assert of_map > 0.02


def test_as_written_no_text_reaches_the_weights() -> None:
    """The paper's form on vectors, with fresh weights: what is handed on is the mean of V, head by head."""
    block, x = untrained("channel"), inputs(256, 7, 7, 256, 64)
    _, of_image, of_vlm, of_llm = (explained(block, x, part) for part in range(4))
    assert max(of_vlm, of_llm) < 0.01
    assert of_image > 0.95


@pytest.mark.parametrize(("fusion", "attention"), FORMS[:4])
def test_w_starts_at_one_half_and_does_so_again(fusion: str, attention: str) -> None:
    block, (x, zi, zv, zl) = CMAF(C_MAP, C, HEADS, fusion, attention), inputs()
    block.record_weights = True
    for _ in range(2):
        got = block([x, zi, zv, zl])
        assert torch.equal(block.weights, torch.full((2, 3), 0.5))
        torch.testing.assert_close(got, (block.norm_vlm(zv) + block.norm_llm(zl) + block.norm_image(zi)) / 2)
        shake(block)
        for m in block.modules():  # the host does so where pretrained=False
            if hasattr(m, "reset_parameters"):
                m.reset_parameters()


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_the_gate_learns_at_the_common_pace(optimizer: Any) -> None:
    """Zero-started, but behind 768 normalised inputs: W leaves one half within tens of steps."""
    block, x = CMAF(C_MAP, C, HEADS), inputs(64)
    wanted = torch.where(x[2][:, :1] > 0, x[2], x[3])  # the first text's own entry says which text counts
    steps = regroup(optimizer(block.parameters(), lr=1e-3 if optimizer is torch.optim.AdamW else 0.03), block)
    block.record_weights = True
    losses = []
    for _ in range(60):
        loss = (block(x) - wanted).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert block.weights.std(0).min() > 0.02
    assert 0.05 < block.weights.min() < block.weights.max() < 0.95
    assert {g["lr"] for g in steps.param_groups} == {steps.defaults["lr"]}


def test_weights_are_recorded_on_request_alone_and_travel_nowhere() -> None:
    block, x = small(), inputs()
    block(x)
    assert block.weights is None
    block.record_weights = True
    block(x)
    assert block.weights.shape == (2, 3)
    assert not block.weights.requires_grad
    assert ((block.weights > 0) & (block.weights < 1)).all()
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert twin.weights is None
    assert block.weights is not None


def knocked(block: Any, x: list[Any], name: str, seen: list[Any] | None = None) -> Any:
    """Return what a block gives with something off, its means being those of ``seen``."""
    knockout, record = KNOCKOUTS[name], Record()
    with recording(block, record), torch.no_grad():
        block(x if seen is None else seen)
    with knockout.switch(list(knockout.parts(block)), record, 0), torch.no_grad():
        return block(x)


@pytest.mark.parametrize(("fusion", "attention"), FORMS)
def test_knockouts(fusion: str, attention: str) -> None:
    block, x = small(fusion, attention).eval(), inputs(6)
    with torch.no_grad():
        before = block(x)
    for name, knockout in KNOCKOUTS.items():
        if knockout.applies(block):
            assert not torch.allclose(knocked(block, x, name), before, atol=1e-6), name
        else:
            assert fusion not in GATED
            assert name not in OF_INPUTS
    assert torch.equal(block(x), before)
    block.record_weights = True
    if fusion in GATED:
        block(x)
        w = block.weights.mean(0)
        zi, zv, zl = block.norm_image(x[1]), block.norm_vlm(x[2]), block.norm_llm(x[3])
        torch.testing.assert_close(knocked(block, x, WEIGHTS), w[0] * zv + w[1] * zl + w[2] * zi)
        zero = copy.deepcopy(block)
        nn.init.zeros_(zero.attention.query.weight)  # no query at all: all logits are equal
        nn.init.zeros_(zero.attention.query.bias)
        torch.testing.assert_close(knocked(block, x, UNIFORM), zero(x))
    if fusion != "concat":
        return
    mean = before.mean(0, keepdim=True).expand(6, -1)
    for name, off in ((VLM, (0, 1)), (LLM, (1, 2)), (TEXTS, (0, 2)), (PICTURE, (2, 3))):
        part, expected = slice(off[0] * C, off[1] * C), before.clone()
        expected[:, part] = mean[:, part]
        torch.testing.assert_close(knocked(block, x, name), expected)


@pytest.mark.parametrize(("fusion", "attention"), FORMS)
def test_without_an_input_nothing_of_it_is_left(fusion: str, attention: str) -> None:
    """Whatever else the image is: neither its vector nor its map, or neither text, says anything about it."""
    block, x, other = small(fusion, attention).eval(), inputs(4), inputs(4)
    for name, own in ((PICTURE, (0, 1)), (VLM, (2,)), (LLM, (3,)), (TEXTS, (2, 3))):
        mixed = [other[i] if i in own else t for i, t in enumerate(x)]
        torch.testing.assert_close(knocked(block, x, name), knocked(block, mixed, name, seen=x), msg=name)


def test_the_mean_is_that_of_all_batches() -> None:
    """A loader gives images class by class: the mean of a batch would still say which class it is."""
    block, (one, other) = small().eval(), (inputs(3), inputs(3))
    both = [torch.cat(pair) for pair in zip(one, other, strict=True)]
    for name in (*OF_INPUTS, WEIGHTS):
        torch.testing.assert_close(knocked(block, one, name, seen=both), knocked(block, both, name)[:3], msg=name)


def test_no_knockout_applies_without_texts() -> None:
    assert not [k.name for k in CMAF.knockouts if k.applies(CMAF(C_MAP, C, fusion="none"))]


@pytest.mark.parametrize("fusion", GATED)
def test_a_constant_map_says_the_same_to_every_text(fusion: str) -> None:
    block, x = small(fusion).eval(), inputs(1, 1, 1)
    torch.testing.assert_close(block([x[0].expand(-1, -1, 4, 4), *x[1:]]), block(x))
    flat = [torch.full((2, C_MAP, 4, 4), 3.0), *(torch.full((2, C), v) for v in (1.0, 0.0, -2.0))]
    assert torch.isfinite(block(flat)).all()  # vectors without any variance


def test_the_order_of_the_cells_does_not_matter() -> None:
    block, x = small().eval(), inputs()
    turned = [x[0].flatten(2)[..., torch.randperm(15)].view(2, C_MAP, 5, 3), *x[1:]]
    torch.testing.assert_close(block(turned), block(x))


@pytest.mark.parametrize(("fusion", "attention"), FORMS)
def test_images_do_not_see_one_another(fusion: str, attention: str) -> None:
    block, x = small(fusion, attention), inputs(3)
    torch.testing.assert_close(block(x)[1:2], block([t[1:2] for t in x]))


@pytest.mark.parametrize(("fusion", "attention"), FORMS)
def test_gradients_round_trips_and_export(fusion: str, attention: str) -> None:
    x = inputs()
    if attention == "channel" or fusion not in GATED:  # these do not read the map
        cells = x[0]

        class Vectors(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.block = small(fusion, attention)

            def forward(self, vectors: Any) -> Any:
                return self.block([cells, *vectors])

        assert_gradients_reach_all(Vectors(), [x[1:]])
    else:
        assert_gradients_reach_all(small(fusion, attention), [x])
    assert_round_trips(small(fusion, attention), small(fusion, attention), [inputs()])
    assert_exports(small(fusion, attention), [inputs(1)], [inputs(1)])


def test_gradients_reach_what_stands_before_a_fresh_gate() -> None:
    """The first step moves the gate, the second what it reads."""
    block = CMAF(C_MAP, C, HEADS)
    x = [t.requires_grad_() for t in inputs()]
    block(x).square().sum().backward()
    assert block.gate.weight.grad.abs().max() > 0
    assert all(t.grad.abs().max() > 0 for t in x[1:])


@pytest.mark.parametrize(("fusion", "attention"), FORMS)
def test_half_precision_is_near_and_finite_on_large_values(fusion: str, attention: str) -> None:
    block, x = small(fusion, attention).eval(), inputs()
    half = copy.deepcopy(block).half()
    with torch.no_grad():
        got = half([t.half() for t in x])
        assert got.dtype == torch.float16
        torch.testing.assert_close(got.float(), block(x), atol=2e-2, rtol=2e-2)
        assert torch.isfinite(half([100 * t.half() for t in x])).all()
        with torch.autocast("cpu", torch.bfloat16):
            low = block(x)
        torch.testing.assert_close(low.float(), block(x), atol=6e-2, rtol=6e-2)


def test_arguments() -> None:
    assert_refuses_others(CMAF, c_map=C_MAP, c=C, heads=HEADS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": 3}, "CMAF heads: expected a divisor of 16, the width of the vectors, got 3"),
        (
            {"fusion": "conct"},
            "CMAF fusion: expected one of cmaf, cmaf_nosig, concat, mean, none (did you mean 'concat'?), got conct",
        ),
        ({"fusion": None}, "CMAF fusion: expected one of cmaf, cmaf_nosig, concat, mean, none, got None"),
        (
            {"attention": "cell"},
            "CMAF attention: expected one of cells, channel (did you mean 'cells'?), got cell",
        ),
        (
            {"fusion": "mean", "attention": "channel"},
            "CMAF attention: expected cells where fusion is mean, which attends to nothing, got channel",
        ),
    ],
)
def test_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        CMAF(**{"c_map": C_MAP, "c": C, "heads": HEADS, **given})


@pytest.mark.parametrize(("fusion", "attention"), FORMS)
@pytest.mark.parametrize("missing", [(2,), (3,), (2, 3)])
def test_texts_that_are_needed(fusion: str, attention: str, missing: Any) -> None:
    x = [None if i in missing else t for i, t in enumerate(inputs())]
    message = "CMAF texts: expected two per image, in a fourth channel, or fusion: none, got none"
    with pytest.raises(ShapeError, match=f"^{message}$"):
        small(fusion, attention)(x)


def test_a_picture_that_is_none() -> None:
    for fusion in ("cmaf", "none"):
        with pytest.raises(ShapeError, match=r"^CMAF image: expected a vector per image, got none$"):
            small(fusion)([torch.randn(2, C_MAP, 3, 3), None, None, None])


def test_a_map_that_is_none() -> None:
    _, *vectors = inputs()
    for wrong, got in ((torch.randn(2, C_MAP), r"\(2, 10\)"), (torch.randn(2, C_MAP, 3), r"\(2, 10, 3\)")):
        with pytest.raises(ShapeError, match=rf"^CMAF map: expected shape \(B, C, H, W\), got {got}$"):
            small()([wrong, *vectors])
    with pytest.raises(ShapeError, match=r"CMAF map: expected shape .*, got none"):
        small()([None, *vectors])
    assert small("mean")([None, *vectors]).shape == (2, C)


@pytest.mark.parametrize(
    ("options", "fusion", "width"),
    [
        ({}, "cmaf", 256),
        ({"text_mode": "always"}, "cmaf", 256),
        ({"text_mode": "train"}, "none", 256),
        ({"text_mode": "train", "fusion": "mean"}, "mean", 256),
        ({"fusion": "concat"}, "concat", 768),
    ],
)
def test_parse_rule(options: dict[str, Any], fusion: str, width: int) -> None:
    plan = CMAF.parse(RowContext("CMAF", [512, 256, 256, 256], [], options=options, width=0.25))
    assert (plan.args, plan.c2, plan.repeats) == ([512, 256, 4], width, 1)
    assert plan.kwargs == {"fusion": fusion, "attention": "cells"}
    assert CMAF(*plan.args, **plan.kwargs)(inputs(1, 2, 2, 256, 512)).shape == (1, width)


def test_parse_rule_of_heads_and_attention() -> None:
    plan = CMAF.parse(RowContext("CMAF", [8, 16, 16, 16], [2], options={"fusion_attention": "channel"}))
    assert (plan.args, plan.kwargs) == ([8, 16, 2], {"fusion": "cmaf", "attention": "channel"})


@pytest.mark.parametrize(
    ("ctx", "message"),
    [
        ({"c1": [8, 16, 16]}, "model YAML row CMAF: expected 'from' with 4 inputs, got 3"),
        (
            {"c1": [8, 16, 16, 24]},
            "model YAML row CMAF: expected texts as wide as the image's vector, 16, got [16, 24]",
        ),
        (
            {"c1": [8, 16, 16, [3, 16, 16]]},
            "model YAML row CMAF: expected tensor inputs (use Pick on a list row), got [8, 16, 16, [3, 16, 16]]",
        ),
        (
            {"options": {"fusion": "sum"}},
            "dsmoe.fusion: expected one of cmaf, cmaf_nosig, concat, mean, none, got sum",
        ),
        ({"options": {"text_mode": "never"}}, "dsmoe.text_mode: expected one of train, always, got never"),
        (
            {"options": {"fusion_attention": "cell"}},
            "dsmoe.fusion_attention: expected one of cells, channel (did you mean 'cells'?), got cell",
        ),
    ],
)
def test_rows_that_are_wrong(ctx: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        CMAF.parse(RowContext(**{"name": "CMAF", "c1": [8, 16, 16, 16], "args": [], **ctx}))
