"""``dsmoe-yolo edge``: exit codes and lines of lint and check."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from ultra_dsmoe import cli
from ultra_dsmoe.commands import run
from ultra_dsmoe.edge import preflight
from ultra_dsmoe.edge.preflight import Report
from ultra_dsmoe.errors import ConfigError


def save(path: Path, operator: str, *, batch: int | str = 1, opset: int = 17) -> str:
    """Save a graph of one node with a computed weight, and one more node."""
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2, 8, 8]),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2, 1, 1]),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="first"),
        helper.make_node(operator, ["h"], ["y"], name="second"),
    ]
    kind = TensorProto.INT64 if operator == "NonZero" else TensorProto.FLOAT
    out = helper.make_tensor_value_info("y", kind, ["a", "b", "c", "d"] if operator == "Relu" else ["a", "b"])
    model = helper.make_model(
        helper.make_graph(nodes, "test", infos, [out]), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 8
    onnx.save(model, path)
    return str(path)


def test_lint_of_a_sound_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["edge", "lint", save(tmp_path / "a.onnx", "Relu")]) == 0
    note, last = capsys.readouterr().out.splitlines()
    assert note.startswith("untried: first (Conv): weights are computed in the graph")
    assert last == "a.onnx: 2 nodes, opset 17: no fault for TensorRT 8.6"


def test_lint_of_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["edge", "lint", save(tmp_path / "a.onnx", "Det", batch="n", opset=18)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("misread: test (graph): opset 18")
    assert lines[1].startswith("refused: x (input): open size of axis 0")
    assert lines[3].startswith("refused: second (Det): not an operator of TensorRT 8.6; ")
    assert lines[4] == "a.onnx: 2 nodes, opset 18: 3 faults for TensorRT 8.6"


def test_open_axes_may_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.onnx", "Relu", batch="n")
    assert run(["edge", "lint", file]) == 1
    assert "1 fault for" in capsys.readouterr().out
    assert run(["edge", "lint", file, "--dynamic"]) == 0


def test_without_onnx_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return stock(name, *args, **kwargs)

    for name in ("lint", "lint_rules", "lint_view"):
        monkeypatch.delitem(sys.modules, f"ultra_dsmoe.edge.{name}", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"onnx: expected the package: pip install 'ultra-dsmoe\[edge\]', got none"):
        run(["edge", "lint", "any.onnx"])


def test_check_prints_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["edge", "check", "--gpu", "GTX 1080"]) == 0
    by_name = capsys.readouterr().out
    assert by_name.startswith("GTX 1080, SM 6.1\n")
    for row in ("python     3.10 or 3.11", "torch      2.3.1", "tensorrt   8.6.1", "opset      17", "driver     525"):
        assert f"\n  {row}" in by_name
    assert "cuda       12.1" in by_name
    assert "mode       dsmoe_moe=static" in by_name
    assert "precision  fp32 or int8; half precision" in by_name
    assert "[NVIDIA/TensorRT#3589" in by_name
    assert "pip install tensorrt==8.6.1" in by_name
    assert "yolo export model=best.pt data=DATA.yaml format=onnx opset=17 dsmoe_moe=static\n" in by_name
    assert "not from a run on such a card" in by_name
    assert by_name.endswith("nothing speaks against it\n")
    assert run(["edge", "check", "--sm", "6.1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == by_name.splitlines()[1:]


def test_check_refuses_what_cannot_work(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--python", "3.12", "--torch", "2.15.0", "--tensorrt", "10.9", "--driver", "590"]
    assert run(["edge", "check", "--sm", "6.1", *options, "--precision", "fp16", "--opset", "18"]) == 1
    out = capsys.readouterr().out
    refused = [line for line in out.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 6
    assert "nothing speaks against it" not in out


def test_check_of_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    box = Report(gpu="Some Card", sm=(6, 1), python="3.11.2", torch="2.3.1+cu121", cuda="12.1", arches=("sm_60",))
    monkeypatch.setattr(preflight, "machine", lambda: box)
    assert run(["edge", "check"]) == 0
    assert capsys.readouterr().out.startswith("Some Card, SM 6.1, python 3.11.2, torch 2.3.1+cu121\n")
    assert run(["edge", "check", "--torch", "2.15.0"]) == 1, "the installed torch's architectures excuse another one"
    assert run(["edge", "check", "--tensorrt", "10.3"]) == 1
    assert run(["edge", "check", "--precision", "int8", "--mode", "gather"]) == 0
    assert "caution: int8 with mode gather" in capsys.readouterr().out


def test_check_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(preflight, "machine", lambda: Report(python="3.11.2", torch="2.15.0"))
    assert run(["edge", "check"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no NVIDIA GPU, python 3.11.2, torch 2.15.0\n")
    assert "dsmoe-yolo edge check gpu=NAME" in out
    assert "yolo export format=onnx opset=17" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lint", "none.onnx"], r"ONNX file: expected an existing file, got none\.onnx"),
        (["check", "--gpu", "GTX 1081"], r"gpu: expected .*did you mean 'gtx 1080'\?.* got GTX 1081"),
        (["fix"], "edge: expected lint, check, quantize, build, got fix"),
        (["check", "--gpu", "x", "--sm", "6.1"], "sm: expected either gpu= or sm=, got gpu=x sm=6.1"),
        (["check", "--opset", "x"], "opset: expected a positive integer, got x"),
        (["check", "--mode", "gathr"], r"mode: expected one of .*did you mean 'gather'\?"),
        (["check", "--sm", "61"], r"sm: expected a compute capability such as 6\.1, got 61"),
        (["check", "--sm", "6.1", "--torch", "new"], r"torch: expected a version such as 8\.6\.1, got new"),
    ],
)
def test_faults_are_user_errors(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(["edge", *argv])


def test_script_passes_the_exit_code_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for operator, code in (("Relu", 0), ("NonZero", 1)):
        file = save(tmp_path / f"{operator}.onnx", operator)
        monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", "edge", "lint", file])
        assert cli.main() == code


def test_script_prints_one_line_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", "edge", "lint", "none.onnx"])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == "error: ONNX file: expected an existing file, got none.onnx\n"
