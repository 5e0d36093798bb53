"""The run matrix: what a study file may say, what is run, resumed and refused; processes are stood in for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ultra_dsmoe.data import pcb_demo
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.explain.bootstrap import mean_ap
from ultra_dsmoe.explain.evaluation import ImageStats

IMAGES = 6


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of a few boards; the set is called ``boards``."""
    folder = tmp_path_factory.mktemp("set") / "boards"
    return pcb_demo.generate(folder, train=2, val=IMAGES, size=pcb_demo.MIN_SIZE)


@pytest.fixture
def content(boards: Path) -> dict[str, Any]:
    return {"name": "tiny", "models": ["yolov8n", {"name": "k2", "model": "dsmoe-n", "overrides": {"dsmoe_topk": 2}}],
            "data": [str(boards)], "epochs": 3, "imgsz": 64, "batch": 2, "seeds": [0, 1],
            "overrides": {"device": "cpu", "workers": 0, "classes": [0, 1]}}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path, content: dict[str, Any]) -> Callable[..., Path]:
    """Return a function that writes the study file with some keys changed, or left out where they are None."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in {**content, **changes}.items() if v is not None}))
        return file

    return write


@pytest.fixture
def plan(study: ModuleType, write: Callable[..., Path]) -> Any:
    return study.read_plan(write())


def fake_stats(seed: int) -> ImageStats:
    rng = np.random.default_rng(seed)
    labels = [np.array([0.0, 1.0, float(i % 2)]) for i in range(IMAGES)]
    tp = [rng.random((4, 1)) < np.linspace(0.9, 0.2, 10) for _ in labels]
    cls = [np.array([0.0, 1.0, float(i % 2), 0.0]) for i in range(IMAGES)]
    return ImageStats([f"{i}.png" for i in range(IMAGES)], tp, [rng.random(4) for _ in labels], cls, labels)


class Host:
    """Stands in for `subprocess.Popen`: leaves behind what a training and a validation do.

    ``fail`` names a word of the command that fails, ``leave`` the epoch of the checkpoint that a failing one leaves.
    """

    def __init__(self, study: ModuleType, fail: str = "", leave: int | None = None) -> None:
        self.study, self.fail, self.leave = study, fail, leave
        self.commands: list[list[str]] = []
        self.switched: list[tuple[str, Any, str]] = []  # knock-outs: name, change, verdict

    def __call__(self, command: list[str], stdout: Any, **kwargs: Any) -> Any:
        self.commands.append(command)
        failed = bool(self.fail) and self.fail in " ".join(command)
        if command[1] == "train":
            given = dict(word.split("=", 1) for word in command[2:])
            folder = Path(given.get("save_dir", f"{given.get('project')}/train"))
            epoch = self.leave if failed else -1
            if epoch is not None:
                (folder / "weights").mkdir(parents=True, exist_ok=True)
                torch.save({"epoch": epoch}, folder / "weights" / "last.pt")
        elif not failed:
            self.validate(Path(command[-1]))
            if "--knockouts" in command:
                rows = "".join(f"{name},,{change},{verdict}\n" for name, change, verdict in self.switched)
                (Path(command[-1]) / "knockout.csv").write_text(f"knockout,what,map50_change,verdict\n{rows}")
        if failed:
            stdout.write(b"Traceback\nRuntimeError: out of memory\n\n")
        return type("Process", (), {"wait": lambda self: int(failed), "terminate": lambda self: None})()

    def validate(self, folder: Path) -> None:
        stats = fake_stats(len(folder.name))
        np.savez(folder / "matches.npz", **sys.modules["study_cell"].pack(stats))
        scores = dict(zip(("mAP50", "mAP50-95"), map(float, mean_ap(stats)), strict=True))
        rest = {"precision": 0.5, "recall": 0.25, "seconds": 90.0, "prompt_hash": "abc", "per_class_AP": {"a": 0.5},
                "ultralytics": "8", "torch": "2", "ultra_dsmoe": "0"}  # fmt: skip
        (folder / "result.json").write_text(json.dumps({**scores, **rest}))


@pytest.fixture
def run(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command with a stand-in for processes and gives its code, output, errors."""

    def run(file: Path, host: Host | None = None, *more: str) -> tuple[int, str, str]:
        # Only this module's: git is asked through `subprocess.run`, which needs the real one.
        monkeypatch.setattr(study, "commit", lambda: "c0ffee")
        monkeypatch.setattr(subprocess, "Popen", host or Host(study))
        places = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", ["study.py", str(file), *places, *more])
        monkeypatch.setattr(study.signal, "signal", lambda *_: None)
        code = int(study.main())
        out, err = capsys.readouterr()
        return code, out, err

    return run


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
        ({"overrides": {"distill_model": "gone/t.pt"}}, "overrides: distill_model: expected an existing checkpoint"),
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


def test_nothing_learned(
    study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that found nothing is named, since comparing it means little."""
    found = fake_stats(0)
    found.tp = [np.zeros_like(t) for t in found.tp]
    monkeypatch.setitem(globals(), "fake_stats", lambda seed: found)
    assert "k2 on boards has learned next to nothing (mAP50 below 0.01)" in run(write(seeds=[0]))[1]


def test_data_hash_and_groups(study: ModuleType, write: Callable[..., Path], boards: Path, tmp_path: Path) -> None:
    """A changed label or text is another data set; a copy elsewhere is the same one."""
    before = study.read_plan(write()).data[0]
    copy = Path(shutil.copytree(boards.parent, tmp_path / "boards"))
    settings = {**yaml.safe_load(boards.read_text()), "path": str(copy), "groups": r"^(.*)_"}
    (copy / "data.yaml").write_text(yaml.safe_dump(settings))
    there = study.read_plan(write(data=[str(copy / "data.yaml")])).data[0]
    assert (there.digest, there.groups, before.groups) == (before.digest, r"^(.*)_", None)
    (copy / "data.yaml").write_text(yaml.safe_dump({**settings, "prompts": {"spur": "a thorn"}}))
    assert study.read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    (copy / "data.yaml").write_text(yaml.safe_dump(settings))
    label = next((copy / "labels" / "val").glob("*.txt"))
    label.write_text("0 .5 .5 .1 .1\n")
    assert study.read_plan(write(data=[str(copy / "data.yaml")])).data[0].digest != before.digest
    for wrong in ("(", "no group"):
        (copy / "data.yaml").write_text(yaml.safe_dump({**settings, "groups": wrong}))
        with pytest.raises(DataError, match=r"data.yaml: groups: expected a regular expression"):
            study.read_plan(write(data=[str(copy / "data.yaml")]))


def test_whole_study(study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    host = Host(study)
    code, out, err = run(write(), host)
    assert (code, err) == (0, "")
    assert "cell 4 of 4: boards-k2-1 (from the start)" in out
    assert "4 of 4 done, about 0 min left" in out
    assert "boards, k2 against yolov8n, mAP50: no evidence of a difference (" in out
    rows = study.read_rows(tmp_path / "out" / "tiny.csv")
    assert [r["cell"] for r in rows] == ["boards-yolov8n-0", "boards-k2-0", "boards-yolov8n-1", "boards-k2-1"]
    assert {r["commit"] for r in rows} == {"c0ffee"}
    train = host.commands[2]
    assert {"model=dsmoe-n.yaml", "dsmoe_topk=2", "seed=0", "imgsz=64", "classes=[0,1]", "exist_ok=True"} <= set(train)
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert f"| boards | k2 | {rows[1]['mAP50']:.3f} (" in page
    assert (tmp_path / "out" / "tiny.png").read_bytes().startswith(b"\x89PNG")
    # Again: nothing is run, the page is the same.
    host = Host(study)
    assert run(write(), host)[0] == 0
    assert host.commands == []
    assert (tmp_path / "out" / "tiny.md").read_text() == page
    assert len(study.read_rows(tmp_path / "out" / "tiny.csv")) == 4


def test_cells_of_another_study(
    study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """What was run with equal settings is not run again; another setting is another run."""
    run(write())
    host = Host(study)
    models = ["yolov8n", {"name": "again", "model": "dsmoe-n", "overrides": {"dsmoe_topk": 2}}, "yolo11n"]
    code, out, _ = run(write(name="other", models=models, seeds=[0]), host)
    assert code == 0
    assert "cell 2 of 3: boards-again-0 (as tiny/boards-k2-0)" in out
    assert [next(w for w in c if w.startswith("model=")) for c in host.commands[::2]] == ["model=yolo11n.yaml"]
    first, second = (study.read_rows(tmp_path / "out" / f"{name}.csv")[1] for name in ("tiny", "other"))
    mine = {"study", "cell", "model"}
    assert {k: v for k, v in first.items() if k not in mine} == {k: v for k, v in second.items() if k not in mine}
    # Without its matches a cell is of no use to another study.
    (tmp_path / "runs" / "tiny" / "boards-k2-0" / "matches.npz").unlink()
    shutil.rmtree(tmp_path / "runs" / "other")
    host = Host(study)
    assert run(write(name="third", models=models[1:2], seeds=[0]), host)[0] == 0
    assert len(host.commands) == 2


def test_knockouts(study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    """Means over the trainings, and how many need the part; nets with nothing to switch off have no column."""

    class Switching(Host):
        def validate(self, folder: Path) -> None:
            super().validate(folder)
            change, verdict = (-3.0, "earns its place") if folder.name.endswith("1") else (-0.5, "inert")
            own = [("hub-constant", change, verdict), ("control", 0.0, "control")] if "k2" in folder.name else []
            self.switched = [("as-trained", "", ""), *own]

    file = write(knockouts=True)
    host = Switching(study)
    assert run(file, host)[0] == 0
    assert all("--knockouts" in command for command in host.commands[1::2])
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "| data | knock-out | k2 |\n| --- | --- | ---: |\n" in page
    assert "\n| boards | hub-constant | -1.8 (-3.0 to -0.5), 1 of 2 |\n\n" in page
    # A cell whose knock-outs were cut off is looked at again, not trained again.
    (tmp_path / "runs" / "tiny" / "boards-k2-1" / "knockout.csv").unlink()
    table = tmp_path / "out" / "tiny.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    host = Switching(study)
    assert run(file, host)[0] == 0
    assert [Path(command[1]).name for command in host.commands] == ["study_cell.py"]
    assert (tmp_path / "out" / "tiny.md").read_text() == page
    # What is finished without them stays so, and is named.
    (tmp_path / "runs" / "tiny" / "boards-k2-1" / "knockout.csv").unlink()
    assert "without knock-outs: boards-k2-1 (to have them, delete its row)\n" in run(file)[1]
    assert "| -0.5 (-0.5 to -0.5), 0 of 1 |" in (tmp_path / "out" / "tiny.md").read_text()


def test_side_by_side(study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    """Two trainings are under way at once: each waits for the other to have begun."""
    import threading

    both = threading.Barrier(2, timeout=20)

    class Together(Host):
        def __call__(self, command: list[str], **kwargs: Any) -> Any:
            if command[1] == "train":
                both.wait()
            return super().__call__(command, **kwargs)

    assert run(write(), Together(study), "--jobs", "2")[0] == 0
    assert len(study.read_rows(tmp_path / "out" / "tiny.csv")) == 4


def test_stopped(
    study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """Ctrl-C ends what is running, begins nothing else, and leaves the rows that are there."""
    import threading

    stopped, added = threading.Event(), study.append_row

    class Lasting(Host):
        """Its second training lasts until it is ended."""

        def __call__(self, command: list[str], **kwargs: Any) -> Any:
            child = super().__call__(command, **kwargs)
            if "seed=0" in command and "model=dsmoe-n.yaml" in command:
                child.wait = lambda: -15 if stopped.wait(20) else 0
                child.terminate = stopped.set
            return child

    def add_and_stop(file: Path, row: dict[str, Any]) -> None:
        added(file, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "append_row", add_and_stop)
    host = Lasting(study)
    code, _, err = run(write(), host)
    assert (code, err) == (130, "study: stopped; the same command goes on from here\n")
    assert len(study.read_rows(tmp_path / "out" / "tiny.csv")) == 1
    assert not any("seed=1" in command for command in host.commands[3:])
    assert stopped.is_set() or len(host.commands) == 2


def test_failed_cell_goes_on(
    study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """A training that dies takes no other with it, and goes on from its checkpoint the next time."""
    file = write(seeds=[0])
    code, out, err = run(file, Host(study, fail="model=yolov8n.yaml", leave=1))
    assert code == 1
    assert "boards-yolov8n-0 failed: RuntimeError: out of memory (exit 1, all of it in " in out
    assert "1 of 2 cells failed; the same command tries again" in err
    assert "unfinished: 1 of 2 runs are missing" in (tmp_path / "out" / "tiny.md").read_text()
    host = Host(study)
    assert run(file, host)[0] == 0
    train, validate = host.commands
    last = tmp_path / "runs" / "tiny" / "boards-yolov8n-0" / "train" / "weights" / "last.pt"
    assert f"model={last}" in train
    assert "resume=True" in train
    assert validate[1].endswith("study_cell.py")


def test_stages(study: ModuleType, plan: Any, tmp_path: Path) -> None:
    """A checkpoint that was cut off while it was written is no start; a finished one needs no training."""
    made = study.Study(plan, tmp_path, tmp_path)
    cell = plan.cells()[0]
    last = tmp_path / "tiny" / cell.name / "train" / "weights" / "last.pt"
    assert made.stage(cell) == "new"
    last.parent.mkdir(parents=True)
    torch.save({"epoch": 1}, last)
    assert made.stage(cell) == "begun"
    last.write_bytes(last.read_bytes()[:200])
    assert made.stage(cell) == "new"
    torch.save({"epoch": -1}, last)
    assert made.stage(cell) == "trained"
    (tmp_path / "tiny" / cell.name / "result.json").write_text("{}")
    assert made.stage(cell) == "trained"
    (tmp_path / "tiny" / cell.name / "matches.npz").touch()
    assert made.stage(cell) == "validated"
    with pytest.raises(study.CellError, match="its files are damaged"):
        made._run_cell(cell, "")


@pytest.mark.parametrize(("version", "name"), [("2.3.1+cu121", "dsmoe-yolo"), ("2.15.0", "yolo")])
def test_yolo_of_this_environment(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, name: str
) -> None:
    monkeypatch.setattr(study.importlib.metadata, "version", lambda package: version)
    monkeypatch.setattr(study.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    study.yolo_command.cache_clear()
    with pytest.raises(ConfigError, match=rf"^{name}: expected the console script of that name, in {tmp_path} or on"):
        study.yolo_command()
    (tmp_path / name).touch(mode=0o755)
    assert study.yolo_command() == str(tmp_path / name)
    study.yolo_command.cache_clear()


def test_dry_run(study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    host = Host(study)
    code, out, _ = run(write(), host, "--dry-run")
    assert (code, host.commands) == (0, [])
    assert out.splitlines()[0] == "boards-yolov8n-0: new"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_changed_settings(
    study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Named with what changed where the cell's folder is there, by the hash alone where only the row is."""
    run(write())
    host = Host(study)
    code, _, err = run(write(epochs=5), host)
    assert (code, host.commands, len(err.splitlines())) == (1, [], 1)
    assert "study: cell boards-yolov8n-0: expected the settings it was run with" in err
    assert err.endswith("got epochs 3 -> 5\n")
    shutil.rmtree(tmp_path / "runs")
    assert "got settings_hash " in run(write(epochs=5))[2]


def test_changed_model_file(
    study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """A model YAML is part of the settings by what it says; the host is not told its hash."""
    from ultralytics.utils import ROOT

    own = Path(shutil.copy(next(ROOT.glob("cfg/models/v8/yolov8.yaml")), tmp_path / "mine.yaml"))
    host = Host(study)
    assert run(write(models=[str(own)]), host)[0] == 0
    assert f"model={own}" in host.commands[0]
    assert not any("hash" in word for word in host.commands[0])
    own.write_text(own.read_text() + "# no other net\n")
    assert run(write(models=[str(own)]))[0] == 0
    own.write_text(own.read_text().replace("nc: 80", "nc: 81"))
    assert "got model_hash " in run(write(models=[str(own)]))[2]


@pytest.mark.slow
def test_real_processes(write: Callable[..., Path], tmp_path: Path) -> None:
    """Trainings through the host's own command, a look at what they left, and nothing to do the second time."""
    edit = {"name": "edit", "model": "dsmoe-n", "rows": {"14 CBAM": [-1, 1, "nn.Identity", []]}, "text": "shuffled"}
    models = ["yolov8n", {"name": "zero", "model": "dsmoe-n", "text": "zero"}, edit]
    file = write(seeds=[0], epochs=1, overrides={"device": "cpu", "workers": 0}, models=models, knockouts=True)
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "study.py"
    places = ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    command = [sys.executable, str(script), str(file), *places]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    rows = (tmp_path / "out" / "tiny.csv").read_text().splitlines()
    assert [r.split(",")[1] for r in rows[1:]] == ["boards-yolov8n-0", "boards-zero-0", "boards-edit-0"]
    weights = tmp_path / "runs" / "tiny" / "boards-edit-0" / "train" / "weights" / "best.pt"
    net = torch.load(weights, weights_only=False)["model"]
    assert type(net.model[14]).__name__ == "Identity"
    assert net.text_info["prompts"][0] != net.text_info["prompts"][1]
    assert "| hub-constant | " in (tmp_path / "out" / "tiny.md").read_text()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.stdout.startswith("3 of 3 cells are finished already\n")


def test_damaged_row(study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    """An unfinished row is refused and, once deleted, written again from the cell's folder without a training."""
    run(write())
    table = tmp_path / "out" / "tiny.csv"
    whole = table.read_text()
    table.write_text(whole[:-30])
    host = Host(study)
    code, _, err = run(write(), host)
    assert (code, host.commands, len(err.splitlines())) == (1, [], 1)
    assert "tiny.csv, line 5: expected 20 fields and an end of line" in err
    table.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert run(write(), host)[0] == 0
    assert (table.read_text(), host.commands) == (whole, [])
    table.write_text(whole.replace(",64,", ",sixty,", 1))
    assert "line 2: expected a number as imgsz, got sixty" in run(write(), host)[2]
    table.write_text("a,b\n")
    assert "expected a first line with the columns study,cell" in run(write(), host)[2]
    table.write_text(whole + whole.splitlines(keepends=True)[-1])
    assert "expected one row per cell; delete all but one, got boards-k2-1 twice" in run(write(), host)[2]


def test_gone_matches(study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    """A finished cell whose matches were deleted is left out of the page and named."""
    run(write())
    (tmp_path / "runs" / "tiny" / "boards-k2-1" / "matches.npz").unlink()
    code, out, _ = run(write())
    assert code == 0
    assert out.endswith("left out: boards-k2-1, whose matches.npz is gone or damaged\n")
    (tmp_path / "runs" / "tiny" / "boards-k2-0" / "matches.npz").write_bytes(b"PK no archive")
    code, out, _ = run(write())
    assert (code, out.count("left out"), "against" in out) == (0, 2, False)
    shutil.rmtree(tmp_path / "runs")
    code, out, _ = run(write())
    assert (code, out.count("left out")) == (0, 4)


def test_two_at_once(study: ModuleType, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, err = run(write())
    assert code == 1
    assert err == f"study: {folder}: expected no other study at work there, got one, or a training that it left\n"


def test_full_disk(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that does not fit is not written at all."""
    table = sys.modules["study_table"]
    file, row = tmp_path / "t.csv", {**dict.fromkeys(table.COLUMNS, 1), "study": "s"}
    table.append_row(file, row)
    before, write = file.read_text(), table.os.write
    monkeypatch.setattr(table.os, "write", lambda handle, content: write(handle, content[:5]))
    with pytest.raises(OSError, match="no space left"):
        table.append_row(file, row)
    assert file.read_text() == before


def test_training_seconds(study: ModuleType, tmp_path: Path) -> None:
    """The host's clock starts anew when a training is resumed."""
    file = tmp_path / "results.csv"
    file.write_text("epoch, time\n1, 10\n2, 20\n3, 4\n4, 9.5\n")
    assert sys.modules["study_cell"].training_seconds(file) == pytest.approx(29.5)


def test_matches_survive_the_file(study: ModuleType, tmp_path: Path) -> None:
    cell, stats = sys.modules["study_cell"], fake_stats(0)
    stats.tp[2], stats.conf[2], stats.pred_cls[2] = np.zeros((0, 10), bool), np.zeros(0), np.zeros(0)
    np.savez(tmp_path / "m.npz", **cell.pack(stats))
    back = cell.unpack(tmp_path / "m.npz")
    np.testing.assert_allclose(mean_ap(back), mean_ap(stats), rtol=1e-6)
    assert [len(c) for c in back.conf] == [4, 4, 0, 4, 4, 4]
    assert back.files == stats.files


def test_kept_matches_give_the_hosts_map(
    study: ModuleType, boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's validator on a net that half knows the labels: mAP from the kept matches is the host's to 1e-3."""
    from ultralytics import YOLO

    cell = sys.modules["study_cell"]
    rng = np.random.default_rng(0)

    class Knowing(cell.Collector):
        """Replaces what the net finds by most of the labels, a little beside their places, and some nonsense."""

        def preprocess(self, batch: Any) -> Any:
            self.batch = super().preprocess(batch)
            return self.batch

        def postprocess(self, preds: Any) -> Any:
            found = []
            for i in range(len(self.batch["img"])):
                boxes = self._prepare_batch(i, self.batch)
                kept = torch.from_numpy(rng.random(len(boxes["cls"])) < 0.7)
                xyxy = boxes["bboxes" if "bboxes" in boxes else "bbox"][kept]
                shift = torch.from_numpy(rng.normal(0, 1.2, xyxy.shape)).float()
                cls = boxes["cls"][kept].float()
                cls = torch.where(torch.from_numpy(rng.random(len(cls)) < 0.2), (cls + 1) % 6, cls)
                found.append({"bboxes": xyxy + shift, "conf": torch.from_numpy(rng.random(len(cls))).float(),
                              "cls": cls, "extra": torch.zeros(len(cls), 0)})  # fmt: skip
            return found

    monkeypatch.setattr(cell, "Collector", Knowing)
    model = YOLO("yolov8n.yaml")
    model.model.names = dict(enumerate("abcdef"))
    model.save(tmp_path / "best.pt")
    stats, result = cell.validate(tmp_path / "best.pt", {"data": str(boards), "imgsz": 96, "batch": 4, "workers": 0,
                                                         "device": "cpu"})  # fmt: skip
    np.savez(tmp_path / "m.npz", **cell.pack(stats))
    own = mean_ap(cell.unpack(tmp_path / "m.npz"))
    assert own == pytest.approx([result["mAP50"], result["mAP50-95"]], abs=1e-3)
    assert 0.1 < result["mAP50-95"] < result["mAP50"] < 0.9
    assert len(stats.files) == IMAGES
    assert np.mean(list(result["per_class_AP"].values())) == pytest.approx(result["mAP50-95"])
