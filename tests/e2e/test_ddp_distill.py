"""Two processes on CPUs distil into one student: equal gradients, adapters included, and equal adaptive weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

WORKER = Path(__file__).with_name("ddp_distill_worker.py")
SECONDS = 300


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ddp-distill")
    commands = [[sys.executable, str(WORKER), str(rank), str(folder)] for rank in range(2)]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    try:
        texts = [process.communicate(timeout=SECONDS)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [p.returncode for p in running] == [0, 0], "\n".join(texts)[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


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
