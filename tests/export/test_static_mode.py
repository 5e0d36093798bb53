"""Which data set, classes and size a call with static experts goes by."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ultra_dsmoe.data.source import DataSource
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.export import static_experts
from ultra_dsmoe.export.static_mode import KeptExperts, data_of, require_classes_of, size_of


def net_of(*names: str, **args: object) -> SimpleNamespace:
    return SimpleNamespace(names=dict(enumerate(names)), args=args, stride=torch.tensor([8.0, 16.0, 32.0]))


def model_of(**overrides: object) -> SimpleNamespace:
    return SimpleNamespace(overrides=overrides)


def test_the_call_goes_before_the_model_and_the_model_before_the_net() -> None:
    net = net_of(imgsz=96)
    assert size_of(model_of(imgsz=128), net, {"imgsz": 160}) == (160, 160)
    assert size_of(model_of(imgsz=128), net, {}) == (128, 128)
    assert size_of(model_of(), net, {}) == (96, 96)
    assert size_of(model_of(), net_of(), {}) == (640, 640)
    assert size_of(model_of(), net, {"imgsz": [64, 100]}) == (64, 128), "height, width; up to the stride"


def test_where_the_data_come_from(tmp_path: Path, tiny_boards: Path) -> None:
    net = net_of(data=str(tiny_boards))
    named = data_of(model_of(), net, {"data": "other.yaml"})
    assert named is not None
    assert (named.yaml, named.named) == ("other.yaml", True)
    own = data_of(model_of(data=str(tmp_path / "gone.yaml")), net, {})
    assert own is not None
    assert (own.yaml, own.named) == (str(tiny_boards), False)
    assert data_of(model_of(), net_of(), {}) is None


def source(folder: Path, names: str) -> DataSource:
    path = folder / "data.yaml"
    path.write_text(names)
    return DataSource(str(path), True)


def test_other_classes_say_nothing_about_the_experts(tmp_path: Path) -> None:
    data = source(tmp_path, "names: [spur, short]")
    require_classes_of(net_of("spur", "short"), data)
    require_classes_of(net_of("0", "1", "2"), data)  # never trained
    require_classes_of(net_of("item"), data)  # trained on one class
    require_classes_of(net_of("a", "b"), source(tmp_path, "path: x"))  # the reader of images says what is missing
    data = source(tmp_path, "names: [spur, short]")
    for other in (("short", "spur"), ("spur", "bite"), ("1", "0")):
        with pytest.raises(DataError, match=rf"the net was trained on \({', '.join(other)}\), got spur, short"):
            require_classes_of(net_of(*other), data)


def test_experts_are_found_once_on_the_validation_half(tiny_boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def found(net: object, files: list[Any], size: tuple[Any, ...], keep: object) -> list[Any]:
        seen.append((len(files), {Path(f).parent.name for f in files}, size, keep))
        return [SimpleNamespace(kept=(1, 2)), SimpleNamespace(kept=(0,))]

    monkeypatch.setattr(static_experts, "static_experts", found)
    net, call = net_of("0"), {"data": str(tiny_boards), "imgsz": (64, 96)}
    kept = KeptExperts(model_of(), net, {"dsmoe_keep": 7}, call)
    assert kept.numbers() == kept.numbers() == [(1, 2), (0,)]
    KeptExperts(model_of(), net, {}, {**call, "fraction": 0.5}).numbers()
    assert seen == [(4, {"val"}, (64, 96), 7), (2, {"val"}, (64, 96), None)]
    with pytest.raises(DataError, match=r"the net was trained on \(a, b\)"):
        KeptExperts(model_of(), net_of("a", "b"), {}, call).numbers()
    with pytest.raises(ConfigError, match=r"data: expected a data YAML, whose validation images say .* got none"):
        KeptExperts(model_of(), net, {}, {}).numbers()
