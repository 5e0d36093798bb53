"""Studies of classifiers: what is read, trained, kept and said; processes are stood in for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hit_pictures import make_set

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.evaluate.class_stats import ClassStats, scores
from ultra_dsmoe.study import cell, runner, store
from ultra_dsmoe.study.reader import read_plan
from ultra_dsmoe.study.results_csv import read_rows
from ultra_dsmoe.study.task import CLASSIFY

KINDS = ["left", "wide"]
IMAGES = 40


@pytest.fixture
def hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SETS", str(tmp_path / "sets"))
    make_set(tmp_path / "sets" / "more", train=3, val=2)
    return make_set(tmp_path / "sets" / "hits", train=2, val=2)


@pytest.fixture
def content(hits: Path) -> dict[str, Any]:
    models = [{"name": "image", "model": "yolov8n-pfa-cls", "dsmoe": {"pfa": "none"}}, "yolov8n-pfa-cls",
              {"name": "more", "model": "yolov8n-pfa-cls", "data": "${SETS}/more"},
              {"name": "record", "control": "record", "fit": "qda"},
              {"name": "both", "control": ["record", "measures"], "fit": "forest"}]  # fmt: skip
    return {"name": "tiny", "task": "classify", "models": models, "data": ["${SETS}/hits"], "epochs": 3, "imgsz": 64,
            "batch": 2, "seeds": [0, 1], "overrides": {"device": "cpu", "workers": 0}}  # fmt: skip


def class_stats(seed: int, skill: float) -> ClassStats:
    """Return what a made-up classifier says of the same images, whose names do not tell the class."""
    target = np.arange(IMAGES) % 2
    right = np.random.default_rng(seed).random(IMAGES) < skill
    found = np.where(right, target, 1 - target)
    return ClassStats([f"{i}.png" for i in range(IMAGES)], KINDS, target, found, np.eye(2)[found])


HEAD = "knockout,what,macro_f1,macro_f1_change,top1_change,verdict\n"


@pytest.fixture
def classifying(host_class: type[Any]) -> Any:
    """Return a stand-in for processes that trains and validates classifiers."""

    class Classifying(host_class):
        def validate(self, folder: Path) -> None:
            settings = json.loads((folder / "cell.json").read_text())["settings"]
            stats = class_stats(settings.get("seed", 7), 0.95 if "control" in settings else 0.7)
            numbers = {**cell.class_numbers(stats), "seconds": 60.0, "ultralytics": "8", "torch": "2"}
            np.savez(folder / "matches.npz", **store.pack(stats))
            (folder / "result.json").write_text(json.dumps({**numbers, "ultra_dsmoe": "0"}))

        def __call__(self, command: list[str], stdout: Any, **kwargs: Any) -> Any:
            done = super().__call__(command, stdout, **kwargs)
            if "--knockouts" in command:
                rows = "".join(f"{name},,50,{change},0,{said}\n" for name, change, said in self.switched)
                (Path(command[-1]) / "knockout.csv").write_text(HEAD + rows if rows else "")
            return done

    return Classifying()


def test_whole_study(classifying: Any, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    code, _, err = run(write(split="val"), classifying)
    assert (code, err) == (0, "")
    rows = {r["cell"]: r for r in read_rows(tmp_path / "out" / "tiny.csv", CLASSIFY)}
    # What no seed changes is fitted once, a forest with every seed.
    assert [r for r in rows if "record" in r or "both" in r] == ["hits-record-0", "hits-both-0", "hits-both-1"]
    stats = class_stats(1, 0.7)
    row = rows["hits-yolov8n-pfa-cls-1"]
    assert [row["macro_f1"], row["top1"]] == pytest.approx(scores(stats))
    recall = np.mean(stats.found[stats.target == 0] == 0)
    assert f"left={recall:.4f};wide=" in row["per_class_recall"]
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "| data | model | macro_f1 | top1 | recall | seeds | minutes |" in page
    assert "| data | model | left | wide |" in page
    mean = np.mean([scores(class_stats(s, 0.7))[0] for s in (0, 1)])
    assert f"| hits | image | {mean:.3f} (" in page
    # The control stands beside both seeds of the net, though it was fitted once.
    fixed = 100 * (scores(class_stats(7, 0.95))[0] - mean)
    assert f"points | {fixed:+.1f} |" in page.split("| hits | record | image | macro_f1 |")[1].split("\n")[0]
    assert "Controls are no trainings of nets" in page
    assert "One seed" not in page
    assert "unequal numbers" not in page
    # Trainings, not controls; on the set that is named, by its place.
    trained = [c for c in classifying.commands if c[1] == "train"]
    assert len(trained) == 6
    assert all("task=classify" in c for c in trained)
    places = {next(w for w in c if w.startswith("data=")).rpartition("/")[2] for c in trained}
    assert places == {"hits", "more"}
    # Kept cells give the page again.
    assert run(write(split="val"), type(classifying)())[0] == 0
    assert (tmp_path / "out" / "tiny.md").read_text() == page


def test_knockouts_of_a_study_are_in_macro_f1(
    classifying: Any, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    classifying.switched = [("fusion-picture-constant", -12.5, "earns its place"), ("control", 0, "control")]
    assert run(write(seeds=[0], knockouts=True), classifying)[0] == 0
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "Change of macro_f1, in points, when one thing of the trained nets is switched off" in page
    assert "| hits | fusion-picture-constant | -12.5 (-12.5 to -12.5), 1 of 1 |" in page


def test_a_control_and_a_net_that_reads_no_texts_have_nothing_to_switch_off(tmp_path: Path) -> None:
    from ultralytics import YOLO

    assert cell.knockouts(tmp_path / "none.pt", {"control": ["record"], "task": "classify"}) == ""
    for name in ("yolov8n-pfa-cls", "yolov8n-cls"):
        YOLO(f"{name}.yaml").save(tmp_path / "net.pt")
        assert cell.knockouts(tmp_path / "net.pt", {"task": "classify", "data": "nowhere", "split": "val"}) == ""


def test_what_a_cell_depends_on(write: Callable[..., Path], hits: Path) -> None:
    plan = read_plan(write(overrides={"device": "cpu", "dsmoe_provider": "rules"}))
    cells = {c.name: plan.settings(c) for c in plan.cells()}
    assert cells["hits-record-0"] == {
        "control": ["record"], "fit": "qda", "data": "${SETS}/hits", "dsmoe_provider": "rules", "task": "classify",
        "split": "val", "data_hash": plan.data[0].digest,
    }  # fmt: skip
    assert cells["hits-both-1"]["seed"] == 1
    more = cells["hits-more-0"]
    assert (more["data"], more["tested"]) == ("${SETS}/more", "${SETS}/hits")
    assert more["trained_hash"] != more["data_hash"]
    # A record that says something else is another data set.
    sidecar = next((hits / "train").rglob("*.json"))
    sidecar.write_text(sidecar.read_text().replace("mu_x", "mean_x"))
    assert read_plan(write()).data[0].digest != plan.data[0].digest


def test_a_control_is_left_out_where_its_package_is(
    classifying: Any, write: Callable[..., Path], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "has_scikit_learn", lambda: False)
    code, out, _ = run(write(seeds=[0]), classifying)
    assert code == 0
    assert "hits-record-0 is left out: it needs scikit-learn (pip install 'ultra-dsmoe[data]')" in out
    assert not any("record" in c[-1] for c in classifying.commands)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ["yolov8n"]}, "models: expected classifiers, since the study says task: classify, got yolov8n"),
        ({"models": [{"name": "a", "control": "labels"}]}, "models: a: control: expected one of record, measures"),
        ({"models": [{"name": "a", "control": "record", "fit": "tree"}]}, "models: a: fit: expected one of qda"),
        ({"models": [{"name": "a", "control": "features"}]}, "models: a: overrides: expected pretrained, a checkpoint"),
        ({"models": [{"name": "a", "control": "record", "overrides": {"lr0": 0.1}}]}, "models: a: overrides: lr0"),
        ({"models": [{"name": "a", "control": "record", "rows": {}}]}, "models: rows: expected one of name, control"),
        ({"task": "segment"}, "task: expected one of detect, classify"),
        ({"split": "train"}, "split: expected one of val, test"),
        ({"knockouts": 1}, "knockouts: expected true or false"),
        ({"overrides": {"dsmoe_topk": 2}}, "dsmoe_topk: expected a key of a classifier of ours"),
        ({"data": ["${SETS}/hits", "${SETS}/more"]}, "data: expected one data set where a model is trained on another"),
    ],
)
def test_refused(write: Callable[..., Path], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as e:
        read_plan(write(**changes))
    assert str(e.value).startswith(words)
    assert "\n" not in str(e.value)


def test_an_optional_model_is_left_out_without_its_set(
    classifying: Any, write: Callable[..., Path], run: Callable[..., Any], hits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"name": "more", "model": "yolov8n-pfa-cls", "data": "${SETS}/later", "optional": True}
    file = write(models=["yolov8n-pfa-cls", more], seeds=[0])
    assert "not in the study: more, whose weights or data are not there\n" in run(file, classifying)[1]
    for given in ({"optional": False}, {"data": "${NOWHERE}/later"}):  # which stay mistakes
        with pytest.raises((DataError, ConfigError)):
            read_plan(write(models=["yolov8n-pfa-cls", {**more, **given}]))
    assert read_plan(write(models=["yolov8n-pfa-cls", {**more, "data": {"data": "${SETS}/later"}}])).absent == ("more",)
    make_set(hits.parent / "later", train=2, val=2)
    assert not read_plan(file).absent


def test_data_refused(write: Callable[..., Path], hits: Path) -> None:
    with pytest.raises(DataError, match="without any in test/"):
        read_plan(write(split="test"))
    with pytest.raises(ConfigError, match="the environment variable NOWHERE to be set"):
        read_plan(write(data=["${NOWHERE}/hits"]))
    (hits / "val" / "third").mkdir()
    with pytest.raises(DataError, match="expected the classes of its training half in val/"):
        read_plan(write())
    (hits / "val" / "third").rmdir()
    with pytest.raises(DataError, match="a regular expression with one group"):
        read_plan(write(data=[{"data": "${SETS}/hits", "groups": "a"}]))


def test_a_cell_of_a_control_is_worked_out(hits: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    """Without any stand-in: the numbers of the table are those of what is kept."""
    plan = read_plan(write())
    settings = next(plan.settings(c) for c in plan.cells() if c.model.name == "record")
    stats, result = cell.fit_control(tmp_path, yaml.safe_load(json.dumps(settings)))
    (folder := tmp_path / "cell").mkdir()
    (folder / "cell.json").write_text(json.dumps({"settings": settings, "commit": ""}))
    cell.keep(folder, stats, result)
    (tmp_path / "kept.npz").write_bytes(store.gather(folder))
    kept = store.read_kept(tmp_path / "kept.npz")
    assert isinstance(kept.stats, ClassStats)
    assert kept.stats.names == KINDS
    assert scores(kept.stats) == pytest.approx([kept.result["macro_f1"], kept.result["top1"]])
    assert kept.stats.probabilities == pytest.approx(stats.probabilities, abs=1e-3)
