"""The two contracts of blocks: auxiliary terms and folded text."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from ultra_dsmoe.nn.base import AuxLossMixin, TextFoldMixin, autocast_off


class Leaver(AuxLossMixin, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Any) -> Any:
        y = x * self.weight
        self.aux = {"term": y.sum()}
        return y


class Folder(TextFoldMixin):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def text_constants(self, text: Any) -> Any:
        return self.linear(text), text.mean(0)

    def forward(self, text: Any) -> Any:
        return self.constants(text)


def test_aux_is_popped_once() -> None:
    block = Leaver()
    assert block.pop_aux() == {}
    block(torch.ones(2))
    assert block.pop_aux()["term"].item() == 2
    assert block.pop_aux() == {}


def test_aux_is_left_out_of_copies() -> None:
    block = Leaver()
    block(torch.ones(2))
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert twin.aux is None
        assert torch.equal(twin.weight, block.weight)
    assert block.aux is not None


def test_the_mixin_is_needed() -> None:
    """Guard of the reason: without the mixin the copy behind the moving average fails."""

    class Careless(nn.Module):
        forward = Leaver.forward

    block = Careless()
    block.weight = nn.Parameter(torch.ones(2))
    block(torch.ones(2))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(block)


def test_fold_freezes_the_text() -> None:
    block, text = Folder().eval(), torch.randn(4, 3)
    wanted = block(text)
    block.fold_text(text)
    for other in (text, torch.randn(4, 3), None):
        for got, value in zip(block(other), wanted, strict=True):
            assert torch.equal(got, value)
            assert not got.requires_grad


def test_fold_is_no_alias_and_is_not_saved() -> None:
    block, text = Folder().eval(), torch.randn(4, 3)
    block.fold_text(text)
    before = block(None)[0].clone()
    block.linear.weight.data.add_(1)
    assert torch.equal(block(None)[0], before)
    assert set(block.state_dict()) == {"linear.weight", "linear.bias"}
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(None)[0], before)
    assert block.double()(None)[0].dtype == torch.float64  # follows the module


def test_a_constant_that_is_a_parameter_is_folded_as_a_copy() -> None:
    class Table(TextFoldMixin):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(1, 2, 3))

        def text_constants(self, text: Any) -> Any:
            return (self.table[0],)

    block = Table().eval()
    block.fold_text(None)
    block.table.data.zero_()
    assert block.constants(None)[0].tolist() == [[1.0] * 3] * 2


def test_training_unfolds_and_evaluation_does_not() -> None:
    block, text = Folder().eval(), torch.randn(4, 3)
    block.fold_text(text)
    assert block.eval().folded
    assert not block.train().folded
    assert torch.equal(block(2 * text)[0], block.linear(2 * text))
    block.eval()
    assert not block.folded


def test_a_subclass_must_say_what_it_folds() -> None:
    with pytest.raises(NotImplementedError, match=r"TextFoldMixin.text_constants"):
        TextFoldMixin().constants(torch.ones(1, 1))


def test_autocast_off() -> None:
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with autocast_off(x):
            assert (x @ x).dtype == torch.float32
