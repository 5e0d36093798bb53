"""The command line: one line and exit code 1 for user errors, all else untouched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import ultralytics.cfg

from ultra_dsmoe import cli
from ultra_dsmoe.causes import user_error
from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.parsing import Command
from ultra_dsmoe.plugin import host
from ultra_dsmoe.plugin.entry import names_ours, one_line_errors

Run = Callable[..., subprocess.CompletedProcess[str]]


def raised(error: Exception, cause: Exception | None = None, *, hidden: bool = False) -> Exception:
    """Return ``error`` as the host raises it over ``cause``."""
    try:
        try:
            if cause is not None:
                raise cause
        except Exception:
            if hidden:
                raise error from None
            raise error  # noqa: B904  # the implicit context is what is tested
        raise error
    except Exception as e:
        return e


def test_errors_are_found_behind_those_of_the_host() -> None:
    ours = DataError("data", "images", "none")
    assert user_error(ours) is ours
    assert user_error(raised(RuntimeError("Dataset error"), ours)) is ours
    assert user_error(raised(RuntimeError("Dataset error"), ours, hidden=True)) is None
    assert user_error(raised(RuntimeError("x"), KeyError("y"))) is None


def test_a_user_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise RuntimeError("wrapped") from ConfigError("key", "this", "that")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: key: expected this, got that\n"


@pytest.mark.parametrize(
    "error", [KeyError("x"), SyntaxError("'epochs' is missing"), KeyboardInterrupt(), SystemExit(3)]
)
def test_other_errors_pass_through(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)) as caught, one_line_errors():
        raise error
    assert caught.value is error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["train", "model=dsmoe-n.yaml"], ["train", "model=yolov8n.yaml", "dsmoe_kd=self"]])
def test_a_command_of_ours_that_is_stopped_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors(words):
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_stock_command_that_is_stopped_is_the_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), one_line_errors(["train", "model=yolov8n.yaml"]):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("yolo val model=dsmoe-n.yaml dsmoe_topk", "dsmoe_topk: expected a value, as in 'key=value', got none"),
        ("yolo val model=dsmoe-n.yaml dsmoe_topk=", "dsmoe_topk: expected a value, as in 'key=value', got none"),
        ("yolo val model=dsmoe-n.yaml dsmoe_topk=zero", "dsmoe_topk: expected an integer"),
        ("yolo val model=dsmoe-n.yaml dsmoe_topkk=3", "did you mean 'dsmoe_topk'"),
        ("yolo train model=yolo11n.yaml dsmoe_topk=3", "dsmoe_topk: expected a DS-MoE model"),
        ("yolo train model=dsmoe-n.yaml data=pcb-demo.yaml dsmoe_prompts=none.yaml", "expected an existing YAML file"),
        ("yolo train model=dsmoe-l.yaml data=pcb-demo.yaml", "one of ['n', 's', 'm'], got l"),
    ],
)
def test_commands(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        ultralytics.cfg.entrypoint(command)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 1
    assert error.startswith("error: ")
    assert message in error


def test_the_hosts_own_errors_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SyntaxError, match="epochz"):
        ultralytics.cfg.entrypoint("yolo train epochz=3")


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("train model=dsmoes.yaml data=my.yaml", True),
        ("train model=yolo11n.yaml data=some/pcb.yaml", True),
        ("predict model=best.pt dsmoe_topk=3", True),
        ("train model=yolo11n.yaml data=coco8.yaml epochs=3", False),
    ],
)
def test_what_needs_us_on_an_unknown_host_ends_with_one_line(
    words: str, ours: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "_problem", "ultralytics.nn.tasks.parse_model is missing")
    monkeypatch.setattr(sys, "argv", ["yolo", *words.split()])
    with pytest.raises(SystemExit if ours else FileNotFoundError), one_line_errors():
        raise FileNotFoundError("what the host says")
    expected = "ultralytics: expected a version that this ultra-dsmoe knows, got "
    found = f"{ultralytics.__version__}, ultralytics.nn.tasks.parse_model is missing"
    assert capsys.readouterr().err == (f"error: {expected}{found}\n" if ours else "")


@pytest.mark.parametrize("script", ["dsmoe-yolo", *(["yolo"] if torch.__version__ >= "2.5" else [])])
def test_both_scripts_end_with_one_line(run_yolo: Run, script: str) -> None:
    done = run_yolo("val", "model=dsmoe-n.yaml", "dsmoe_moe=sparse", script=script, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.strip().splitlines()[-1] == "error: dsmoe_moe: expected one of gather, static, dense, got sparse"


def test_our_script_is_the_hosts_command_line(run_yolo: Run) -> None:
    done = run_yolo("version", script="dsmoe-yolo")
    assert ultralytics.__version__ in done.stdout + done.stderr


def test_sub_commands_end_with_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def main(self: Command, argv: list[str]) -> int:
        raise DataError("data", "a folder", argv[0])

    monkeypatch.setattr(Command, "main", main)
    monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", "topk", "nowhere"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: data: expected a folder, got nowhere\n"


@pytest.mark.parametrize(
    ("content", "name", "is_ours"),
    [
        (b"PK data.pkl ultra_dsmoe.model.detector", "half.pt", True),
        (b"PK data.pkl ultralytics.nn.tasks", "half.pt", False),
        (b"", "empty.pt", True),
        (b"", "empty.yaml", False),
        (b"model: dsmoe-n.yaml\n", "args.yaml", True),
        (b"nc: 3\ndsmoe:\n  experts: 8\n", "mine.yaml", True),
        (b"backbone:\n  - [-1, 1, HubFusion, [64]]\n", "mine.yaml", True),
        (b"backbone:\n  - [-1, 1, Conv, [64]]\nnames: [DSA]\n", "mine.yaml", False),
        (b"head_class: DualAttentionDetect", "best.onnx", True),
        (b"model: yolo11n.yaml\n", "args.yaml", False),
    ],
)
def test_files_of_ours_are_known_by_what_is_in_them(content: bytes, name: str, is_ours: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert names_ours(["val", f"model={tmp_path / name}"]) is is_ours
    assert not names_ours(["val", f"model={tmp_path / 'missing.pt'}", "source=x" * 200])


def test_a_checkpoint_is_known_by_its_run(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "last.pt").write_bytes(b"nothing of ours")
    words = ["train", f"resume={tmp_path / 'weights' / 'last.pt'}"]
    assert not names_ours(words)
    (tmp_path / "args.yaml").write_text("model: smodel-n.yaml\n")
    assert names_ours(words)
