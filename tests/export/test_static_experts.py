"""Which experts stay: those with most of the gate's weight, and what share of the routing that covers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from ultralytics.utils import LOGGER

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export.images import load_images, split_images
from ultra_dsmoe.export.static_experts import choose, default_keep, route, static_experts
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

# Four images, k = 2 of 6 experts.
WEIGHTS = torch.tensor(
    [
        [0.9, 0.1, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.3, 0.7, 0.0, 0.0, 0.0],
        [0.6, 0.0, 0.4, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.55, 0.45, 0.0],
    ]
)


def test_value_by_hand() -> None:
    # Sums over the images: 1.5, 0.4, 1.1, 0.55, 0.45, 0.
    two = choose(WEIGHTS, 2, 2)
    assert (two.kept, two.image_share) == ((0, 2), 0.25)
    assert two.mass_share == pytest.approx(2.6 / 4)
    four = choose(WEIGHTS, 2, 4)
    assert (four.kept, four.image_share) == ((0, 2, 3, 4), 0.5)
    assert four.mass_share == pytest.approx(3.6 / 4)
    assert (four.experts, four.k, four.images) == (6, 2, 4)
    assert str(four) == (
        "static experts: 4 of 6 kept (0, 2, 3, 4); coverage on 4 images: 50.0% have all their 2 experts kept, "
        "90.0% of the gate's weight is kept"
    )


def test_unused_experts_are_never_kept() -> None:
    everyone = choose(WEIGHTS, 2, 6)
    assert (everyone.kept, everyone.image_share, everyone.mass_share) == ((0, 1, 2, 3, 4), 1.0, 1.0)


def test_how_many_are_kept_by_default() -> None:
    assert [default_keep(k, 32) for k in (1, 2, 4, 5, 8, 16, 32)] == [2, 3, 6, 8, 12, 24, 32]
    assert len(choose(WEIGHTS, 2).kept) == 3


def test_equal_experts_are_kept_in_their_order() -> None:
    assert choose(torch.full((3, 5), 0.2), 2, 3).kept == (0, 1, 2)


def test_errors() -> None:
    for keep in (0, 1, 7):
        with pytest.raises(ConfigError, match=rf"dsmoe_keep: expected an integer from 2 .* to 6 \(all\), got {keep}"):
            choose(WEIGHTS, 2, keep)
    plain = DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False)
    with pytest.raises(ConfigError, match="dsmoe_keep: expected an integer from 5"):
        static_experts(plain, ["gone.png"], (64, 64), keep=3)  # said before an image is read
    for name in ("SparseMoE", "ExpertGate"):
        plain.model = torch.nn.Sequential(*[m for m in plain.model if type(m).__name__ != name])
    with pytest.raises(ConfigError, match="dsmoe_moe: expected a model with an ExpertGate for static"):
        static_experts(plain, ["gone.png"], (64, 64))


def test_routing_of_a_net(tiny_boards: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False).eval()
    gate = net.blocks(ExpertGate)[0]
    with torch.no_grad():
        gate.token.mul_(5)
        gate.log_tau.sub_(1)
    files = split_images(tiny_boards, "train")
    assert len(files) == 8
    net.set_moe_mode("static", [[0, 1, 2, 3, 4]])
    (weights,) = route(net, files, (64, 96))
    assert net.blocks(SparseMoE)[0].kept == gate.kept == (0, 1, 2, 3, 4), "the net itself is left as it was"
    net.set_moe_mode("gather")
    seen: list[torch.Tensor] = []
    handle = gate.register_forward_hook(lambda m, x, y: seen.append(y))
    with torch.no_grad():
        net(load_images(files, (64, 96)))
    handle.remove()
    torch.testing.assert_close(weights, seen[0])
    assert ((weights > 0).sum(1) == 5).all()
    LOGGER.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            (coverage,) = static_experts(net, files, (64, 96), keep=5)
    finally:
        LOGGER.removeHandler(caplog.handler)
    assert coverage == choose(weights, 5, 5)
    assert str(coverage) in caplog.text
