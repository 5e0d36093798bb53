"""Two processes on CPUs train one net: equal gradients, one calibration, one router record."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("ddp_worker.py")


@pytest.fixture(scope="module")
def worker() -> Any:
    spec = importlib.util.spec_from_file_location("ddp_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(run_ranks: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return run_ranks(WORKER)


def test_gradients_are_equal_on_both(ranks: list[dict[str, Any]]) -> None:
    first, second = (r["grads"] for r in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_gradients_are_the_mean_of_both_batches(ranks: list[dict[str, Any]], worker: Any) -> None:
    alone: list[dict[str, torch.Tensor]] = []
    for rank in range(2):
        net = worker.make_net()
        net(worker.make_batch(rank))[0].sum().backward()
        alone.append({k: p.grad for k, p in net.named_parameters() if p.grad is not None})
    compared = 0
    for k, grad in ranks[0]["grads"].items():
        if all(k in grads for grads in alone):
            torch.testing.assert_close(grad, (alone[0][k] + alone[1][k]) / 2, rtol=1e-3, atol=1e-4)
            compared += 1
    assert compared > 200
    name = "model.0.conv.weight"
    assert not torch.allclose(alone[0][name], alone[1][name], rtol=1e-2), "equal batches would prove nothing"


def test_the_router_record_is_that_of_all_images(ranks: list[dict[str, Any]]) -> None:
    total = ranks[0]["usage"] + ranks[1]["usage"]
    assert total.sum() == 2 * 3 * 5, "two processes, three images, five experts"
    assert ranks[0]["columns"] == ranks[1]["columns"]
    assert ranks[0]["columns"]["router/usage_max"] == pytest.approx(float(total.max()) / 6, abs=1e-4)
    assert ranks[0]["columns"]["router/dead"] == int((total == 0).sum()) > 0


def test_revived_experts_are_equal_on_both(ranks: list[dict[str, Any]], worker: Any) -> None:
    assert torch.equal(ranks[0]["tokens"], ranks[1]["tokens"])
    assert all(torch.equal(a, b) for a, b in zip(ranks[0]["experts"], ranks[1]["experts"], strict=True))
    assert not torch.equal(ranks[0]["tokens"], worker.make_net().model[17].token), "nothing was revived"
