"""A network that a host fuses in place comes back for trainings, loading and saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from net_checks import same_state
from torch import nn
from ultralytics import YOLO
from ultralytics.engine.validator import BaseValidator
from ultralytics.models.yolo.detect import DetectionTrainer

from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.plugin import fusing

FILES = ["dsmoe-n.yaml", "yolo11n.yaml"]


class Stop(Exception):
    """Ends a training before it begins."""


class Looks(DetectionTrainer):
    """Keeps the weights that a training would start from."""

    seen: dict[str, torch.Tensor]

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> None:
        Looks.seen = {k: v.clone() for k, v in weights.state_dict().items()}
        raise Stop


@pytest.fixture(params=FILES)
def yolo(request: pytest.FixtureRequest, tmp_path: Path) -> YOLO:
    """A model from a checkpoint, as trainings of older hosts take it over."""
    net = YOLO(request.param).model
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5)
    torch.save({"model": net.half(), "train_args": {"task": "detect", "imgsz": 64}}, tmp_path / "net.pt")
    return YOLO(tmp_path / "net.pt")


@pytest.fixture
def fused(yolo: YOLO, monkeypatch: pytest.MonkeyPatch) -> tuple[YOLO, dict[str, torch.Tensor]]:
    """The model as a host leaves it that fuses in place, and its weights before."""
    before = {k: v.clone() for k, v in yolo.model.state_dict().items()}
    monkeypatch.delattr(BaseValidator, "get_model", raising=False)
    fusing.remember(yolo, ours="dsmoe" in str(yolo.model.yaml["yaml_file"]))
    yolo.model.fuse(verbose=False)
    assert yolo.model.state_dict().keys() != before.keys()
    return yolo, before


def test_a_training_starts_from_all_weights(
    fused: tuple[YOLO, dict[str, torch.Tensor]], tiny_boards: Path, tmp_path: Path
) -> None:
    yolo, before = fused
    yolo.predictor = object()
    with pytest.raises(Stop):
        yolo.train(trainer=Looks, data=tiny_boards, imgsz=64, device="cpu", project=str(tmp_path), dsmoe_text=None)
    assert same_state(Looks.seen, before)
    assert yolo.predictor is None, "it holds the fused network"


def test_a_saved_file_has_all_weights_and_the_model_stays_as_it_is(
    fused: tuple[YOLO, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    yolo, before = fused
    net = yolo.model
    yolo.save(tmp_path / "saved.pt")
    assert same_state(YOLO(tmp_path / "saved.pt").model.state_dict(), before)
    assert yolo.model is net


def test_loaded_weights_all_arrive(fused: tuple[YOLO, dict[str, torch.Tensor]]) -> None:
    yolo, before = fused
    twin = YOLO(yolo.ckpt_path)
    with torch.no_grad():
        for p in twin.model.parameters():
            p.add_(1)
    yolo.load(twin.model)
    assert same_state(yolo.model.state_dict(), twin.model.state_dict())
    assert not same_state(yolo.model.state_dict(), before)


def test_what_was_set_since_stays(fused: tuple[YOLO, dict[str, torch.Tensor]]) -> None:
    yolo, _ = fused
    yolo.model.names = {i: f"kind {i}" for i in range(80)}
    if ours := isinstance(getattr(yolo.model, "text_info", 0), (dict, type(None))):
        yolo.model.set_topk(2)
        yolo.model.set_prompts({"kind 3": "a round hollow"})
        text = yolo.model.text_info
    fusing.restore(yolo)
    assert yolo.model.names[3] == "kind 3"
    if ours:
        assert yolo.model.blocks(SparseMoE)[0].k == 2
        assert yolo.model.text_info == text


def test_a_network_of_the_users_own_is_left_alone(fused: tuple[YOLO, dict[str, torch.Tensor]]) -> None:
    yolo, _ = fused
    yolo.model = other = YOLO("yolo11n.yaml").model
    fusing.restore(yolo)
    assert yolo.model is other


def test_fusing_by_hand_stays(yolo: YOLO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(BaseValidator, "get_model", raising=False)
    yolo.model.fuse(verbose=False)
    net = yolo.model
    fusing.remember(yolo, ours=False)
    fusing.restore(yolo)
    assert yolo.model is net


@pytest.mark.parametrize("verb", ["predict", "val"])
def test_this_host(verb: str, yolo: YOLO, tiny_boards: Path, tmp_path: Path) -> None:
    """Whatever it does with the network: a training after its verbs starts from all weights."""
    before = {k: v.clone() for k, v in yolo.model.state_dict().items()}
    arguments = {"imgsz": 64, "device": "cpu", "project": str(tmp_path), "verbose": False}
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: yolo.predict(np.zeros((64, 64, 3), np.uint8), **arguments),
        "val": lambda: yolo.val(data=str(tiny_boards), plots=False, workers=0, batch=4, **arguments),
    }
    if verb == "val":
        yolo.model.names = {i: f"kind {i}" for i in range(80)}
    calls[verb]()
    calls["predict"]()  # a second call finds it fused
    fusing.restore(yolo)
    assert same_state(yolo.model.state_dict(), before)
