"""TextSemantics: equations 1 and 2 against plain tensors and torch's own attention, banks, folding."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_exports, assert_gradients_reach_all, assert_refuses_others, assert_round_trips, shake
from torch import nn

from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.nn import RowContext, TextSemantics
from ultra_dsmoe.nn.knockout import Record
from ultra_dsmoe.nn.neck.text_semantics import BANK_WIDTH, orthogonality

ANY = torch.zeros(1, 4, 2, 2)  # the input only marks the place in the graph


def small(nc: int = 3, bank: int = 20, **kwargs: Any) -> Any:
    """A block of width 32 with short text vectors."""
    block = TextSemantics(nc, 32, 4, **kwargs)
    if block.text:
        block.set_bank(torch.randn(nc, bank))
    return block


@pytest.mark.parametrize("nc", [1, 2, 7])
@pytest.mark.parametrize("text", [True, False])
def test_shape(nc: int, text: bool) -> None:
    for train in (True, False):
        assert small(nc, text=text).train(train)(ANY).shape == (nc, 32)


def test_arguments() -> None:
    assert_refuses_others(TextSemantics, "text", given={"nc": 3}, width=32, heads=4)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="TextSemantics nc: expected at least one class, got 0"):
        TextSemantics(0)
    with pytest.raises(ConfigError, match="TextSemantics width: expected a multiple of 16, got 40"):
        TextSemantics(3, 40)


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        (torch.zeros(2, 20), r"text vectors: expected shape \(3, d\), one per class, or \(3, P, d\), got \(2, 20\)"),
        (torch.zeros(20), r"expected shape \(3, d\)"),
        (torch.zeros(3, 0, 20), r"expected shape \(3, d\)"),
        (torch.tensor([[1.0], [math.nan], [2.0]]), "expected finite numbers, got NaN or infinity"),
        (torch.tensor([[1.0], [math.inf], [2.0]]), "expected finite numbers"),
    ],
)
def test_bad_bank_changes_nothing(bank: Any, message: str) -> None:
    block = small()
    before = block.bank.clone()
    with pytest.raises(TextError, match=message):
        block.set_bank(bank)
    assert torch.equal(block.bank, before)
    assert block.project.in_features == 20


def test_no_bank_without_text() -> None:
    with pytest.raises(TextError, match="expected a model with `text: true`, got a model without text"):
        small(text=False).set_bank(torch.zeros(3, 20))


def test_value() -> None:
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


def test_initial_position_encoding() -> None:
    pe = TextSemantics(3, 256).position(torch.float32)
    for i in (0, 1, 64, 127):
        angle = 2 * 10000 ** (-2 * i / 256)
        assert pe[2, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert pe[2, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_orthogonality_by_hand() -> None:
    assert orthogonality(torch.eye(3)).item() == 0
    assert orthogonality(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(2 / 4)
    v = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert orthogonality(v).item() == pytest.approx(2 * 0.36 / 4)
    assert orthogonality(torch.ones(1, 1)).item() == 0


def test_orthogonality_is_of_the_values() -> None:
    block = small()
    block(ANY)
    term = block.pop_aux()["ort"]
    e0 = block.project(block.vectors()) + block.position(torch.float32)
    value = F.normalize(block.qkv(e0)[:, 64:], dim=-1)
    torch.testing.assert_close(term, orthogonality(value))
    assert term > 0
    block.eval()(ANY)
    assert block.pop_aux() == {}


def test_without_text_it_is_a_table() -> None:
    block = small(text=False)
    assert torch.equal(block(ANY), block.table[0])
    assert [name for name, _ in block.named_parameters()] == ["table"]
    assert block.table.shape == (1, block.nc, block.width)  # a host optimizer orthogonalises two-dimensional parameters


def test_vectors_are_standardised() -> None:
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


def test_text_outweighs_the_position() -> None:
    """Guard against inert text: with unit vectors, as encoders give them, T must follow the text."""
    block = TextSemantics(6).eval()
    assert block.project(block.vectors()).norm(dim=1).min() > 0.5 * block.position(torch.float32).norm(dim=1).max()
    before = block(ANY)
    block.set_bank(block.bank.roll(1, 0))
    assert torch.cosine_similarity(block(ANY), before).mean() < 0.7


def test_single_class_attends_to_itself() -> None:
    block = shake(small(1)).eval()
    e0 = block.project(block.vectors()) + block.position(torch.float32)
    wanted = block.norm(e0 + block.out(block.qkv(e0)[:, 64:]))
    torch.testing.assert_close(block(ANY), wanted)


def test_another_bank_width_renews_the_projection() -> None:
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


def test_placeholder_bank_consumes_no_random_numbers() -> None:
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


def test_text_matters() -> None:
    block = small().eval()
    before = block(ANY)
    block.set_bank(block.bank.roll(1, 0))
    assert (block(ANY) - before).abs().max() > 0.1


def test_gradients() -> None:
    assert_gradients_reach_all(small(), [torch.zeros(1, dtype=torch.long)])
    assert_gradients_reach_all(small(text=False), [torch.zeros(1, dtype=torch.long)])
    block = small().double().eval()
    block.bank.requires_grad_()
    assert torch.autograd.gradcheck(lambda bank: block(ANY), block.bank)
    block.set_bank(100 * torch.randn(3, 20))
    block.train()(ANY).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


@pytest.mark.parametrize("text", [True, False])
def test_fold(text: bool) -> None:
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

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Any) -> Any:
        return self.block(x) * x.mean()


def test_round_trips() -> None:
    assert_round_trips(shake(small()), small(), [ANY], aux=True)
    for text in (True, False):
        block = shake(small(text=text)).eval()
        assert_exports(Reader(block), [torch.ones(1, 4, 2, 2)], [torch.rand(1, 4, 2, 2)])
        block.fold_text(None)
        assert_exports(Reader(block), [torch.ones(1, 4, 2, 2)], [torch.rand(1, 4, 2, 2)])


def test_parse_rule() -> None:
    plan = TextSemantics.parse(RowContext("TextSemantics", 64, [128, 4], nc=6, options={"text": False}))
    assert (plan.args, plan.kwargs, plan.c2) == ([6, 128, 4], {"text": False, "attend": False}, 128)
    context = RowContext("TextSemantics", 64, [], nc=6, options={"descriptions": "attended"})
    assert TextSemantics.parse(context).kwargs == {"text": True, "attend": True}
    assert TextSemantics.parse(RowContext("TextSemantics", 64, [], nc=6)).args == [6, 256, 8]


# descriptions one by one ----------------------------------------------------------------------------------------------


def descriptions(counts: Any = (2, 1, 3), d: int = 20) -> Any:
    """Unit vectors of that many descriptions per class, with zeros where a class has fewer."""
    bank = F.normalize(torch.randn(len(counts), max(counts), d), dim=-1)
    for row, count in zip(bank, counts, strict=True):
        row[count:] = 0
    return bank


def attending(bank: Any) -> Any:
    block = small(len(bank), bank.shape[-1], attend=True)
    block.set_bank(bank)
    return shake(block).eval()


def test_attention_over_descriptions_by_hand() -> None:
    """Every description is a token; the keys of a class share its weight of one; T is the mean of a class's tokens."""
    counts, bank = (2, 1, 3), descriptions()
    block = attending(bank)
    texts = [bank[k, p] for k, count in enumerate(counts) for p in range(count)]
    of = [k for k, count in enumerate(counts) for _ in range(count)]
    mean = sum(sum(bank[k]) / counts[k] for k in range(3)) / 3
    centred = [text - mean for text in texts]
    power = sum((c * c).mean() / counts[k] for c, k in zip(centred, of, strict=True)) / 3
    place = block.position(torch.float32)
    e0 = torch.stack([block.project(c / power.sqrt()) + place[k] for c, k in zip(centred, of, strict=True)])
    q, key, value = block.qkv(e0).chunk(3, -1)
    mixed = torch.zeros_like(e0)
    for i in range(len(e0)):
        for h in range(0, 32, 8):
            head = slice(h, h + 8)
            heat = torch.stack(
                [(q[i, head] @ key[j, head] / math.sqrt(8)).exp() / counts[of[j]] for j in range(len(e0))]
            )
            mixed[i, head] = (heat / heat.sum()) @ value[:, head]
    tokens = e0 + block.out(mixed)
    wanted = block.norm(torch.stack([tokens[torch.tensor(of) == k].mean(0) for k in range(3)]))
    torch.testing.assert_close(block(ANY), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("nc", [1, 3])
def test_one_description_is_the_pooled_vector(nc: int) -> None:
    bank = descriptions((1,) * nc)
    block, pooling = attending(bank), small(nc)
    pooling.set_bank(bank[:, 0])
    pooling.load_state_dict({**block.state_dict(), "bank": bank[:, 0]})
    assert torch.equal(block(ANY), pooling.eval()(ANY))
    for b in (block, pooling):
        b.train()(ANY)
    assert torch.equal(block.pop_aux()["ort"], pooling.pop_aux()["ort"])


def test_equal_descriptions_count_once() -> None:
    bank = descriptions((1, 1, 1))
    block = attending(bank)
    once = block(ANY)
    double = torch.cat([bank, bank], 1)
    double[2, 1] = 0
    block.set_bank(double)
    torch.testing.assert_close(block(ANY), once, atol=1e-5, rtol=1e-5)


def test_zeros_fill_up_and_change_nothing() -> None:
    bank = descriptions()
    block = attending(bank)
    before = block(ANY)
    block.set_bank(torch.cat([bank, torch.zeros(3, 4, 20)], 1))
    torch.testing.assert_close(block(ANY), before, atol=1e-6, rtol=1e-6)
    block.set_bank(torch.cat([bank, descriptions((1, 1, 1))], 1))
    assert (block(ANY) - before).abs().max() > 1e-2
    assert torch.isfinite(block.double()(ANY)).all()
    block.bank = torch.zeros_like(block.bank)  # a knock-out
    assert torch.isfinite(block(ANY)).all()


def test_descriptions_reach_one_another() -> None:
    """The other words of a class change what one of its descriptions becomes, beyond their mean."""
    bank = descriptions((2, 1, 1))
    block = attending(bank)
    other = bank.clone()
    turn = 0.5 * F.normalize(torch.randn(20), dim=0)
    other[0, 0], other[0, 1] = bank[0, 0] + turn, bank[0, 1] - turn  # the same mean
    before = block(ANY)
    block.set_bank(other)
    assert (block(ANY) - before)[0].abs().max() > 1e-3


def test_a_block_that_pools_takes_the_mean_of_single_vectors() -> None:
    bank = descriptions()
    block = small()
    block.set_bank(bank)
    means = torch.stack([bank[0, :2].mean(0), bank[1, 0], bank[2].mean(0)])
    torch.testing.assert_close(block.bank, F.normalize(means, dim=-1))


def test_attending_block_round_trips() -> None:
    bank = descriptions()
    block, fresh = attending(bank), small(attend=True)
    fresh.load_state_dict(block.state_dict())  # another number of descriptions than its own
    assert torch.equal(fresh.eval()(ANY), block(ANY))
    assert_gradients_reach_all(Reader(block), [torch.rand(1, 4, 2, 2)])
    block.eval()
    before = Reader(block)(torch.ones(1, 4, 2, 2))
    assert_exports(Reader(block), [torch.ones(1, 4, 2, 2)], [torch.rand(1, 4, 2, 2)])
    block.fold_text(None)
    assert torch.equal(Reader(block)(torch.ones(1, 4, 2, 2)), before)
    assert_exports(Reader(block), [torch.ones(1, 4, 2, 2)], [torch.rand(1, 4, 2, 2)])


# settings and knock-outs ----------------------------------------------------------------------------------------------


def test_vectors_are_taken_as_a_copy_in_the_blocks_precision() -> None:
    block, vectors = small(), torch.randn(3, 20)
    block.set_bank(vectors.double())
    assert torch.equal(block.bank, vectors)
    block.set_bank(own := vectors + 1)
    assert torch.equal(block.bank, own)
    assert block.bank.data_ptr() != own.data_ptr(), "a copy"


def test_pooled_descriptions_are_unit_vectors_in_any_precision() -> None:
    one = torch.tensor([[[3.0, 4.0], [3.0, 4.0]], [[0.0, 1e-3], [0.0, 0.0]]])
    block = small(nc=2)
    block.set_bank(one.half())
    torch.testing.assert_close(block.bank, torch.tensor([[0.6, 0.8], [0.0, 1.0]]), atol=1e-6, rtol=0)


def switched(name: Any, block: Any, seed: Any = 0) -> Any:
    (knockout,) = [k for k in TextSemantics.knockouts if k.name == name]
    return knockout.switch([block], Record(), seed)


def test_zeroed_text_leaves_the_place_of_the_class() -> None:
    block = shake(small()).eval()
    own = block.bank
    with switched("text-zero", block):
        assert block.bank.tolist() == torch.zeros(3, 20).tolist()
        assert block.shares().tolist() == [[1.0]] * 3
        assert torch.isfinite(block(ANY)).all()
        assert (block(ANY)[0] - block(ANY)[1]).abs().max() > 1e-2
    assert block.bank is own


@pytest.mark.parametrize("nc", [2, 3, 6])
def test_exchanged_text_is_another_classs(nc: Any) -> None:
    block = small(nc)
    own = block.bank
    with switched("text-shuffled", block):
        places = [next(j for j in range(nc) if torch.equal(row, own[j])) for row in block.bank]
    assert sorted(places) == list(range(nc))
    seen, k = [], 0
    while k not in seen:
        seen.append(k)
        k = places[k]
    assert len(seen) == nc, "one cycle through all classes"


def test_drawn_text_has_each_classs_own_length() -> None:
    block = small()
    block.set_bank(torch.randn(3, 20) * torch.tensor([[1.0], [2.0], [5.0]]))
    own = block.bank
    with switched("text-random", block):
        drawn = block.bank
    with switched("text-random", block, seed=1):
        assert not torch.allclose(block.bank, drawn)
    torch.testing.assert_close(drawn.norm(dim=1), own.norm(dim=1))
    assert F.cosine_similarity(drawn, own).abs().max() < 0.8
    assert F.cosine_similarity(drawn[:1], drawn[1:]).abs().max() < 0.8
    assert block.bank is own


def test_constant_semantics_are_the_mean_of_the_classes() -> None:
    block = shake(small()).eval()
    own = block(ANY)
    with switched("semantics-constant", block):
        torch.testing.assert_close(block(ANY), own.mean(0).expand(3, -1))
    assert torch.equal(block(ANY), own)


@pytest.mark.parametrize(
    ("block", "names"),
    [
        ({"nc": 2}, {"text-zero", "text-shuffled", "text-random", "semantics-constant"}),
        ({"nc": 1}, {"text-zero", "text-random"}),
        ({"nc": 2, "text": False}, {"semantics-constant"}),
        ({"nc": 1, "text": False}, set()),
    ],
)
def test_which_knockouts_apply(block: Any, names: Any) -> None:
    assert {k.name for k in TextSemantics.knockouts if k.applies(small(**block))} == names
    assert all(k.text for k in TextSemantics.knockouts)


def test_defaults_and_what_it_declares() -> None:
    block = TextSemantics(2)
    assert (block.width, block.heads, block.text, block.attend, block.bank.shape) == (256, 8, True, False, (2, 1536))
    assert TextSemantics.attend is False, "of blocks that were saved before there was the choice"
    assert {name: term.gain for name, term in TextSemantics.aux_terms.items()} == {"ort": 0.01}
    assert TextSemantics.stacked_vectors == {"table": 1}
    assert small(text=False).table.shape == (1, 3, 32)


def test_two_classes_are_centred() -> None:
    """Opposite to each other and of unit variance, whatever they have in common."""
    block = small(2)
    block.set_bank(torch.tensor([[5.0, 1.0, 7.0], [5.0, 3.0, 7.0]]))
    torch.testing.assert_close(block.vectors(), torch.tensor([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]) * 3**0.5)


def test_a_description_counts_unless_it_is_all_zeros() -> None:
    block = small(2, attend=True)
    block.set_bank(torch.tensor([[[-1.0, -2.0], [0.0, 3.0]], [[1.0, 0.0], [0.0, 0.0]]]))
    assert block.shares().tolist() == [[0.5, 0.5], [1.0, 0.0]]
