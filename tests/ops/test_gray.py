"""The gray transform by itself and as the first step of a net."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.ops.gray import check_gamma, gray_transform


def test_value_by_hand() -> None:
    levels = torch.tensor([0, 64, 128, 255]) / 255
    expected = torch.tensor([0, 32.06, 90.69, 255]) / 255  # 255 (64/255)^1.5 = 32.06
    torch.testing.assert_close(gray_transform(levels, 1.5), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(gray_transform(levels, 2.0), levels * levels)
    assert gray_transform(levels, 1.0) is levels


def test_half_precision_and_gradient() -> None:
    levels = torch.linspace(0, 1, 256)
    torch.testing.assert_close(gray_transform(levels.half(), 1.5).float(), levels**1.5, atol=1e-3, rtol=0)
    leaf = levels.clone().requires_grad_()
    gray_transform(leaf, 1.5).sum().backward()
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), True, None, "1.5", [1.5]])
def test_a_wrong_exponent(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^key: expected a number above 0, the exponent of the gray") as caught:
        check_gamma("key", value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def net() -> DSMoEModel:
    return DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False).eval()


@torch.no_grad()
def test_a_net_begins_with_it(net: DSMoEModel) -> None:
    images, gray = torch.rand(2, 3, 64, 96), deepcopy(net)
    gray.set_gamma(1.5)
    assert torch.equal(gray(images)[0], net(images**1.5)[0])
    assert not torch.equal(gray(images)[0], net(images)[0])
    gray.set_gamma(1)
    assert torch.equal(gray(images)[0], net(images)[0])
    assert net.gamma == 1


@torch.no_grad()
def test_training_and_augmented_evaluation_have_it_too(net: DSMoEModel) -> None:
    seen: list[torch.Tensor] = []
    gray, images = deepcopy(net), torch.full((2, 3, 64, 64), 0.25)
    gray.set_gamma(2)
    gray.model[0].register_forward_pre_hook(lambda _m, x: seen.append(x[0]))
    gray.train()(images)
    gray.eval()(images, augment=True)
    assert len(seen) >= 2
    assert all(x[0, 0, 0, 0] == 0.0625 for x in seen)


def test_the_model_yaml_may_say_it(net: DSMoEModel) -> None:
    content = deepcopy(net.yaml)
    content["dsmoe"] = {**content["dsmoe"], "gamma": 1.5}
    assert DSMoEModel(content, nc=6, verbose=False).gamma == 1.5
    content["dsmoe"]["gamma"] = "dark"
    with pytest.raises(ConfigError, match=r"dsmoe\.gamma: expected a number above 0"):
        DSMoEModel(content, nc=6, verbose=False)


def test_a_net_of_the_same_yaml_keeps_its_own(net: DSMoEModel) -> None:
    other = DSMoEModel(net.yaml, nc=6, verbose=False)  # as the trainer builds one from a checkpoint's
    other.set_gamma(1.5)
    with pytest.raises(ConfigError, match="gamma: expected a number above 0"):
        other.set_gamma(0)
    assert (other.gamma, net.gamma) == (1.5, 1)
