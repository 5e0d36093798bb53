"""Load a model from this disk first and fetch it only where the user named it, with one clear line on failure."""

from __future__ import annotations

import contextlib
import pickle
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TypeVar

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text.prompts import first_line

REACH_SECONDS = 10  # how long to wait for the hub before saying that it cannot be reached
Loaded = TypeVar("Loaded")


def load_local_first(load: Callable[[bool], Loaded], name: str, local_only: bool) -> Loaded:
    """Call ``load(local_files_only)``: with True, and where that fails and it is allowed, with False.

    Args:
        load: Loads the model.
        name: The encoder's id, for the message.
        local_only: Never reach for the network.

    Raises:
        TextError: If the model is not on this disk and cannot be fetched.
    """
    failures = _failures()
    try:  # a model on this disk is loaded without a word to the hub, also where it could be fetched
        with _no_progress_bar(), offline():
            return load(True)
    except failures as e:
        if local_only:
            raise TextError(f"text encoder {name}", "a complete model on this disk", first_line(e)) from e
    # The hub's client would retry for more than a minute before it says that there is no network.
    if not _hub_answers():
        raise TextError(f"text encoder {name}", "a model on this disk, or a network to fetch it", "neither")
    try:
        return load(False)
    except failures as e:
        raise TextError(f"text encoder {name}", "a model id that the hub serves", first_line(e)) from e


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keep the hub's client off the network: it has questions of its own even where only local files are wanted."""
    from huggingface_hub import constants, utils

    # Before 1.0 a session stays on or off the network as it was opened; later ones look at each request.
    reopen = getattr(utils, "reset_sessions", lambda: None)
    kept = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    reopen()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = kept
        reopen()


def _hub_answers() -> bool:
    """Tell whether the hub may be asked and can be reached; any answer counts, a refusal too."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=REACH_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as e:  # a certificate problem may be ours alone: let the hub's client try
        return not isinstance(e.reason, (socket.gaierror, TimeoutError, ConnectionError))
    except OSError:
        return False


def _failures() -> tuple[type[Exception], ...]:
    """Return what loading a model raises when its files do not serve.

    OSError: missing or unreadable files, no network; ValueError, KeyError, TypeError, AttributeError: a config that
    transformers cannot use; RuntimeError: weights of another shape; ImportError: a tokenizer that needs one more
    package; the other two: damaged weights.
    """
    from safetensors import SafetensorError

    plain = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)
    return (*plain, pickle.UnpicklingError, SafetensorError)


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hide transformers' bar over the weights of a model on disk; a download keeps its bar."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
