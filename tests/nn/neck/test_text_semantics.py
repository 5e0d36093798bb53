"""TextSemantics: equations 1 and 2 against plain tensors and torch's own attention, banks, folding."""

import math

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_round_trips, shake
from torch import nn

from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.nn import RowContext, TextSemantics
from ultra_dsmoe.nn.neck.text_semantics import BANK_WIDTH, orthogonality

ANY = torch.zeros(1, 4, 2, 2)  # the input only marks the place in the graph


def small(nc=3, bank=20, **kwargs):
    """A block of width 32 with short text vectors."""
    block = TextSemantics(nc, 32, 4, **kwargs)
    if block.text:
        block.set_bank(torch.randn(nc, bank))
    return block


@pytest.mark.parametrize("nc", [1, 2, 7])
@pytest.mark.parametrize("text", [True, False])
def test_shape(nc, text):
    for train in (True, False):
        assert small(nc, text=text).train(train)(ANY).shape == (nc, 32)


def test_errors():
    with pytest.raises(ConfigError, match="TextSemantics nc: expected at least one class, got 0"):
        TextSemantics(0)
    with pytest.raises(ConfigError, match="TextSemantics width: expected a multiple of 16, got 40"):
        TextSemantics(3, 40)


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        (torch.zeros(2, 20), r"text vectors: expected shape \(3, d\), one per class, got \(2, 20\)"),
        (torch.zeros(20), r"expected shape \(3, d\)"),
        (torch.tensor([[1.0], [math.nan], [2.0]]), "expected finite numbers, got NaN or infinity"),
        (torch.tensor([[1.0], [math.inf], [2.0]]), "expected finite numbers"),
    ],
)
def test_bad_bank_changes_nothing(bank, message):
    block = small()
    before = block.bank.clone()
    with pytest.raises(TextError, match=message):
        block.set_bank(bank)
    assert torch.equal(block.bank, before)
    assert block.project.in_features == 20


def test_no_bank_without_text():
    with pytest.raises(TextError, match="expected a model with `text: true`, got a model without text"):
        small(text=False).set_bank(torch.zeros(3, 20))


def test_value():
    block = shake(small()).eval()
    k, d, heads = 3, 32, 4
    pe = torch.zeros(k, d)
    for c in range(k):
        for i in range(d // 2):
            angle = block.frequency[i] * c + block.phase[i]
            pe[c, 2 * i], pe[c, 2 * i + 1] = torch.sin(angle), torch.cos(angle)
    bank = block.bank - sum(block.bank) / k
    bank = bank / math.sqrt((bank * bank).sum() / bank.numel())
    e0 = bank @ block.project.weight.T + block.project.bias + pe
    torchs = nn.MultiheadAttention(d, heads, batch_first=True)
    torchs.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.out.weight,
            "out_proj.bias": block.out.bias,
        }
    )
    y = e0 + torchs(e0[None], e0[None], e0[None])[0][0]
    wanted = (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True, unbiased=False) + block.norm.eps)
    torch.testing.assert_close(block(ANY), wanted * block.norm.weight + block.norm.bias, atol=1e-5, rtol=1e-5)


def test_initial_position_encoding():
    pe = TextSemantics(3, 256).position(torch.float32)
    for i in (0, 1, 64, 127):
        angle = 2 * 10000 ** (-2 * i / 256)
        assert pe[2, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert pe[2, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_orthogonality_by_hand():
    assert orthogonality(torch.eye(3)).item() == 0
    assert orthogonality(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(2 / 4)
    v = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert orthogonality(v).item() == pytest.approx(2 * 0.36 / 4)
    assert orthogonality(torch.ones(1, 1)).item() == 0


def test_orthogonality_is_of_the_values():
    block = small()
    block(ANY)
    term = block.pop_aux()["ort"]
    e0 = block.project(block.vectors()) + block.position(torch.float32)
    value = F.normalize(block.qkv(e0)[:, 64:], dim=-1)
    torch.testing.assert_close(term, orthogonality(value))
    assert term > 0
    block.eval()(ANY)
    assert block.pop_aux() == {}


def test_without_text_it_is_a_table():
    block = small(text=False)
    assert torch.equal(block(ANY), block.table[0])
    assert [name for name, _ in block.named_parameters()] == ["table"]
    assert block.table.shape == (1, block.nc, block.width)  # a host optimizer orthogonalises two-dimensional parameters


def test_vectors_are_standardised():
    """Scale and shared part of the encoder's vectors do not matter; the relations between classes stay."""
    block, bank = small(), torch.randn(3, 20)
    block.set_bank(bank)
    vectors = block.vectors()
    torch.testing.assert_close(vectors.mean(0), torch.zeros(20), atol=1e-6, rtol=0)
    assert vectors.square().mean().item() == pytest.approx(1)
    distance = torch.pdist(vectors) / torch.pdist(bank)
    torch.testing.assert_close(distance, distance[:1].expand(3))
    block.set_bank(0.01 * bank + 5)
    torch.testing.assert_close(block.vectors(), vectors, atol=1e-3, rtol=1e-3)
    assert torch.equal(block.bank, 0.01 * bank + 5)  # the encoder's own are what is kept
    block.set_bank(torch.ones(3, 20))
    assert not block.vectors().any()
    one = small(1)
    torch.testing.assert_close(one.vectors(), one.bank / one.bank.square().mean().sqrt())


def test_text_outweighs_the_position():
    """Guard against inert text: with unit vectors, as encoders give them, T must follow the text."""
    block = TextSemantics(6).eval()
    assert block.project(block.vectors()).norm(dim=1).min() > 0.5 * block.position(torch.float32).norm(dim=1).max()
    before = block(ANY)
    block.set_bank(block.bank.roll(1, 0))
    assert torch.cosine_similarity(block(ANY), before).mean() < 0.7


def test_single_class_attends_to_itself():
    block = shake(small(1)).eval()
    e0 = block.project(block.vectors()) + block.position(torch.float32)
    wanted = block.norm(e0 + block.out(block.qkv(e0)[:, 64:]))
    torch.testing.assert_close(block(ANY), wanted)


def test_another_bank_width_renews_the_projection():
    block = small().double().eval()
    kept = block.project
    vectors = torch.randn(3, 20)
    block.set_bank(vectors)
    assert block.project is kept
    assert torch.equal(block.bank, vectors.double())
    vectors[:] = 0
    assert block.bank.abs().max() > 0  # a copy
    block.set_bank(torch.randn(3, 7))
    assert block.project.in_features == 7
    assert block(ANY).dtype == torch.float64


def test_placeholder_bank_consumes_no_random_numbers():
    torch.manual_seed(5)
    block = TextSemantics(4, 32, 4)
    torch.manual_seed(5)
    first = nn.Linear(BANK_WIDTH, 32)  # the first that draws
    assert torch.equal(block.project.weight, first.weight)
    torch.manual_seed(6)
    assert torch.equal(TextSemantics(4, 32, 4).bank, block.bank)
    cosine = block.bank @ block.bank.T
    torch.testing.assert_close(cosine.diagonal(), torch.ones(4))
    assert (cosine - torch.eye(4)).abs().max() < 0.2  # classes differ


def test_text_matters():
    block = small().eval()
    before = block(ANY)
    block.set_bank(block.bank.roll(1, 0))
    assert (block(ANY) - before).abs().max() > 0.1


def test_gradients():
    assert_gradients_reach_all(small(), [torch.zeros(1, dtype=torch.long)])
    assert_gradients_reach_all(small(text=False), [torch.zeros(1, dtype=torch.long)])
    block = small().double().eval()
    block.bank.requires_grad_()
    assert torch.autograd.gradcheck(lambda bank: block(ANY), block.bank)
    block.set_bank(100 * torch.randn(3, 20))
    block.train()(ANY).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


@pytest.mark.parametrize("text", [True, False])
def test_fold(text):
    block = shake(small(text=text)).eval()
    wanted = block(ANY)
    block.fold_text(None)
    assert torch.equal(block(ANY), wanted)
    assert not block(ANY).requires_grad
    half = block.half()(ANY)
    torch.testing.assert_close(half.float(), wanted, atol=2e-3, rtol=1e-3)
    assert block.float().train()(ANY).requires_grad  # training unfolds


class Reader(nn.Module):
    """A graph that reads its input beside the text, as a tracer demands."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) * x.mean()


def test_round_trips():
    assert_round_trips(shake(small()), small(), [ANY], aux=True)
    for text in (True, False):
        block = shake(small(text=text)).eval()
        assert_exports(Reader(block), [torch.ones(1, 4, 2, 2)], [torch.rand(1, 4, 2, 2)])
        block.fold_text(None)
        assert_exports(Reader(block), [torch.ones(1, 4, 2, 2)], [torch.rand(1, 4, 2, 2)])


def test_parse_rule():
    plan = TextSemantics.parse(RowContext("TextSemantics", 64, [128, 4], nc=6, options={"text": False}))
    assert (plan.args, plan.kwargs, plan.c2) == ([6, 128, 4], {"text": False}, 128)
    assert TextSemantics.parse(RowContext("TextSemantics", 64, [], nc=6)).args == [6, 256, 8]
