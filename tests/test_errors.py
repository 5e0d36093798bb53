"""User errors: one line each, whole after a worker process, with a hint where a known name is near."""

from __future__ import annotations

import pickle

import pytest

from ultra_dsmoe.errors import ConfigError, did_you_mean, nearest

OPTIONS = ("attention", "mimic", "host")


def test_message_is_one_line_and_shows_text_as_it_is() -> None:
    assert str(ConfigError("batch", "a whole\nnumber", "two")) == "batch: expected a whole number, got two"
    assert str(ConfigError("batch", "a whole number", None)) == "batch: expected a whole number, got None"


def test_error_survives_pickling() -> None:
    error = ConfigError("batch", "a whole number", 0.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ConfigError
    assert (copy.argument, copy.expected, copy.got) == ("batch", "a whole number", 0.5)
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("name", "near"), [("atention", "attention"), ("hosts", "host"), ("mimic", "mimic"), ("xyz", None), ("", None)]
)
def test_nearest_option(name: str, near: str | None) -> None:
    assert nearest(name, iter(OPTIONS)) == near
    assert did_you_mean(name, OPTIONS) == (f" (did you mean '{near}'?)" if near else "")


def test_hint_for_a_name_that_is_no_text() -> None:
    assert did_you_mean(12, ("123", "x")) == " (did you mean '123'?)"
