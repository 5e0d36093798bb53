"""What a study file may say, what is refused, and what a data set is known by."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.commands.study import COMMAND
from ultra_dsmoe.errors import ConfigError, DataError, TextError
from ultra_dsmoe.study.reader import read_plan
from ultra_dsmoe.study.results_csv import read_rows
from ultra_dsmoe.study.variant import as_file


def test_plan(plan: Any) -> None:
    names = [c.name for c in plan.cells()]
    assert names == ["boards-yolov8n-0", "boards-k2-0", "boards-yolov8n-1", "boards-k2-1"]
    settings = plan.settings(plan.cells()[1])
    assert (settings["model"], settings["dsmoe_topk"], settings["device"]) == ("dsmoe-n.yaml", 2, "cpu")
    assert plan.pairs() == [("k2", "yolov8n")]


def test_baselines(write: Callable[..., Path]) -> None:
    """Several of them, each pair once; `previous` is the model above."""
    models = ["yolov8n", "yolo11n", "dsmoe-n"]
    assert read_plan(write(models=models)).pairs() == [("yolo11n", "yolov8n"), ("dsmoe-n", "yolov8n")]
    steps = [("yolo11n", "yolov8n"), ("dsmoe-n", "yolo11n")]
    assert read_plan(write(models=models, baseline="previous")).pairs() == steps
    both = read_plan(write(models=models, baseline=["previous", "yolov8n"])).pairs()
    assert both == [*steps, ("dsmoe-n", "yolov8n")]


def test_baseline_of_each(write: Callable[..., Path]) -> None:
    """Pairs that belong together, and no others; a pair whose weights are not here is left out with its model."""
    weights = {"optional": True, "overrides": {"pretrained": "gone.pt"}}
    models = ["yolov8n", "yolo11n", "dsmoe-n", {"model": "yolo26n", **weights}]
    plan = read_plan(write(models=models, baseline={"dsmoe-n": "yolov8n", "yolo26n": "yolo11n"}))
    assert plan.pairs() == [("dsmoe-n", "yolov8n")]
    assert plan.absent == ("yolo26n",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, r"seeds: expected a value, got \[\]"),
        ({"epochs": None}, "epochs: expected a value, got none"),
        ({"epochs": 0}, "epochs: expected a positive integer, got 0"),
        ({"seeds": [1, 1]}, "seeds: expected every entry once; .*, got 1 twice"),
        ({"seeds": [0.5]}, "seeds: expected a whole number from 0 to 4294967295, got 0.5"),
        ({"seed": 3}, r"seed: expected one of name, .* \(did you mean 'seeds'\?\), got unknown"),
        ({"models": ["yolo11m", "yolov8nn"]}, r"models: expected a model YAML .*did you mean 'yolov8n'.*got yolov8nn"),
        ({"models": ["dsmoe-q"]}, r"models: expected a model YAML .*did you mean 'dsmoe-"),
        ({"models": ["gone.pt"]}, "models: expected an existing checkpoint, or .*, got gone.pt"),
        ({"models": [{"name": "x"}]}, "models: expected a name such as yolov8n"),
        ({"models": ["yolov8n", "yolov8n"]}, "models: expected every entry once"),
        ({"models": [{"model": "yolov8n", "name": "a/b"}]}, "models: name: expected a name of letters"),
        ({"baseline": "yolov8s"}, r"baseline: expected one of yolov8n, k2, previous \(did you mean 'yolov8n'\?\)"),
        ({"baseline": {"k2": "k2"}}, "baseline: k2: expected one of yolov8n, got k2"),
        ({"baseline": {"k3": "yolov8n"}}, "baseline: expected one of yolov8n, k2, got k3"),
        ({"baseline": ["k2", "k2"]}, "baseline: expected every entry once"),
        ({"data": ["neu-dett"]}, r"data: expected a data YAML whose images are there \(did you mean 'neu-det'\?\)"),
        ({"data": [3]}, "data: expected names of data YAMLs, or mappings with the key 'data', got 3"),
        ({"data": [{"data": "neu-det", "epoch": 3}]}, r"data: neu-det: epoch: expected one of .*did you mean 'epochs'"),
        ({"data": [{"data": "neu-det", "imgsz": 16}]}, "data: neu-det: imgsz: expected a whole number of at least 32,"),
        ({"overrides": {"lr00": 1}}, r"overrides: lr00: expected .*did you mean 'lr0'"),
        ({"overrides": {"lr0": "fast"}}, "overrides: expected values that Ultralytics accepts"),
        ({"overrides": {"seed": 1}}, "overrides: seed: expected arguments that the study does not give itself"),
        ({"overrides": {"dsmoe_topk": 0}}, "dsmoe_topk: expected an integer"),
        ({"overrides": {"distill_model": "gone/t.pt"}}, "overrides: distill_model: expected an existing file"),
        ({"models": [{"model": "yolov8n", "optional": "yes"}]}, "models: optional: expected true or false, got yes"),
        ({"knockouts": "hub"}, "knockouts: expected true or false, got hub"),
    ],
)  # fmt: skip
def test_bad_plan(write: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as info:
        read_plan(write(**changes))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"dsmoe_topk": 2}}, "overrides: dsmoe_topk: expected a DS-MoE model .*, got yolov8n, which"),
        ({"overrides": {"dsmoe_text": "hash"}}, "overrides: dsmoe_text: expected a DS-MoE model .*, got yolov8n, whic"),
        ({"overrides": {"cache": "lmdb"}}, "overrides: cache: expected a DS-MoE model .*, got yolov8n, which is stock"),
        ({"models": ["dsmoe-n", {"model": "yolov8n", "overrides": {"dsmoe_moe": "dense"}}]}, "overrides: dsmoe_moe: "),
        ({"models": ["dsmoe-n", {"model": "yolov8n.pt", "overrides": {"dsmoe_moe": "dense"}}]}, "got yolov8n, which"),
        ({"models": ["dsmoe-n"], "overrides": {"dsmoe_parity": True}}, "dsmoe_parity: expected this key with export"),
        ({"models": ["dsmoe-n"], "overrides": {"dsmoe_moe": "static"}}, "dsmoe_moe: expected gather or dense in a "),
    ],
)  # fmt: skip
def test_keys_of_the_plugin(write: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    """What the training would refuse, cell by cell, is refused at once."""
    with pytest.raises(ConfigError, match=message) as info:
        read_plan(write(**changes))
    assert "\n" not in str(info.value)


def test_keys_of_any_detector(write: Callable[..., Path], tmp_path: Path) -> None:
    """Stock models distil too, and one can be taken out of what is given to all."""
    teacher = tmp_path / "t.pt"
    teacher.touch()
    given = {"dsmoe_kd": "attention", "distill_model": str(teacher), "cache": "ram", "dsmoe_topk": 2}
    models = ["dsmoe-n", {"model": "yolov8n", "overrides": {"dsmoe_topk": None}}]
    plan = read_plan(write(models=models, overrides=given))
    assert [plan.settings(c)["dsmoe_topk"] for c in plan.cells()[:2]] == [2, None]


def test_keys_of_a_checkpoint(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("dsmoe-n", "yolov8n"):
        YOLO(f"{name}.yaml").save(tmp_path / f"my-{name}.pt")
    ours, stock = str(tmp_path / "my-dsmoe-n.pt"), str(tmp_path / "my-yolov8n.pt")
    assert read_plan(write(models=[ours], overrides={"dsmoe_topk": 2})).models[0].name == "my-dsmoe-n"
    with pytest.raises(ConfigError, match=r"dsmoe_topk: expected a DS-MoE model .*, got my-yolov8n, which is stock"):
        read_plan(write(models=[ours, stock], overrides={"dsmoe_topk": 2}))


def test_a_file_beside_the_study(write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A net by path is known by what it says, from wherever the study is called, and its name gives the scale."""
    (tmp_path / "nets").mkdir()
    named = read_plan(write(models=["dsmoe-n"])).models[0]
    content = as_file(yaml_model_load("dsmoe-n.yaml"))
    (tmp_path / "nets" / "dsmoe-n.yaml").write_text(content)
    file = write(models=[{"name": "copy", "model": "nets/dsmoe-n.yaml"}, {"name": "k", "model": "nets/dsmoe-n.yaml",
                         "dsmoe": {"topk": 3}}])  # fmt: skip
    settings = {}
    for folder in (tmp_path, tmp_path / "nets"):
        monkeypatch.chdir(folder)
        plan = read_plan(file.resolve())
        settings[folder] = [plan.settings(c) for c in plan.cells()]
    assert settings[tmp_path] == settings[tmp_path / "nets"]
    copy, k = plan.models
    assert (copy.source, copy.digest, k.source) == ("dsmoe-n.yaml", named.digest, "dsmoe-n.yaml")
    assert plan.files(plan.cells()[0]) == {"dsmoe-n.yaml": copy.content}
    assert yaml.safe_load(k.content)["dsmoe"]["topk"] == 3


def test_prompts_of_another_data_set(write: Callable[..., Path], tmp_path: Path) -> None:
    prompts, models = tmp_path / "p.yaml", ["dsmoe-n", {"name": "names", "model": "dsmoe-n", "text": "names"}]
    prompts.write_text("spurr: [a thorn]\n")
    with pytest.raises(TextError) as info:
        read_plan(write(models=models, overrides={"dsmoe_prompts": str(prompts)}))
    said = str(info.value)
    assert said.startswith(f"dsmoe_prompts={prompts}, data boards: prompts: expected a class of this data set: ")
    assert said.endswith("got 'spurr' (did you mean 'spur'?)")
    prompts.write_text("- spur\n")
    with pytest.raises(ConfigError, match="dsmoe_prompts: expected a mapping of class name to description"):
        read_plan(write(models=models, overrides={"dsmoe_prompts": str(prompts)}))
    prompts.write_text("prompts: {spur: [a thorn]}\n")
    assert len(read_plan(write(models=models, overrides={"dsmoe_prompts": str(prompts)})).cells()) == 4


def test_changes_of_the_command_line(write: Callable[..., Path], boards: Path) -> None:
    """They hold for every data set, and another name keeps the results apart."""
    file = write(data=[{"data": str(boards), "imgsz": 96, "epochs": 7}])
    plan = read_plan(file, ["name=large", "imgsz=128", "seeds=[5]", "workers=2", "lr0=0.1", "classes=null"])
    (settings,) = {str({k: plan.settings(c)[k] for k in ("imgsz", "epochs", "seed", "workers", "lr0", "classes")})
                   for c in plan.cells()}  # fmt: skip
    assert settings == str({"imgsz": 128, "epochs": 7, "seed": 5, "workers": 2, "lr0": 0.1, "classes": None})
    assert plan.name == "large"
    given = COMMAND.parse(["s.yaml", "name=large", "imgsz=128", "--jobs", "2", "seeds=[5]"])
    assert given.more == ["name=large", "imgsz=128", "seeds=[5]"]
    assert given == {"study": "s.yaml", "jobs": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "change: expected KEY=VALUE, of a key .*, got epochs"),
        ("models=[yolov8n]", "change: expected KEY=VALUE"),
        ("seeds=[", r"seeds: expected a value as in YAML, got \["),
        ("epochs=many", "epochs: expected a positive integer, got many"),
        ("lr00=1", r"overrides: lr00: expected .*did you mean 'lr0'"),
    ],
)
def test_bad_changes(write: Callable[..., Path], change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(write(), [change])


def test_optional_models(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    """Left out and named where the weights are not there; a variable that is not set stays a mistake."""
    weights = {"model": "yolo11n", "optional": True, "overrides": {"pretrained": "${MINE}/yolo11n.pt"}}
    file = write(models=["yolov8n", weights], seeds=[0])
    monkeypatch.delenv("MINE", raising=False)
    with pytest.raises(ConfigError, match="expected the environment variable MINE to be set"):
        read_plan(file)
    monkeypatch.setenv("MINE", str(tmp_path))
    plan = read_plan(file)
    assert ([m.name for m in plan.models], plan.absent) == (["yolov8n"], ("yolo11n",))
    assert "not in the study: yolo11n, whose weights or data are not there\n" in run(file)[1]
    with pytest.raises(
        ConfigError, match=r"models: expected weights and data of at least one optional .*, got none of yolo11n"
    ):
        read_plan(write(models=[weights]))
    with pytest.raises(ConfigError, match="pretrained: expected an existing file"):
        read_plan(write(models=["yolov8n", {**weights, "optional": False}]))
    (tmp_path / "yolo11n.pt").touch()
    assert [m.name for m in read_plan(file).models] == ["yolov8n", "yolo11n"]


def test_sizes_of_a_data_set(write: Callable[..., Path], boards: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    """What a data set says for itself is what its trainings, its rows and the page's head line have."""
    shutil.copytree(boards.parent, copy := tmp_path / "more")
    content = {**yaml.safe_load(boards.read_text()), "path": str(copy)}
    (copy / "data.yaml").write_text(yaml.safe_dump(content))
    other = {"data": str(copy / "data.yaml"), "epochs": 5, "batch": 1}
    file = write(data=[str(boards), other], models=["yolov8n"], seeds=[0])
    plan = read_plan(file)
    sizes = [{k: plan.settings(c)[k] for k in ("epochs", "imgsz", "batch")} for c in plan.cells()]
    assert sizes == [{"epochs": 3, "imgsz": 64, "batch": 2}, {"epochs": 5, "imgsz": 64, "batch": 1}]
    assert run(file)[0] == 0
    assert [r["epochs"] for r in read_rows(tmp_path / "out" / "tiny.csv")] == [3, 5]
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "\nboards: 3 epochs, 64 px, batch 2; more: 5 epochs, 64 px, batch 1; seeds 0; classes=" in page


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study: expected a readable YAML file, got .*gone\.yaml"):
        read_plan(tmp_path / "gone.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="study: expected a mapping"):
        read_plan(tmp_path / "list.yaml")


def test_data_hash_and_groups(write: Callable[..., Path], boards: Path, tmp_path: Path) -> None:
    """A changed picture, label or text is another data set; a copy elsewhere is the same one."""
    before = read_plan(write()).data[0]
    copy = Path(shutil.copytree(boards.parent, tmp_path / "boards"))
    settings = {**yaml.safe_load(boards.read_text()), "path": str(copy), "groups": r"^(.*)_"}
    (copy / "data.yaml").write_text(yaml.safe_dump(settings))
    there = read_plan(write(data=[str(copy / "data.yaml")])).data[0]
    assert (there.digest, there.groups, before.groups) == (before.digest, r"^(.*)_", None)
    (copy / "data.yaml").write_text(yaml.safe_dump({**settings, "prompts": {"spur": "a thorn"}}))
    assert read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    (copy / "data.yaml").write_text(yaml.safe_dump(settings))
    picture = next((copy / "images" / "val").iterdir())
    bytes_before = picture.read_bytes()
    picture.write_bytes(bytes_before[:-1] + bytes([bytes_before[-1] ^ 1]))
    assert read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    picture.write_bytes(bytes_before)
    assert read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest == before.digest
    label = next((copy / "labels" / "val").glob("*.txt"))
    label.write_text("0 .5 .5 .1 .1\n")
    assert read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    for wrong in ("(", "no group"):
        (copy / "data.yaml").write_text(yaml.safe_dump({**settings, "groups": wrong}))
        with pytest.raises(DataError, match=r"data.yaml: groups: expected a regular expression"):
            read_plan(write(data=[str(copy / "data.yaml")]))
