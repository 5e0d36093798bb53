"""Two processes on CPUs distil into one student: equal gradients, adapters included, and equal adaptive weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

WORKER = Path(__file__).with_name("ddp_distill_worker.py")


@pytest.fixture(scope="module")
def ranks(run_ranks: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return run_ranks(WORKER)


def test_gradients_are_equal_on_both(ranks: list[dict[str, Any]]) -> None:
    first, second = (r["grads"] for r in ranks)
    assert first.keys() == second.keys()
    assert any(k.startswith("projector.") for k in first)
    assert not any("teacher" in k for k in first)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_adaptive_weights_are_those_of_all_images(ranks: list[dict[str, Any]]) -> None:
    first, second = (r["adaptive"] for r in ranks)
    assert first == second
    assert first["weights"] != [1.0] * 5
    assert ranks[0]["items"][0] != ranks[1]["items"][0], "equal batches would prove nothing"
    for n, name in enumerate(("fg", "att", "glob")):
        mean = sum(r["items"][0][f"{name}_loss"] for r in ranks) / 2
        assert first["first"][n] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("preset", ["self", "self-plain"])
def test_outputs_are_taught_on_both_alike(preset: str, run_ranks: Callable[..., list[dict[str, Any]]]) -> None:
    """Each process teaches its own batch; no state of the method's has to be agreed upon."""
    ranks = run_ranks(WORKER, preset)
    first, second = (r["grads"] for r in ranks)
    assert first.keys() == second.keys()
    assert not any(k.startswith("projector.") or "teacher" in k for k in first)
    assert all(torch.equal(first[k], second[k]) for k in first)
    items = [r["items"][0]["kd_cls_loss"] for r in ranks]
    assert min(items) > 0
    assert items[0] != items[1], "equal batches would prove nothing"
