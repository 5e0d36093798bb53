"""Nets said by row edits and control texts: what is refused, what is written, what a cell is known by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.errors import ConfigError, DataError, TextError
from ultra_dsmoe.study import runner, variant
from ultra_dsmoe.study.checks import file_digest
from ultra_dsmoe.study.data import Data
from ultra_dsmoe.study.models import read_model
from ultra_dsmoe.study.plan import Plan

IDENTITY = [-1, 1, "nn.Identity", []]
KEYS = ("pretrained", "distill_model")


def test_edited_rows() -> None:
    model = read_model({"name": "x", "model": "dsmoe-n", "rows": {"14 CBAM": IDENTITY}, "dsmoe": {"experts": 8}})
    base, now = yaml_model_load("dsmoe-n.yaml"), yaml.safe_load(model.content)
    rows = [*base["backbone"], *base["head"]]
    changed = [i for i, row in enumerate([*now["backbone"], *now["head"]]) if row != rows[i]]
    assert changed == [14]
    assert len(now["backbone"]) == len(base["backbone"])
    assert now["dsmoe"] == {**base["dsmoe"], "experts": 8}
    assert set(now) == set(base) - {"scale", "yaml_file"}
    assert (model.source, model.name) == ("dsmoe-n.yaml", "x")


def test_a_stock_net_can_be_a_base() -> None:
    model = read_model({"name": "x", "model": "yolov8n", "rows": {"9 SPPF": IDENTITY}})
    assert yaml.safe_load(model.content)["backbone"][9] == IDENTITY


def test_null_takes_a_key_out_of_the_section() -> None:
    model = read_model({"name": "x", "model": "dsmoe-n", "dsmoe": {"cls_loss": "bce", "qfl": None}})
    assert "qfl" in yaml_model_load("dsmoe-n.yaml")["dsmoe"]
    section = yaml.safe_load(model.content)["dsmoe"]
    assert "qfl" not in section
    assert section["cls_loss"] == "bce"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [1]}, "models: x: rows: expected a mapping such as"),
        ({"rows": {14: IDENTITY}}, "models: x: rows: expected keys of number and layer, such as .*, got 14"),
        ({"rows": {"99 CBAM": IDENTITY}}, "models: x: rows: 99 CBAM: expected a row from 0 to 37, got 99"),
        ({"rows": {"13 CBAM": IDENTITY}}, "rows: 13 CBAM: expected row 13 of this base to be a CBAM, got HubFusion"),
        ({"rows": {"14 CBAM": [-1, 1, "nn.Identity"]}}, r"rows: 14 CBAM: expected \[from, repeats, layer, \[arg"),
        ({"rows": {"14 CBAM": [-1, 0, "nn.Identity", []]}}, r"14 CBAM: expected \[from, repeats"),
        ({"rows": {"14 CBAM": [[], 1, "nn.Identity", []]}}, r"14 CBAM: expected \[from, repeats"),
        ({"rows": {"14 CBAM": ["a", 1, "nn.Identity", []]}}, r"14 CBAM: expected \[from, repeats"),
        ({"rows": {"14 CBAM": [-1, 1, "CBAN", []]}}, r"a net that can be built, .*did you mean 'CBAM'"),
        ({"rows": {"14 CBAM": [-1, 1, "nn.Identiti", []]}}, "a net that can be built, got .*Identiti"),
        ({"rows": {"15 HyperbolicFusion": [2, 1, "Conv", [64]]}}, "a net that can be built, got .* two maps of equal"),
        ({"rows": {"14 CBAM": [3, 1, "nn.Identity", []]}}, "a net that can be built"),
        ({"dsmoe": {"expert": 8}}, r"a net that can be built, got .*did you mean 'experts'"),
        ({"dsmoe": {"experts": 1}}, "a net that can be built, got experts: expected a whole number of at least 3"),
        ({"dsmoe": [1]}, r"models: x: dsmoe: expected keys for the dsmoe section that the base has, got \[1\]"),
        ({"model": "yolov8n", "dsmoe": {"experts": 8}}, "got a base without one"),
        ({"model": "yolov8n.pt", "rows": {"9 SPPF": IDENTITY}}, "rows: expected a model YAML as base, got yolov8n.pt"),
        ({"row": {}}, r"models: row: expected one of .* \(did you mean 'rows'\?\), got unknown"),
        ({"text": "name"}, r"text: expected one of names, .* \(did you mean 'names'\?\), got name"),
        ({"text": "names", "model": "yolov8n"}, "text: expected a model with a TextSemantics row, got yolov8n.yaml"),
        ({"overrides": {"pretrained": "${NO_SUCH}/a.pt"}}, "expected the environment variable NO_SUCH to be set"),
        ({"overrides": {"pretrained": "gone/a.pt"}}, "pretrained: expected an existing file, .*, got gone/a.pt"),
        ({"overrides": {"dsmoe_text": "zeros"}}, r"did you mean 'zero'"),
    ],
)
def test_bad_entries(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, TextError), match=message) as info:
        read_model({"name": "x", "model": "dsmoe-n", **changes})
    assert "\n" not in str(info.value)


def test_shuffled() -> None:
    names, prompts = list("abcd"), {"a": ["1"], "b": ["2", "3"], "d": ["4"]}
    assert variant.control_prompts("shuffled", names, prompts, 0) == {"a": ["2", "3"], "b": ["4"], "d": ["1"]}
    assert variant.control_prompts("shuffled", names, prompts, 1) == {"a": ["4"], "b": ["1"], "d": ["2", "3"]}
    with pytest.raises(DataError, match=r"text: shuffled: expected a data YAML with prompts for at least two.*got 1"):
        variant.control_prompts("shuffled", names, {"a": ["1"]}, 0)


def make_plan(model: dict[str, Any], **changes: Any) -> Any:
    data = Data("d", "d.yaml", "0", None, ["a", "b", "c"], {"a": ["1"], "b": ["2"], "c": ["3"]})
    sizes = {"epochs": 1, "imgsz": 64, "batch": 2}
    given = {"sizes": sizes, "seeds": [0, 1], "overrides": {}, "baselines": ["x"], **changes}
    return Plan("s", [read_model({"name": "x", "model": "dsmoe-n", **model})], [data], **given)


def test_a_cell_is_known_by_its_net_and_texts(tmp_path: Path, monkeypatch: Any) -> None:
    def settings(model: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        plan = make_plan(model)
        return plan.settings(plan.cells()[seed])

    plain, edit = settings({}), settings({"rows": {"14 CBAM": IDENTITY}})
    assert plain["model"] == edit["model"] == "dsmoe-n.yaml"  # no path of this machine
    assert plain["model_hash"] != edit["model_hash"]
    assert edit == settings({"rows": {"14 CBAM": IDENTITY}})
    # The base changes under the edit: another net.
    load = yaml_model_load
    monkeypatch.setattr("ultralytics.nn.tasks.yaml_model_load", lambda source: {**load(source), "nc": 7})
    assert settings({})["model_hash"] != plain["model_hash"]
    assert settings({"rows": {"14 CBAM": IDENTITY}})["model_hash"] != edit["model_hash"]
    monkeypatch.undo()
    assert settings({"text": "names"})["prompts_hash"] == settings({"text": "names"}, 1)["prompts_hash"]
    assert settings({"text": "shuffled"})["prompts_hash"] != settings({"text": "shuffled"}, 1)["prompts_hash"]
    assert settings({"text": "random"}, 1)["dsmoe_text"] == "random:384:1"


@pytest.mark.parametrize("key", KEYS)
def test_weights_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Known by content: another folder is the same cell, other weights are not; no path gets into the settings."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.pt").write_text("other" if name == "three" else "same")
    found = []
    for name in ("one", "two", "three"):
        monkeypatch.setenv("STUDY_WEIGHTS", str(tmp_path / name))
        plan = make_plan({"overrides": {key: "${STUDY_WEIGHTS}/w.pt"}})
        found.append(plan.settings(plan.cells()[0]))
    assert found[0] == found[1] != found[2]
    assert str(tmp_path) not in str(found)


def test_settings_files_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts and a distiller's settings are part of a cell by what they say."""
    monkeypatch.setenv("STUDY_FILES", str(tmp_path))
    texts = {"dsmoe_prompts": ("a: [thin]", "a: [thick]"), "dsmoe_kd": ("temperature: 5", "temperature: 6")}
    for key, contents in texts.items():
        found = []
        for content in contents:
            (tmp_path / "own.yaml").write_text(content)
            file_digest.cache_clear()
            plan = make_plan({"overrides": {key: "${STUDY_FILES}/own.yaml"}})
            found.append(plan.settings(plan.cells()[0])[f"{key}_hash"])
        assert found[0] != found[1]
    with pytest.raises(ConfigError, match=r"overrides: dsmoe_kd: expected an existing file, .*gone\.yaml"):
        make_plan({"overrides": {"dsmoe_kd": "${STUDY_FILES}/gone.yaml"}})


def test_training_reads_the_cells_own_files(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "w.pt").write_text("weights")
    monkeypatch.setenv("STUDY_WEIGHTS", str(tmp_path))
    entry = {"rows": {"14 CBAM": IDENTITY}, "text": "names", "overrides": dict.fromkeys(KEYS, "${STUDY_WEIGHTS}/w.pt")}
    plan = make_plan(entry)
    made, cell = runner.Study(plan, tmp_path / "runs", tmp_path), plan.cells()[0]
    processes = []
    monkeypatch.setattr(made, "_process", lambda command, folder: processes.append(command))
    with pytest.raises(runner.CellError):  # nothing was trained
        made._run_cell(cell, "")
    folder = tmp_path / "runs" / "s" / "d-x-0"
    given = dict(word.split("=", 1) for word in processes[0][2:])
    assert given["model"] == str(folder / "dsmoe-n.yaml")
    assert yaml.safe_load(Path(given["dsmoe_prompts"]).read_text()) == {n: ["{name}"] for n in "abc"}
    assert given["dsmoe_prompts"] == str(folder / "prompts.yaml")
    assert [given[key] for key in KEYS] == [str(tmp_path / "w.pt")] * 2
    assert yaml.safe_load((folder / "dsmoe-n.yaml").read_text())["head"][2] == IDENTITY
    assert str(tmp_path) not in (folder / "cell.json").read_text()
