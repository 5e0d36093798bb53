"""Restricted loading builds our layers and nothing else for our sake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import ToyChain, toy_yaml
from ultralytics.nn import tasks

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.registry import LAYERS
from ultra_dsmoe.plugin import safeload

RESTRICTED = hasattr(tasks, "_SafeLoad") and hasattr(torch.serialization, "get_safe_globals")
restricted = pytest.mark.skipif(not RESTRICTED, reason="no restricted loading in this host, or in torch before 2.5")


def test_only_modules_of_ours_and_of_the_encoder_are_permitted() -> None:
    import timm.layers

    from ultra_dsmoe.nn import SparseMoE

    names = [
        "ultra_dsmoe.nn.neck.sparse_moe.SparseMoE",
        "ultra_dsmoe.model.detector.DSMoEModel",
        "ultra_dsmoe.plugin.boot.install",
        "ultra_dsmoe.nn.neck.sparse_moe.NoSuchClass",
        "ultra_dsmoe.errors.ConfigError",
        "ultra_dsmoe_evil.Thing",
        "timm.layers.drop.DropPath",
        "timm.layers.create_act.create_act_layer",
        "os.system",
        "collections.OrderedDict",
    ]
    expected = [(SparseMoE, names[0]), (DSMoEModel, names[1]), (timm.layers.DropPath, names[6])]
    assert safeload.permitted(names) == expected


def test_former_name_is_permitted_as_such() -> None:
    assert safeload.permitted(["ultra_dsmoe.train.model.DSMoEModel"]) == [
        (DSMoEModel, "ultra_dsmoe.train.model.DSMoEModel")
    ]


def test_stock_checkpoints_import_nothing_of_ours() -> None:
    assert safeload.permitted(["ultralytics.nn.tasks.DetectionModel", "timm.layers.drop.DropPath"]) == []


@restricted
@pytest.mark.parametrize("cfg", ["dsmoe-n.yaml", "dsmoe.yaml"])
def test_our_checkpoints_load(cfg: str, tmp_path: Path) -> None:
    net = DSMoEModel(cfg, nc=2, verbose=False)
    torch.save({"model": net}, tmp_path / "net.pt")
    checkpoint, _ = tasks.torch_safe_load(str(tmp_path / "net.pt"), safe_only=True)
    loaded = checkpoint["model"].state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in net.state_dict().items())


@pytest.fixture
def nothing_known() -> Iterator[None]:
    """Take back what earlier loads have let torch build."""
    known = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(known)


class Stranger(nn.Module):
    """Registered by nobody."""


@restricted
@pytest.mark.usefixtures("nothing_known")
def test_a_layer_that_is_registered_here_loads(tmp_path: Path) -> None:
    """The toy layers live outside the package, as a user's."""
    torch.save({"model": tasks.DetectionModel(toy_yaml(), verbose=False)}, tmp_path / "net.pt")
    checkpoint, _ = tasks.torch_safe_load(str(tmp_path / "net.pt"), safe_only=True)
    assert type(checkpoint["model"].model[2]) is ToyChain


@restricted
@pytest.mark.usefixtures("nothing_known")
def test_what_is_not_registered_stays_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": nn.Sequential(Stranger())}, tmp_path / "foreign.pt")
    with pytest.raises(TypeError, match="outside the supported"):  # nothing in it is ours: the host's own words
        tasks.torch_safe_load(str(tmp_path / "foreign.pt"), safe_only=True)
    net = DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False)
    net.model[1].own = Stranger()
    torch.save({"model": net}, tmp_path / "own.pt")
    file, named = str(tmp_path / "own.pt"), rf"got {__name__}\.Stranger$"
    with pytest.raises(WeightsError, match=r"registered layers alone \(one that you trust .*\), " + named):
        tasks.torch_safe_load(file, safe_only=True)
    monkeypatch.delitem(sys.modules, __name__)
    with pytest.raises(WeightsError, match=rf"\(import {__name__} first, if it is yours\), " + named):
        tasks.torch_safe_load(file, safe_only=True)
    assert __name__ not in sys.modules, "a checkpoint made this process import a user's module"
    assert not any("Stranger" in str(entry) for entry in torch.serialization.get_safe_globals())


def test_only_the_registered_class_itself_is_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that stands beside it, nothing of another module under its name, and modules alone."""
    assert safeload.permitted(["toys.ToyChain"]) == [(ToyChain, "toys.ToyChain")]
    assert safeload.permitted(["toys.deepcopy", "toys.Conv", "other.ToyChain", "toys.ToyChain.forward"]) == []
    monkeypatch.setitem(LAYERS, "Path", Path)  # no decorator lets that happen
    assert safeload.permitted([f"{Path.__module__}.Path"]) == []
    monkeypatch.delitem(LAYERS, "ToyChain")
    assert safeload.permitted(["toys.ToyChain", "ultra_dsmoe.nn.neck.sparse_moe.SparseMoE"])[1:] == []


@restricted
@pytest.mark.usefixtures("nothing_known")
def test_without_us_ours_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safeload, "permitted", lambda names: [])
    torch.save({"model": DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False)}, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"registered layers alone .* got ultra_dsmoe\."):
        tasks.torch_safe_load(str(tmp_path / "net.pt"), safe_only=True)


@restricted
def test_stock_checkpoints_load(tmp_path: Path) -> None:
    net = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    torch.save({"model": net}, tmp_path / "net.pt")
    checkpoint, _ = tasks.torch_safe_load(str(tmp_path / "net.pt"), safe_only=True)
    assert type(checkpoint["model"]) is tasks.DetectionModel


@restricted
def test_names_are_read_from_files_only(tmp_path: Path) -> None:
    (tmp_path / "no.pt").write_bytes(b"no archive")
    assert safeload.names_in(tmp_path / "no.pt") == []
    assert safeload.names_in(tmp_path / "missing.pt") == []
