"""A model from this disk first; from the network only where allowed and where there is one; one line on failure."""

from __future__ import annotations

import email.message
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import model_hub
from ultra_dsmoe.text.model_hub import load_local_first


class Loader:
    """Loads where its answer is no exception; remembers how it was asked."""

    def __init__(self, on_disk: object, from_hub: object = "fetched") -> None:
        self.answers = {True: on_disk, False: from_hub}
        self.asked: list[bool] = []

    def __call__(self, local_only: bool) -> Any:
        self.asked.append(local_only)
        answer = self.answers[local_only]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hub, "_hub_answers", lambda: True)


@pytest.mark.parametrize("local_only", [True, False])
def test_what_is_on_disk_is_not_asked_for(local_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hub, "_hub_answers", lambda: pytest.fail("asked"))
    load = Loader("from disk")
    assert load_local_first(load, "sentence:x", local_only) == "from disk"
    assert load.asked == [True]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError])
def test_local_only_never_reaches_out(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hub, "_hub_answers", lambda: pytest.fail("asked"))
    load = Loader(error("no such file\nand more"))
    with pytest.raises(TextError, match=r"^text encoder causal-lm:x: expected a complete model on this disk, got "):
        load_local_first(load, "causal-lm:x", True)
    assert load.asked == [True]


@pytest.mark.usefixtures("network")
def test_a_named_model_is_fetched() -> None:
    load = Loader(OSError("not cached"))
    assert load_local_first(load, "sentence:x", False) == "fetched"
    assert load.asked == [True, False]


@pytest.mark.usefixtures("network")
def test_a_model_that_the_hub_does_not_serve() -> None:
    with pytest.raises(TextError, match=r"^text encoder sentence:x: expected a model id that the hub serves, got 404$"):
        load_local_first(Loader(OSError("a"), OSError("404\nsee there")), "sentence:x", False)


def test_no_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hub, "_hub_answers", lambda: False)
    load = Loader(OSError("not cached"))
    with pytest.raises(TextError, match=r"expected a model on this disk, or a network to fetch it, got neither$"):
        load_local_first(load, "sentence:x", False)
    assert load.asked == [True], "no second try that lasts minutes"


def test_other_errors_are_not_a_users() -> None:
    with pytest.raises(ZeroDivisionError):
        load_local_first(Loader(ZeroDivisionError()), "x", True)


def test_the_progress_bar_comes_back() -> None:
    from transformers.utils import logging as hf_logging

    shown: list[bool] = []
    before = hf_logging.is_progress_bar_enabled()
    try:
        for state, switch in ((True, hf_logging.enable_progress_bar), (False, hf_logging.disable_progress_bar)):
            switch()
            load_local_first(lambda _: shown.append(hf_logging.is_progress_bar_enabled()), "x", True)
            assert hf_logging.is_progress_bar_enabled() is state
    finally:
        (hf_logging.enable_progress_bar if before else hf_logging.disable_progress_bar)()
    assert shown == [False, False]


# Whether the hub answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reached"),
    [
        (None, True),
        (urllib.error.HTTPError("u", 403, "refused", email.message.Message(), None), True),
        (urllib.error.URLError(socket.gaierror("no such host")), False),
        (urllib.error.URLError(TimeoutError()), False),
        (urllib.error.URLError(ConnectionRefusedError()), False),
        (urllib.error.URLError(ssl.SSLError("own certificate")), True),
        (TimeoutError(), False),
    ],
)
def test_any_answer_counts(monkeypatch: pytest.MonkeyPatch, answer: Exception | None, reached: bool) -> None:
    from contextlib import nullcontext

    from huggingface_hub import constants

    asked: list[tuple[str, str, float]] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> Any:
        asked.append((request.full_url, request.get_method(), timeout))
        if answer is not None:
            raise answer
        return nullcontext()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert model_hub._hub_answers() is reached
    assert asked == [(constants.ENDPOINT, "HEAD", 10)]


def test_offline_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked"))
    assert model_hub._hub_answers() is False
