"""BandSplit: two bands that add up, learned shares, folding, what a wrong argument is told."""

from typing import Any

import pytest
import torch
from block_checks import assert_gradients_reach_all, export_onnx, run_onnx

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.nn import BandSplit, RowContext
from ultra_dsmoe.nn.neck.band_split import SPLITS
from ultra_dsmoe.ops import patch_dct

C = 6


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("size", [(8, 12), (5, 7), (4, 4)])
def test_bands_add_up(split: Any, size: Any) -> None:
    x = torch.randn(2, C, *size)
    low, high = BandSplit(C, split)(x)
    assert low.shape == high.shape == x.shape
    torch.testing.assert_close(low + high, x, atol=1e-6, rtol=0)
    assert high.std() > 0.1


@pytest.mark.parametrize("split", ["overlap", "patch"])
def test_a_constant_map_has_no_high_band(split: Any) -> None:
    low, high = BandSplit(C, split)(torch.full((1, C, 9, 6), -2.0))
    assert high.abs().max() < 1e-5
    torch.testing.assert_close(low, torch.full((1, C, 9, 6), -2.0), atol=1e-5, rtol=0)


def test_value_follows_patch_and_tau() -> None:
    x = torch.randn(1, C, 12, 12)
    kernel = patch_dct.band_kernel(patch_dct.low_band(3, 1), patch_dct.autocorrelations(3)).expand(C, 1, -1, -1)
    torch.testing.assert_close(BandSplit(C, "overlap", 3, 1)(x)[0], patch_dct.filter_map(x, kernel))
    weight = patch_dct.depthwise(patch_dct.dct_kernels(8)[patch_dct.low_band(8, 3) > 0], C)
    torch.testing.assert_close(BandSplit(C, "patch", 8, 3)(x)[0], patch_dct.project_patches(x, weight))


def test_learned_shares_move_the_bound_of_one_channel() -> None:
    block, x = BandSplit(C, "learned"), torch.randn(1, C, 9, 9)
    before = block(x)[0]
    with torch.no_grad():
        block.shares[2] = 20  # everything
    low = block(x)[0]
    torch.testing.assert_close(low[:, 2], x[:, 2], atol=1e-5, rtol=0)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(low[:, others], before[:, others])
    with torch.no_grad():
        block.shares.copy_(20 * (2 * patch_dct.low_band(4, 2) - 1))
    torch.testing.assert_close(block(x)[0], BandSplit(C)(x)[0], atol=1e-5, rtol=0)


def test_learned_shares_get_gradients_and_are_folded() -> None:
    block, x = BandSplit(C, "learned"), torch.randn(1, C, 9, 9)
    assert block.fast_parameters == ("shares",)
    low, high = block(x)
    (low.square().sum() + 2 * high.square().sum()).backward()
    assert block.shares.grad.abs().min() > 0
    block.fold()
    assert not list(block.parameters())
    torch.testing.assert_close(block(x)[0], low, atol=1e-6, rtol=0)
    block.fold()  # a second time does nothing


@pytest.mark.parametrize("split", SPLITS)
def test_exports(split: Any) -> None:
    class Stacked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = BandSplit(C, split).eval()

        def forward(self, x: Any) -> Any:
            return torch.stack(self.block(x))

    net, x = Stacked().eval(), torch.randn(1, C, 10, 6)
    session = export_onnx(net, [x])
    torch.testing.assert_close(torch.from_numpy(run_onnx(session, [x])[0]), net(x), atol=1e-4, rtol=0)
    assert net.block.fixed_size == (split == "patch")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"c": 0}, "BandSplit c: expected a positive integer"),
        ({"split": "fourier"}, "BandSplit split: expected one of overlap, patch, learned"),
        ({"patch": 1}, "BandSplit patch: expected a whole number from 2 to 16"),
        ({"patch": 4.0}, "BandSplit patch: expected a whole number from 2 to 16"),
        ({"tau": 0}, "BandSplit tau: expected a whole number from 1 to 6 for patches of 4"),
        ({"tau": 7}, "BandSplit tau: expected a whole number from 1 to 6 for patches of 4, got 7"),
        ({"tau": True}, "BandSplit tau: expected"),
    ],
)
def test_errors(wrong: Any, message: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        BandSplit(**{"c": C, **wrong})


def test_a_patch_larger_than_the_map_is_told() -> None:
    with pytest.raises(ShapeError, match=r"BandSplit patch: expected at most the shorter side of the map, 3 .*, got 4"):
        BandSplit(C)(torch.zeros(1, C, 3, 8))


def test_parse_rule() -> None:
    plan = BandSplit.parse(RowContext("BandSplit", 32, [], options={"split": "patch", "patch": 8, "tau": 3}))
    assert (plan.args, plan.c2) == ([32, "patch", 8, 3], [32, 32])
    assert BandSplit.parse(RowContext("BandSplit", 32, [])).args == [32, "overlap", 4, 2]
    with pytest.raises(ConfigError, match=r"dsmoe\.tau: expected a whole number from 1 to 2 for patches of 2, got 5"):
        BandSplit.parse(RowContext("BandSplit", 32, [], options={"patch": 2, "tau": 5}))


def test_gradients() -> None:
    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = BandSplit(C, "learned")

        def forward(self, x: Any) -> Any:
            low, high = self.block(x)
            return low + 2 * high

    assert_gradients_reach_all(Sum(), [torch.randn(2, C, 8, 8)])
