"""The blocks as rows of one net that Ultralytics builds: with texts, without, exported, each parameter at its pace."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from block_checks import LEGACY, assert_trt86_ops
from torch import Tensor, nn
from ultralytics.nn.tasks import ClassificationModel

from ultra_dsmoe.edge.lint import lint, load
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.losses import contrastive
from ultra_dsmoe.nn import CMAF, PairClassify, TextAdapter
from ultra_dsmoe.train.optimizer import regroup

NC, WIDTH, NUMBERS, SIZE = 4, 24, 6, 32
FORMS: list[dict[str, Any]] = [
    {},
    {"fusion_attention": "channel"},
    {"fusion": "cmaf_nosig"},
    {"fusion": "concat"},
    {"fusion": "mean"},
    {"text_mode": "train"},
]
WITH_TEXT = FORMS[:-1]


def cfg(channels: int = 4, **options: Any) -> dict[str, Any]:
    """A small net with all rows."""
    return {
        "nc": NC,
        "channels": channels,
        "scales": {"n": [1.0, 1.0, 1024]},
        "scale": "n",
        "dsmoe": {"text_width": WIDTH, "text_numbers": NUMBERS, **options},
        "backbone": [
            [-1, 1, "SplitText", ["imagenet"]],
            [-1, 1, "Pick", [0]],
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "Conv", [32, 3, 2]],
        ],
        "head": [
            [-1, 1, "ImageProjection", [64]],
            [0, 1, "TextAdapter", [1, 64, 16]],
            [0, 1, "TextAdapter", [2, 64, 16]],
            [[3, 4, 5, 6], 1, "CMAF", []],
            [[-1, 4, 5, 6], 1, "PairClassify", ["nc", 32]],
        ],
    }


def make(channels: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    return ClassificationModel(cfg(channels, **options), verbose=False)


def batch(b: int = 4, channels: int = 4) -> Tensor:
    x = torch.rand(b, channels, SIZE, SIZE)
    if channels == 4:
        texts = nn.functional.normalize(torch.randn(b, 2, WIDTH), dim=2).flatten(1)
        plane = torch.cat([texts, torch.randn(b, NUMBERS)], 1)
        x[:, 3] = nn.functional.pad(plane, (0, SIZE * SIZE - plane.shape[1])).view(b, SIZE, SIZE)
    return x


@pytest.mark.parametrize("options", FORMS)
def test_the_net_is_built_and_gives_what_its_mode_asks(options: dict[str, Any]) -> None:
    net, x = make(**options), batch()
    assert isinstance(net.model[-1], PairClassify)
    assert net.model[-1].mlp[0].in_features == (192 if options.get("fusion") == "concat" else 64)
    out = net.train()(x)
    assert [z.shape for z in (out.logits, out.image, out.vlm, out.llm)] == [(4, NC), *[(4, 64)] * 3]
    probabilities, logits = net.eval()(x)
    torch.testing.assert_close(probabilities, logits.softmax(1))


def test_without_texts_none_passes_through_the_rows() -> None:
    net = make(3, text_mode="train").train()
    out = net(batch(channels=3))
    assert [out.vlm, out.llm, out.warm[1:]] == [None, None, [None, None]]
    assert out.logits.shape == (4, NC)


def test_what_is_shipped_is_what_was_taught() -> None:
    """The picture alone gives the same classes, whatever the texts beside it said."""
    net, x = make(text_mode="train").eval(), batch()
    assert torch.equal(net(x)[0], net(x[:, :3])[0])
    with_texts = make().eval()
    nn.init.normal_(with_texts.model[7].gate.weight)
    other = torch.cat([x[:, :3], batch()[:, 3:]], 1)
    assert not torch.allclose(with_texts(x)[0], with_texts(other)[0])


@pytest.mark.parametrize("options", WITH_TEXT)
def test_one_step_of_all_losses_reaches_every_parameter(options: dict[str, Any]) -> None:
    net = make(**options).train()
    if "gate" in dict(net.model[7].named_children()):
        nn.init.normal_(net.model[7].gate.weight, std=0.1)  # at zero it lets no gradient through to what it reads
    out = net(batch())
    head, groups = net.model[-1], torch.arange(4)
    loss = sum(w.square().mean() for w in (out.logits, *out.warm))
    for text in (out.vlm, out.llm):
        loss = loss + contrastive(out.image, text, head.tau, groups)
    loss.backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


def test_copies() -> None:
    net, x = make(), batch()
    net.train()(x)
    fresh = ClassificationModel(cfg(), verbose=False)
    fresh.load_state_dict(net.state_dict())
    wanted = net.eval()(x)[0]
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fresh):
        assert torch.equal(twin.eval()(x)[0], wanted)


def test_half_precision() -> None:
    net, x = make().eval(), batch()
    with torch.no_grad():
        got = copy.deepcopy(net).half()(x.half())[0]
        torch.testing.assert_close(got.float(), net(x)[0], atol=1e-2, rtol=1e-2)


def exported(net: Any, x: Tensor, path: Path, **arguments: Any) -> onnxruntime.InferenceSession:
    net.eval().model[-1].export = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), path, opset_version=17, input_names=["images"], **arguments, **LEGACY)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("options", FORMS)
def test_export(options: dict[str, Any], tmp_path: Path) -> None:
    """Three channels where texts only teach, else four; parity, operators and the linter's rules."""
    channels = 3 if options.get("text_mode") == "train" else 4
    net, path = make(channels, **options), tmp_path / "net.onnx"
    if hasattr(net.model[7], "gate"):
        nn.init.normal_(net.model[7].gate.weight)
    session = exported(net, batch(1, channels), path)
    assert session.get_inputs()[0].shape == [1, channels, SIZE, SIZE]
    for _ in range(2):
        x = batch(1, channels)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], net(x), atol=1e-4, rtol=0)
    assert_trt86_ops(load(path))
    assert not [str(f) for f in lint(path)]


def test_an_exported_net_takes_other_batches_and_sizes(tmp_path: Path) -> None:
    net, path = make().eval(), tmp_path / "net.onnx"
    nn.init.normal_(net.model[7].gate.weight)
    session = exported(net, batch(2), path, dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}})
    for x in (batch(1), batch(3), torch.cat([batch(2), batch(2)], 3)):
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], net(x), atol=1e-4, rtol=0)
    assert not [str(f) for f in lint(path, dynamic=True) if f.is_fault]


@pytest.mark.parametrize("options", FORMS)
def test_mixed_precision_keeps_losses_and_gradients_finite(options: dict[str, Any]) -> None:
    net = make(**options).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(batch())
        loss = contrastive(out.image, out.llm, net.model[-1].tau, torch.arange(4))
        loss = loss + contrastive(out.image, out.vlm, net.model[-1].tau, torch.arange(4))
        loss = loss + sum(w.float().square().mean() for w in (out.logits, *out.warm))
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_every_matrix_moves_at_the_pace_of_its_neighbours(kind: str) -> None:
    """The zero-started gate against the layers around it, and tau, a scalar, faster than they."""
    net = make().train()
    built = regroup(getattr(torch.optim, kind)(net.parameters(), lr=1e-3), net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    labels, groups = torch.arange(4), torch.arange(4)
    for _ in range(3):
        out = net(batch())
        loss = sum(nn.functional.cross_entropy(w, labels) for w in (out.logits, *out.warm))
        for text in (out.vlm, out.llm):
            loss = loss + contrastive(out.image, text, net.model[-1].tau, groups)
        built.zero_grad()
        loss.backward()
        built.step()
    moved = {n: ((p - before[n]).norm() / math.sqrt(p.numel())).item() for n, p in net.named_parameters()}
    median = sorted(moved.values())[len(moved) // 2]
    assert moved["model.7.gate.weight"] > median / 20
    if kind == "AdamW":
        assert moved["model.8.log_tau"] > 5 * moved["model.8.linear.weight"]
    assert sum(len(g["params"]) for g in built.param_groups) == len(list(net.parameters()))


@pytest.mark.parametrize(
    ("row", "wrong", "message"),
    [
        (0, ["imagnet"], "model YAML row 0 (SplitText) norm: expected one of None, imagenet (did you mean"),
        (0, [None, 1], "model YAML row 0 (SplitText): expected at most 1 argument, got [None, 1]"),
        (4, [64, 1], "model YAML row 4 (ImageProjection): expected at most 1 argument, got [64, 1]"),
        (5, [0, 64], "model YAML row 5 (TextAdapter) index: expected one of 1, 2, got 0"),
        (5, [3, 64], "model YAML row 5 (TextAdapter) index: expected one of 1, 2, got 3"),
        (5, [1, 32], "model YAML row 7 (CMAF): expected texts as wide as the image's vector, 64, got [32, 64]"),
        (7, [3], "model YAML row 7 (CMAF) heads: expected a divisor of 64, the width of the vectors, got 3"),
        (7, [4, 4], "model YAML row 7 (CMAF): expected at most 1 argument, got [4, 4]"),
        (8, ["nc", 32, 2], "model YAML row 8 (PairClassify) dropout: expected a number from 0 to 1, got 2"),
        (8, ["nc", 0], "model YAML row 8 (PairClassify) hidden: expected a positive integer, got 0"),
        (8, ["nc", 32, 0, 0], "model YAML row 8 (PairClassify): expected at most 3 arguments, got"),
    ],
)
def test_rows_that_are_wrong(row: int, wrong: list[Any], message: str) -> None:
    d = cfg()
    rows = [*d["backbone"], *d["head"]]
    rows[row][3] = wrong
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as e:
        ClassificationModel(d, verbose=False)
    assert "\n" not in str(e.value)


def test_other_inputs_of_rows() -> None:
    d = cfg()
    d["head"][1][0] = 2  # a map where a SplitText row belongs
    with pytest.raises(ConfigError, match=r"^model YAML row 5 \(TextAdapter\): expected 'from' with one SplitText row"):
        ClassificationModel(d, verbose=False)
    with pytest.raises(ConfigError, match=r"^model YAML row 0 \(SplitText\): expected an image of 3 or 4 channels"):
        ClassificationModel(cfg(1), verbose=False)
    d = cfg()
    d["head"][3][1] = 2
    with pytest.raises(ConfigError, match=r"^model YAML row 7 \(CMAF\): expected 1 repeat, got 2"):
        ClassificationModel(d, verbose=False)


def test_the_widths_of_texts_reach_the_adapters() -> None:
    adapters = [m for m in make().modules() if isinstance(m, TextAdapter)]
    assert [m.down.in_features for m in adapters] == [WIDTH, WIDTH + NUMBERS]
    assert [m.index for m in adapters] == [1, 2]
    assert [int((m.scale == 1).sum()) for m in adapters] == [0, NUMBERS]
    assert [m.fusion for m in make(text_mode="train").modules() if isinstance(m, CMAF)] == ["none"]
