"""Activation: who starts the plugin, when, what it costs, and what it does in a host that it does not know."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from ultra_dsmoe.plugin import boot, host

# torch 2.3 and 2.4 start no plugin by themselves: there it is `dsmoe-yolo` or `import ultra_dsmoe`
autoload = pytest.mark.skipif(torch.__version__ < "2.5", reason="this torch starts no plugins")
ASK = "import sys; from ultralytics.utils import IterableSimpleNamespace as n; import ultralytics.cfg"
ON = "hasattr(n(), 'dsmoe_topk')"


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, check=False, timeout=300)


def answer(code: str, **env: str) -> str:
    done = python(code, **env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_entry_points_are_declared() -> None:
    (point,) = [p for p in entry_points(group="torch.backends") if p.name == "ultra_dsmoe"]
    assert point.value == "ultra_dsmoe:_torch_autoload"
    (script,) = [p for p in entry_points(group="console_scripts") if p.value == "ultra_dsmoe.cli:main"]
    assert script.name.endswith("yolo")  # else the host saves no pictures


@autoload
def test_torch_alone_starts_the_plugin() -> None:
    assert answer(f"{ASK}; print({ON}, 'ultra_dsmoe' in sys.modules)") == "True True"


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_off_switch(value: str) -> None:
    code = (
        f"{ASK}; from ultralytics.nn import tasks; print({ON}, tasks.parse_model.__module__,"
        " [f.__name__ for f in sys.meta_path if 'ultra_dsmoe' in getattr(f, '__module__', '')])"
    )
    assert (
        answer(code, ULTRA_DSMOE_DISABLE=value) == "False ultralytics.nn.tasks ['_Aliases']"
    )  # checkpoints still name our classes


def test_import_alone_starts_it_where_torch_does_not() -> None:
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert answer(f"{ASK}; print({ON})", **off) == "False"
    assert answer(f"import ultra_dsmoe; {ASK}; print({ON})", **off) == "True"


def test_late_import_changes_what_is_loaded() -> None:
    code = (
        "from ultralytics import YOLO; from ultralytics.engine import model; import ultra_dsmoe;"
        " from ultralytics.nn import tasks; from ultralytics.utils import checks; from ultralytics.data import utils;"
        " print(hasattr(tasks.parse_model, '__ultra_dsmoe__'), model.yaml_model_load is tasks.yaml_model_load,"
        " utils.check_file is checks.check_file, type(YOLO('dsmoe-n.yaml').model).__name__)"
    )
    assert answer(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0") == "True True True DSMoEModel"


@autoload
def test_torch_pays_for_the_hook_only() -> None:
    """Importing torch, or the host, loads neither our layers nor anything heavy for our sake."""
    code = (
        "import torch, sys; mine = sorted(m for m in sys.modules if m.startswith('ultra_dsmoe'));"
        " print(mine, 'ultralytics' in sys.modules)"
    )
    assert (
        answer(code) == "['ultra_dsmoe', 'ultra_dsmoe.aliases', 'ultra_dsmoe.plugin', 'ultra_dsmoe.plugin.boot'] False"
    )
    code = (
        "import ultralytics, sys; from ultralytics.utils import checks;"
        " early = {m for m in sys.modules if m.startswith('ultra_dsmoe.plugin.')}; from ultralytics import YOLO;"
        " late = {m for m in sys.modules if m.startswith('ultra_dsmoe.')};"
        " print([sorted(m.rpartition('.')[2] for m in s) for s in (early, late)])"
    )
    early, late = eval(answer(code))
    assert {*early, "stripping"} == {"boot", "host", "lookup", "stripping"}  # which some hosts load before their checks
    assert {"keys", "tasks", "verbs"} <= set(late)
    assert not {"parser", "layer_table", "safeload", "nn", "train", "text"} & set(late)  # for who builds or loads ours
    probe = "import sys; {}; print(sorted(m for m in sys.modules if not m.startswith('ultra_dsmoe.plugin')))"
    load = "from ultralytics import YOLO; YOLO('yolo11n.yaml')"
    ours = set(eval(answer(probe.format(load))))
    stock = set(eval(answer(probe.format(load), ULTRA_DSMOE_DISABLE="1")))
    # Of the standard library alone.
    light = {"errors", "checks", "constants", "files", "model", "model.settings", "runtime", "runtime.reference_entry"}
    assert ours - stock <= {f"ultra_dsmoe.{name}" for name in light}


def test_installing_twice_changes_nothing() -> None:
    from ultralytics.models.yolo.model import YOLO
    from ultralytics.nn import tasks
    from ultralytics.utils import checks

    def state() -> list[object]:
        return [checks.check_file, tasks.parse_model, YOLO.task_map, YOLO.val, YOLO.train, list(sys.meta_path)]

    before = state()
    boot.install()
    boot.install()
    assert state() == before


def test_replacing_reaches_modules_that_came_since_the_last_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def holder(name: str) -> types.ModuleType:
        module = types.ModuleType(f"ultralytics.{name}")
        module.first, module.second = "a", "b"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    monkeypatch.setattr(host, "_undo", [])
    owner, before = holder("owner"), holder("before")
    host.replace(owner, "first", "ours", everywhere=True)
    since = holder("since")
    host.replace(owner, "second", "ours", everywhere=True)
    assert [(m.first, m.second) for m in (owner, before, since)] == [("ours", "ours"), ("ours", "ours"), ("a", "ours")]


def test_no_module_of_the_host_holds_what_was_replaced() -> None:
    """Whatever imported a function by name, before or after its replacement, has ours."""
    code = (
        "import importlib, inspect, pkgutil, sys; from ultralytics import YOLO;"
        " [importlib.import_module(n) for n in ('ultralytics.engine.exporter', 'ultralytics.engine.tuner',"
        " 'ultralytics.data.utils', 'ultralytics.utils.benchmarks', 'ultralytics.utils.callbacks.base')];"
        " from ultra_dsmoe.plugin import boot, host;"
        " stock = {id(inspect.unwrap(v)) for t in boot.TARGETS for v in vars(sys.modules[t]).values()"
        " if inspect.isfunction(v) and host.is_marked(v)};"
        " print(len(stock), [(n, k) for n, m in list(sys.modules.items()) if n.startswith('ultralytics')"
        " for k, v in vars(m).items() if id(v) in stock])"
    )
    number, holders = answer(code).split(" ", 1)
    assert int(number) >= 6
    assert holders == "[]"


@pytest.mark.parametrize("name", host.FACTS)
def test_this_host_fits(name: str) -> None:
    assert host.misfit(name, importlib.import_module(name)) is None
    assert not host.refused()


def test_misfits_are_named() -> None:
    class Tasks:
        @staticmethod
        def parse_model(d: Any, channels: Any, verbose: bool = True) -> None: ...

    name = "ultralytics.nn.tasks"
    assert host.misfit(name, Tasks) == f"{name}.parse_model(d, channels, verbose) instead of (d, ch, verbose, ...)"
    assert host.misfit("ultralytics.utils.checks", Tasks) == "ultralytics.utils.checks.check_file is missing"


# What the warning must name -> the edit of the whole host that makes it one that we do not know.
UNKNOWN = {
    "ultralytics.utils.checks.check_file(path": (
        r"def check_file\(file, (.*)\):\n",
        r"def check_file(path, \1):\n    file = path\n",
    ),
    "ultralytics.cfg.check_cfg is missing": (r"\bcheck_cfg\b", "inspect_cfg"),
    "ultralytics.nn.tasks.guess_model_scale is missing": (r"\bguess_model_scale\b", "scale_of"),
    "ultralytics.models.yolo.model.YOLO.task_map is missing": (r"\btask_map\b", "tasks_of"),
}


@autoload
@pytest.mark.parametrize("symbol", UNKNOWN)
def test_unknown_host_gets_one_warning_and_stays_stock(symbol: str, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None and spec.origin is not None  # noqa: PT018
    copy = tmp_path / "ultralytics"
    shutil.copytree(Path(spec.origin).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    edits = 0
    for path in copy.rglob("*.py"):
        text, n = re.subn(*UNKNOWN[symbol], path.read_text(encoding="utf-8"))
        if n:
            path.write_text(text, encoding="utf-8")
            edits += n
    assert edits
    code = (
        "import torch; from ultralytics.nn.tasks import DetectionModel, parse_model; from ultralytics import YOLO;"
        " from ultralytics.utils import IterableSimpleNamespace as n;"
        " m = DetectionModel('yolo11n.yaml', verbose=False);"
        f" print(sum(p.numel() for p in m.parameters()), {ON}, parse_model.__module__)"
    )
    done = python(code, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == "2624080 False ultralytics.nn.tasks"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "ultra_dsmoe" in line]
    assert len(lines) == 1
    assert "ultra_dsmoe is off" in lines[0]
    assert symbol in lines[0]


def test_public_names_are_lazy() -> None:
    code = (
        "import sys, ultra_dsmoe; before = 'torch' in sys.modules; r = ultra_dsmoe.register;"
        " print(before, r.__module__, 'DSMoEModel' in dir(ultra_dsmoe), ultra_dsmoe.DSMoEModel.__module__)"
    )
    assert answer(code) == "False ultra_dsmoe.nn.registry True ultra_dsmoe.model.detector"
    assert "no attribute 'nonsense'" in python("import ultra_dsmoe; ultra_dsmoe.nonsense").stderr
