"""Folders of calls that could not begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ultra_dsmoe.plugin.leftovers import nothing_left
from ultra_dsmoe.plugin.verbs import _streamed

MODEL = SimpleNamespace(overrides={"task": "detect"})


def fail(verb: str, given: dict[str, Any], begin: Callable[[], None], error: type[BaseException] = KeyError) -> None:
    """Make a call that begins and ends with an error."""

    def call() -> None:
        with nothing_left(MODEL, verb, given):
            begin()
            raise error

    with pytest.raises(error):
        call()


@pytest.mark.parametrize("verb", ["val", "predict"])
def test_empty_folders_of_a_failed_call_go_again(verb: str, tmp_path: Path) -> None:
    given = {"project": str(tmp_path / "new" / "runs"), "name": "run"}
    fail(verb, given, lambda: (tmp_path / "new" / "runs" / "run").mkdir(parents=True))
    assert not list(tmp_path.iterdir())


def test_folders_of_a_failed_tracking_go_again(tmp_path: Path) -> None:
    """The host tracks by its method for predictions, and names the folder by the mode."""
    given = {"project": str(tmp_path / "runs"), "mode": "track", "source": "a.png", "stream": True}
    fail("predict", given, lambda: (tmp_path / "runs" / "track" / "labels").mkdir(parents=True))
    assert not list(tmp_path.iterdir())


def test_a_call_that_is_stopped_leaves_nothing_either(tmp_path: Path) -> None:
    given = {"project": str(tmp_path), "name": "run"}
    fail("val", given, (tmp_path / "run").mkdir, KeyboardInterrupt)
    assert not list(tmp_path.iterdir())


def test_a_stream_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def results() -> Iterator[int]:
        (tmp_path / "run").mkdir()
        yield 1
        raise KeyError("x")

    cleared = nothing_left(MODEL, "predict", {"project": str(tmp_path), "name": "run"})
    stream = _streamed(MODEL, None, {}, lambda: [], cleared, results())
    assert next(stream) == 1
    with pytest.raises(KeyError):
        next(stream)
    assert not list(tmp_path.iterdir())


def test_what_was_there_or_holds_something_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    given = {"project": str(tmp_path / "runs"), "name": "run"}

    def save() -> None:
        (tmp_path / "runs" / "run").mkdir()
        (tmp_path / "runs" / "run" / "a.jpg").touch()

    fail("predict", given, save)
    assert (tmp_path / "runs" / "run" / "a.jpg").exists()
    fail("val", {**given, "name": "empty"}, lambda: None)
    assert (tmp_path / "runs").is_dir()


def test_a_call_that_goes_well_keeps_its_folder(tmp_path: Path) -> None:
    with nothing_left(MODEL, "val", {"project": str(tmp_path), "name": "run"}):
        (tmp_path / "run").mkdir()
    assert (tmp_path / "run").is_dir()


def test_arguments_that_the_host_refuses_are_left_to_it() -> None:
    fail("val", {"imgsz": "x"}, lambda: None)
