"""ChannelSync: both forms by hand, one descriptor for all levels, the start, errors."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_checks import assert_gradients_reach_all, assert_round_trips, export_onnx, run_onnx, shake

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import ChannelSync, RowContext

CH, LATERAL = [4, 8, 12], [6, 8, 10]


class Joined(torch.nn.Module):
    """One tensor in place of a list."""

    def __init__(self, residual: Any) -> None:
        super().__init__()
        self.block = ChannelSync(CH, LATERAL, residual)

    def forward(self, x: Any) -> Any:
        return torch.cat([z.flatten(1) for z in self.block(x)], 1)


def inputs(b: Any = 2, h: Any = 2, w: Any = 3) -> Any:
    return [torch.randn(b, c, h * 2 ** (2 - i), w * 2 ** (2 - i)) for ch in (CH, LATERAL) for i, c in enumerate(ch)]


@pytest.mark.parametrize("residual", [False, True])
def test_value(residual: Any) -> None:
    block, x = shake(ChannelSync(CH, LATERAL, residual)).eval(), inputs()
    with torch.no_grad():
        got = block(x)
        d = [F.linear(y.mean((2, 3)), v.weight[..., 0, 0], v.bias) for y, v in zip(x[:3], block.squeeze, strict=True)]
        s = F.relu(sum(d) / 3)
        for z, w, lateral, y, p in zip(got, block.excite, block.lateral, x[:3], x[3:], strict=True):
            g = F.linear(s, w.weight[..., 0, 0], w.bias).sigmoid()[..., None, None]
            wanted = 2 * g * y + 2 * (1 - g) * lateral(p) if residual else g * y + (1 - g) * lateral(p)
            assert z.shape == y.shape
            torch.testing.assert_close(z, wanted, atol=1e-5, rtol=1e-5)


def test_lateral_has_an_activation_only_in_the_first_form() -> None:
    assert isinstance(ChannelSync(CH).lateral[0].act, torch.nn.SiLU)
    assert isinstance(ChannelSync(CH, residual=True).lateral[0].act, torch.nn.Identity)


@pytest.mark.parametrize("train", [True, False])
def test_starts_as_the_fused_levels(train: Any) -> None:
    x = inputs()
    assert all(map(torch.equal, ChannelSync(CH, LATERAL, True).train(train)(x), x[:3]))


def test_first_form_starts_near_the_mean_of_both() -> None:
    block, x = ChannelSync(CH, LATERAL).eval(), inputs()
    for z, y, p, lateral in zip(block(x), x[:3], x[3:], block.lateral, strict=True):
        torch.testing.assert_close(z, (y + lateral(p)) / 2, atol=2e-2, rtol=0)


def test_a_change_of_one_level_weighs_the_others() -> None:
    block, x = shake(ChannelSync(CH, LATERAL), 1.0).eval(), inputs()
    before = block(x)
    x[0] = x[0] + 5
    after = block(x)
    assert (after[2] - before[2]).abs().max() > 1e-3


@pytest.mark.parametrize("residual", [False, True])
def test_gradients_round_trips_and_export(residual: Any) -> None:
    assert_gradients_reach_all(shake(Joined(residual)), [inputs()])
    assert_round_trips(shake(Joined(residual)), Joined(residual), [inputs()])
    net, x = shake(Joined(residual)).eval(), inputs(1)
    got = run_onnx(export_onnx(net, [x]), [x])[0]
    torch.testing.assert_close(torch.from_numpy(got), net(x), atol=1e-4, rtol=0)


def test_everything_learns_from_the_second_step_on() -> None:
    net, x = Joined(True), inputs()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    named = dict(net.block.named_parameters())
    assert set(net.block.fast_parameters) <= set(named)
    assert len(net.block.fast_parameters) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "ChannelSync ch: expected at least one entry"),
        ((CH, [4, 8]), "ChannelSync ch, c_lateral: expected two lists of one length"),
        (([4, 0, 1],), r"ChannelSync ch\[1\]: expected a positive integer"),
        ((CH, LATERAL, 1), "ChannelSync residual: expected true or false"),
    ],
)
def test_errors(arguments: Any, message: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        ChannelSync(*arguments)


def test_parse_rule() -> None:
    plan = ChannelSync.parse(RowContext("ChannelSync", [4, 8, 6, 8], [True]))
    assert (plan.args, plan.c2) == ([[4, 8], [6, 8], True], [4, 8])
    with pytest.raises(ConfigError, match="as many fused levels as others"):
        ChannelSync.parse(RowContext("ChannelSync", [4, 8, 6], []))


@pytest.mark.parametrize("residual", [False, True])
def test_half_precision_is_finite_on_large_maps_and_near_on_usual_ones(residual: bool) -> None:
    net, x = shake(Joined(residual)).eval(), inputs(1)
    half = copy.deepcopy(net).half()
    with torch.no_grad():
        torch.testing.assert_close(half([t.half() for t in x]).float(), net(x), atol=2e-2, rtol=2e-2)
        assert torch.isfinite(half([1000 * t.half() for t in x])).all()
