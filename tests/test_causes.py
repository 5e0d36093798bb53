"""Which exceptions a user has caused, told without a list of messages."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ultralytics.cfg import get_cfg
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import ops

from ultra_dsmoe import causes
from ultra_dsmoe.errors import ConfigError, DataError, WeightsError


def caught(call: Callable[[], Any]) -> Exception:
    """Return what a call raises."""
    with pytest.raises(Exception) as e:  # noqa: PT011  # of any kind
        call()
    return e.value


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "a disk with room"),
        (errno.EROFS, "this user may read and write"),
        (errno.EACCES, "this user may read and write"),
        (errno.ENOTDIR, "a folder"),
        (errno.EEXIST, "a folder"),
        (errno.ENOENT, "an existing file"),
    ],
)
def test_a_disk_that_refuses(number: int, expected: str) -> None:
    found = causes.cause(OSError(number, "what it says", "place"))
    assert isinstance(found, ConfigError)
    assert str(found).startswith("place: expected ")
    assert expected in str(found)
    assert str(found).endswith(", got what it says")


def test_other_errors_of_the_system_are_faults() -> None:
    assert causes.cause(OSError(errno.EBADF, "bad file descriptor")) is None


def test_what_the_host_reads_and_what_it_says_on_purpose(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: a\nval: [5]\nnames: [a]\n")
    by_accident = causes.cause(caught(lambda: check_det_dataset(str(tmp_path / "data.yaml"))))
    assert isinstance(by_accident, DataError)
    assert by_accident.argument == "data"
    assert str(by_accident.got).startswith("TypeError: unsupported operand")
    said = causes.cause(caught(lambda: get_cfg(overrides={"epochs": "x"})))
    assert isinstance(said, ConfigError)
    assert said.argument == "epochs"
    assert str(said.got).startswith("'epochs=x' is of invalid type")


def test_faults_of_programs_keep_their_traceback() -> None:
    assert causes.cause(caught(lambda: {}["x"])) is None
    assert causes.cause(caught(lambda: ops.xyxy2xywh(5))) is None, "an expression of the host's that failed"
    assert causes.cause(caught(lambda: causes._module(5))) is None  # type: ignore[arg-type]  # the fault is ours


def test_our_own_fault_within_a_reader_is_none_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ultralytics.data import utils

    monkeypatch.setattr(utils, "check_file", lambda file: causes._module(5))  # type: ignore[arg-type]
    assert causes.cause(caught(lambda: check_det_dataset("data.yaml"))) is None


def test_our_mathematics_is_no_users_business() -> None:
    """The host raises on purpose, but within a block of ours."""
    scope: dict[str, Any] = {"__name__": "ultra_dsmoe.nn.block"}
    exec("def forward(call): return call()", scope)  # a frame of such a module
    error = caught(lambda: scope["forward"](lambda: get_cfg(overrides={"epochs": "x"})))
    assert causes.cause(error) is None


def test_a_library_that_is_missing() -> None:
    found = causes.cause(ModuleNotFoundError("No module named 'coremltools'", name="coremltools.models"))
    assert str(found).startswith("coremltools: expected an installed package")
    assert causes.cause(ModuleNotFoundError("No module named 'ultra_dsmoe.foo'", name="ultra_dsmoe.foo")) is None


def test_reading_names_what_was_read() -> None:
    message = r"^model: expected a checkpoint, got a.pt \(EOFError: no more\)$"
    with (
        pytest.raises(WeightsError, match=message),
        causes.reading("model", "a checkpoint", WeightsError, "a.pt"),
    ):
        raise EOFError("no\n  more")
    ours = DataError("data", "images", "none")
    with pytest.raises(DataError) as e, causes.reading("data", "a set"):
        raise ours
    assert e.value is ours
    with pytest.raises(AttributeError), causes.reading("data", "a set"):
        causes._module(5)  # type: ignore[arg-type]  # a fault of ours stays one


def test_long_messages_are_cut_and_pages_of_help_left_out() -> None:
    with pytest.raises(DataError) as e, causes.reading("data", "a set"):
        raise ValueError("x" * 1000)
    assert len(str(e.value)) < causes.MOST + 100
    with pytest.raises(DataError) as e, causes.reading("data", "a set"):
        raise ValueError("\x1b[31mred\x1b[0m\n\n    Arguments received: ['yolo']. A page of help")
    assert e.value.got == "red"


@pytest.mark.parametrize(("value", "is_line"), [("", True), ("0", True), ("1", False)])
def test_the_whole_traceback_on_demand(
    value: str, is_line: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(causes.TRACEBACK, value)
    with pytest.raises(SystemExit if is_line else DataError), causes.one_line_errors():
        raise DataError("data", "images", "none")
    assert capsys.readouterr().err == ("error: data: expected images, got none\n" if is_line else "")
