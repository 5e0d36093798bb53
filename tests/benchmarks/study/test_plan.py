"""What a study file may say, what is refused, and what a data set is known by."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ultra_dsmoe.errors import ConfigError, DataError


def test_plan(plan: Any, study: ModuleType) -> None:
    names = [c.name for c in plan.cells()]
    assert names == ["boards-yolov8n-0", "boards-k2-0", "boards-yolov8n-1", "boards-k2-1"]
    settings = plan.settings(plan.cells()[1])
    assert (settings["model"], settings["dsmoe_topk"], settings["device"]) == ("dsmoe-n.yaml", 2, "cpu")
    assert plan.baseline == "yolov8n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, r"seeds: expected a value, got \[\]"),
        ({"epochs": None}, "epochs: expected a value, got none"),
        ({"epochs": 0}, "epochs: expected whole numbers of at least 1, got 0"),
        ({"seeds": [1, 1]}, "seeds: expected every entry once; .*, got 1 twice"),
        ({"seeds": [0.5]}, "seeds: expected 0 to 4294967295, got 0.5"),
        ({"seed": 3}, r"seed: expected one of name, .* \(did you mean 'seeds'\?\), got unknown"),
        ({"models": ["yolo11m", "yolov8nn"]}, r"models: expected a model YAML .*did you mean 'yolov8n'.*got yolov8nn"),
        ({"models": ["dsmoe-q"]}, r"models: expected a model YAML .*did you mean 'dsmoe-"),
        ({"models": ["gone.pt"]}, "models: expected an existing checkpoint, or .*, got gone.pt"),
        ({"models": [{"name": "x"}]}, "models: expected a name such as yolov8n"),
        ({"models": ["yolov8n", "yolov8n"]}, "models: expected every entry once"),
        ({"models": [{"model": "yolov8n", "name": "a/b"}]}, "models: name: expected a name of letters"),
        ({"baseline": "yolov8s"}, r"baseline: expected one of yolov8n, k2 \(did you mean 'yolov8n'\?\)"),
        ({"data": ["neu-dett"]}, r"data: expected a data YAML whose images are there \(did you mean 'neu-det'\?\)"),
        ({"overrides": {"lr00": 1}}, r"overrides: lr00: expected .*did you mean 'lr0'"),
        ({"overrides": {"lr0": "fast"}}, "overrides: expected values that the host accepts"),
        ({"overrides": {"seed": 1}}, "overrides: seed: expected arguments that the study does not give itself"),
        ({"overrides": {"dsmoe_topk": 0}}, "dsmoe_topk: expected an integer"),
        ({"overrides": {"distill_model": "gone/t.pt"}}, "overrides: distill_model: expected an existing file"),
        ({"knockouts": "hub"}, "knockouts: expected true or false, got hub"),
    ],
)  # fmt: skip
def test_bad_plan(study: ModuleType, write: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as info:
        study.read_plan(write(**changes))
    assert "\n" not in str(info.value)


def test_no_plan(study: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study: expected a readable YAML file, got .*gone\.yaml"):
        study.read_plan(tmp_path / "gone.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="study: expected a mapping"):
        study.read_plan(tmp_path / "list.yaml")


def test_data_hash_and_groups(study: ModuleType, write: Callable[..., Path], boards: Path, tmp_path: Path) -> None:
    """A changed picture, label or text is another data set; a copy elsewhere is the same one."""
    before = study.read_plan(write()).data[0]
    copy = Path(shutil.copytree(boards.parent, tmp_path / "boards"))
    settings = {**yaml.safe_load(boards.read_text()), "path": str(copy), "groups": r"^(.*)_"}
    (copy / "data.yaml").write_text(yaml.safe_dump(settings))
    there = study.read_plan(write(data=[str(copy / "data.yaml")])).data[0]
    assert (there.digest, there.groups, before.groups) == (before.digest, r"^(.*)_", None)
    (copy / "data.yaml").write_text(yaml.safe_dump({**settings, "prompts": {"spur": "a thorn"}}))
    assert study.read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    (copy / "data.yaml").write_text(yaml.safe_dump(settings))
    picture = next((copy / "images" / "val").iterdir())
    bytes_before = picture.read_bytes()
    picture.write_bytes(bytes_before[:-1] + bytes([bytes_before[-1] ^ 1]))
    assert study.read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    picture.write_bytes(bytes_before)
    assert study.read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest == before.digest
    label = next((copy / "labels" / "val").glob("*.txt"))
    label.write_text("0 .5 .5 .1 .1\n")
    assert study.read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    for wrong in ("(", "no group"):
        (copy / "data.yaml").write_text(yaml.safe_dump({**settings, "groups": wrong}))
        with pytest.raises(DataError, match=r"data.yaml: groups: expected a regular expression"):
            study.read_plan(write(data=[str(copy / "data.yaml")]))
