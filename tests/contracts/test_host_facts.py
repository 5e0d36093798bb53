"""What the plugin takes for granted about the host, checked on whichever one is installed."""

from __future__ import annotations

import inspect
import os
import re
import sys
from copy import deepcopy
from typing import Any

import pytest
import torch
import ultralytics
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv, Detect, Index
from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT, DEFAULT_CFG_KEYS

ROWS = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Index", [24]], [-1, 1, "Conv", [32, 1]]]


def parse(rows: list[Any], head: list[Any] | None = None, **extra: object) -> list[nn.Module]:
    return list(tasks.parse_model({"nc": 2, "backbone": deepcopy(rows), "head": head or [], **extra}, 3, False)[0])


def test_the_host_meant_is_the_host_tested() -> None:
    expected = os.environ.get("ULTRA_DSMOE_TEST_HOST")
    assert not expected or ultralytics.__version__ == expected


def test_index_takes_its_channels_from_its_first_argument() -> None:
    layers = parse(ROWS)
    assert isinstance(layers[1], Index)
    assert layers[2].conv.in_channels == 24
    assert not list(layers[1].parameters())


def test_index_is_not_scaled() -> None:
    layers = parse(ROWS, width_multiple=0.5)
    assert layers[2].conv.in_channels == 24
    assert layers[0].conv.out_channels == 8


def test_batchnorm_reads_the_channels_of_any_row() -> None:
    layers = parse([*ROWS, [0, 1, "nn.BatchNorm2d", []], [1, 1, "nn.BatchNorm2d", []]])
    assert [m.num_features for m in layers[3:]] == [16, 24]


def test_parsing_on_the_meta_device_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    with torch.device("meta"):
        layers = parse([[-1, 1, "Conv", [16, 3, 2]], [-1, 2, "C2f", [16, True]], [-1, 1, "SPPF", [32, 5]]])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {p.device.type for m in layers for p in m.parameters()} == {"meta"}


def test_models_call_the_parser_through_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    stock = tasks.parse_model
    monkeypatch.setattr(tasks, "parse_model", lambda *a, **k: seen.append(a) or stock(*a, **k))
    tasks.DetectionModel("yolo11n.yaml", verbose=False)
    assert len(seen) == 1


def test_activation_is_a_class_attribute_that_layers_copy() -> None:
    before = Conv.default_act
    try:
        assert isinstance(parse(ROWS, activation="nn.ReLU()")[0].act, nn.ReLU)
    finally:
        Conv.default_act = before


def test_heads_attributes_that_the_exporter_sets() -> None:
    head = tasks.DetectionModel("yolo11n.yaml", verbose=False).model[-1]
    assert isinstance(head, Detect)
    for name in ("dynamic", "export", "format", "max_det", "nc", "nl", "reg_max", "no", "stride"):
        assert hasattr(head, name), name


def test_default_arguments_are_live_objects() -> None:
    from ultralytics.cfg import get_cfg

    assert set(DEFAULT_CFG_KEYS) == set(DEFAULT_CFG_DICT)
    assert inspect.signature(get_cfg).parameters["cfg"].default is DEFAULT_CFG_DICT
    assert vars(DEFAULT_CFG).keys() == DEFAULT_CFG_DICT.keys()


def test_checkpoints_are_written_where_the_trainers_attributes_say() -> None:
    """What we point elsewhere for the length of a save, and whom we stand in for at the end."""
    from ultralytics.engine.trainer import BaseTrainer

    written = re.findall(r"(\S+)\.write_bytes\(", inspect.getsource(BaseTrainer.save_model))
    assert written == ["self.last", "self.best", 'f"epoch{self.epoch}.pt")']
    assert "strip_optimizer(" in inspect.getsource(BaseTrainer.final_eval)


def test_the_task_of_our_head_is_guessed_from_its_name() -> None:
    assert tasks.guess_model_task({"head": [[-1, 1, "DualAttentionDetect", ["nc"]]], "backbone": []}) == "detect"


def test_yolo_saves_pictures_by_the_scripts_name() -> None:
    from ultralytics.engine import model

    assert 'ARGV[0].endswith("yolo")' in inspect.getsource(model.Model.predict)


def test_every_verb_takes_keyword_arguments() -> None:
    for verb in ("train", "val", "predict", "track", "export", "benchmark"):
        parameters = inspect.signature(inspect.unwrap(getattr(YOLO, verb))).parameters.values()
        assert any(p.kind is p.VAR_KEYWORD for p in parameters), verb


def test_stock_yamls_build_as_without_us() -> None:
    """One of every family of the host, against the host's own parser."""
    ours, stock = tasks.parse_model, inspect.unwrap(tasks.parse_model)
    assert ours is not stock
    for name in (
        "yolo11n.yaml",
        "yolov8n.yaml",
        "yolov5n.yaml",
        "yolov10n.yaml",
        "yolo11n-seg.yaml",
        "yolo11n-obb.yaml",
    ):
        d = tasks.yaml_model_load(name)
        states = []
        for parser in (ours, stock):
            torch.manual_seed(0)
            layers, save = parser(deepcopy(d), 3, False)
            states.append((layers.state_dict(), save))
        assert states[0][1] == states[1][1]
        assert states[0][0].keys() == states[1][0].keys()
        assert all(torch.equal(v, states[1][0][k]) for k, v in states[0][0].items()), name


def test_no_module_of_ours_hides_in_the_host() -> None:
    assert not [name for name in sys.modules if name.startswith("ultralytics.") and "dsmoe" in name]
