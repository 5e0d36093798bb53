"""What several test files ask of nets, heads, states and run folders."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.text import encode_bank

NAMES = {0: "scratch", 1: "dent", 2: "stain"}


def fake_batch(images: int, size: int, nc: int) -> dict[str, Tensor]:
    """Return images of noise with one box each, at the same place, of one class after the other."""
    return {
        "img": torch.rand(images, 3, size, size),
        "cls": torch.arange(images).float().view(-1, 1) % nc,
        "bboxes": torch.tensor([[0.4, 0.5, 0.3, 0.4]]).repeat(images, 1),
        "batch_idx": torch.arange(images).float(),
    }


def ready(head: Any, strides: tuple[float, ...]) -> Any:
    """Give a head its strides and biases as the host's model does."""
    head.stride = torch.tensor(strides)
    head.bias_init()
    return head


def same_state(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in state.items())


def hook_count(net: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules())


def results_of(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's ``results.csv``."""
    with open(run / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save_net(net: object, path: Path, task: str = "detect") -> Path:
    """Write a checkpoint with nothing but a net and its task."""
    torch.save({"model": net, "train_args": {"task": task}}, path)
    return path


class Touch:
    """Unpickles by creating a file, as a hostile checkpoint could do worse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def run(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(images)[0]


def hub(net: DSMoEModel, images: Tensor) -> Tensor:
    """Return the output of the ten stages, which a fresh net's predictions do not show yet."""
    seen: list[Tensor] = []
    with torch.no_grad():
        handle = net.eval().model[21].register_forward_hook(lambda _m, _x, y: seen.append(y))
        net(images)
        handle.remove()
    return seen[0]


def described(net: DSMoEModel) -> DSMoEModel:
    net.names = NAMES
    net.set_text(encode_bank(NAMES, {"dent": ["a round hollow"]}, encoder="hash"))
    return net


def assert_mixed_precision(wrapper: Any, batch: dict[str, Tensor], terms: Iterable[str]) -> None:
    """A distillation under autocast gives its terms as in full precision, a loss in fp32 and finite gradients."""
    full = wrapper(batch)[1]
    with torch.autocast("cpu", torch.bfloat16):
        loss, items = wrapper(batch)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    for name in terms:
        assert items[name].item() == pytest.approx(full[name].item(), rel=0.1), name
    assert all(torch.isfinite(p.grad).all() for p in wrapper.parameters() if p.grad is not None)
