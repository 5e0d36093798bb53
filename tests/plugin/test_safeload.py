"""Restricted loading builds our layers and nothing else for our sake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import toy_yaml
from ultralytics.nn import tasks

from ultra_dsmoe.model.detector import DSMoEModel
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


@restricted
def test_foreign_classes_stay_refused(tmp_path: Path) -> None:
    """The toy layers live outside the package."""
    torch.save({"model": tasks.DetectionModel(toy_yaml(), verbose=False)}, tmp_path / "net.pt")
    with pytest.raises(Exception, match="outside the supported"):
        tasks.torch_safe_load(str(tmp_path / "net.pt"), safe_only=True)


@restricted
def test_without_us_ours_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safeload, "permitted", lambda names: [])
    known = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.save({"model": DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False)}, tmp_path / "net.pt")
        with pytest.raises(Exception, match="outside the supported"):
            tasks.torch_safe_load(str(tmp_path / "net.pt"), safe_only=True)
    finally:
        torch.serialization.add_safe_globals(known)


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
