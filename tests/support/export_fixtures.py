"""Small fresh nets that fire, exported once each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics import YOLO

from ultra_dsmoe.nn.base import AuxLossMixin
from ultra_dsmoe.nn.head.text_logits import TextLogits

NAMES = {0: "spur", 1: "short", 2: "mouse bite", 3: "open circuit", 4: "missing hole"}
SIZE = 96
SCORES = (-3.0, 2.0)  # mean and spread of the class logits: most anchors below 0.25, some far above
SIDES = (2.0, 0.7)  # of the box branches' outputs


def blocks(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an image (H, W, 3) of random squares: structure that a net can tell apart."""
    small = generator.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return small.repeat(6, 0).repeat(6, 1)[:height, :width]


def fire(net: Any) -> None:
    """Let a fresh net find different objects in anything: normal activations, outputs that vary from place to place."""
    generator = np.random.default_rng(1)
    images = torch.from_numpy(np.stack([blocks(generator, SIZE, SIZE) for _ in range(4)])).permute(0, 3, 1, 2) / 255
    if (channels := net.yaml.get("channels", 3)) != 3:  # of pairs, say: the further ones are those of the image before
        images = torch.cat([images, images.roll(1, 0)], 1)[:, :channels]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    paces = [m.momentum for m in norms]
    for m in norms:
        m.momentum = 0.5
    with torch.no_grad():
        for _ in range(8):
            net.float().train()(images)
        for m, pace in zip(norms, paces, strict=True):
            m.momentum = pace
        for m in net.modules():
            if isinstance(m, AuxLossMixin):
                m.pop_aux()
        net.eval()
        for name, (mean, spread) in {"cv2": SIDES, "cv3": SCORES, "one2one_cv2": SIDES, "one2one_cv3": SCORES}.items():
            for branch in getattr(net.model[-1], name, None) or ():
                spread_out(net, images, branch[-1], mean, spread)


def spread_out(net: nn.Module, images: torch.Tensor, conv: Any, mean: float, spread: float) -> None:
    """Scale an output convolution so that its channels have this mean and spread over the images.

    Where text speaks in it, all of them are scaled alike, text included: its rows and its gain count for every class.
    """
    seen: list[torch.Tensor] = []
    handle = conv.register_forward_hook(lambda _m, _x, y: seen.append(y))
    net(images)
    handle.remove()
    gain = spread / seen[0].std((0, 2, 3))
    if isinstance(conv, TextLogits):
        gain = (spread / seen[0].std()).expand_as(gain)
        conv.gain.mul_(gain[0])
    conv.weight.mul_(gain[:, None, None, None])
    conv.bias.copy_(mean - gain * (seen[0].mean((0, 2, 3)) - conv.bias))


@pytest.fixture(scope="session")
def firing() -> Callable[[Any], None]:
    """Return `fire`."""
    return fire


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that exports a net by the name of its YAML, once per set of arguments, to ONNX."""
    folder = tmp_path_factory.mktemp("firing")

    def export(yaml: str, **arguments: Any) -> Path:
        stem = "-".join([Path(yaml).stem, *(f"{k}{v}" for k, v in sorted(arguments.items()))])
        path = folder / f"{stem}.onnx"
        if not path.exists():
            torch.manual_seed(0)
            kind: Any = type(YOLO(yaml).model)
            net = kind(yaml, nc=len(NAMES), verbose=False)
            net.names = NAMES
            fire(net)
            torch.save({"model": net, "train_args": {"task": "detect", "imgsz": SIZE}}, path.with_suffix(".pt"))
            model = YOLO(path.with_suffix(".pt"))
            done = Path(
                model.export(format="onnx", **{"imgsz": SIZE, "simplify": False, "verbose": False, **arguments})
            )
            assert done == path
        return path

    return export


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    """Return BGR images of several shapes, with structure: landscape, portrait, square, thin, tiny, exact."""
    generator = np.random.default_rng(0)
    shapes = {
        "landscape": (120, 200),
        "portrait": (211, 133),
        "square": (150, 150),
        "thin": (16, 400),
        "tiny": (7, 5),
        "exact": (SIZE, SIZE),
    }
    return {name: blocks(generator, *shape) for name, shape in shapes.items()}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that makes a stand-in importable as `tensorrt`."""
    from fake_tensorrt import FakeDriver, FakeTensorRT  # late: it needs onnx, most of this folder does not

    from ultra_dsmoe.runtime import tensorrt_session

    def put(version: str, **settings: Any) -> FakeTensorRT:
        trt = FakeTensorRT(version, **settings)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setattr(tensorrt_session.ctypes, "CDLL", FakeDriver)
        return trt

    return put


@pytest.fixture
def source(exported: Callable[..., Path]) -> Path:
    """Return the ONNX file of a stock net, as TensorRT 8.6 reads it."""
    return exported("yolov8n.yaml", opset=17)
