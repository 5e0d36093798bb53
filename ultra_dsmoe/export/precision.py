"""The precision that an export asks for, in any of the host's words: one reader for the gate and the engine builder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ultra_dsmoe.errors import ConfigError

# The host's words, for hosts that have ``half`` and ``int8`` only. The last two mix precisions.
_WORDS = {"8": 8, "16": 16, "32": 32, "int8": 8, "fp16": 16, "fp32": 32, "w8a8": 8, "w16a16": 16, "w32a32": 32,
          "w8a16": "w8a16", "w8a32": "w8a32"}  # fmt: skip
_OFF = {"none", "false", "0"}  # of the older flags, which command lines give as text


def scheme_of(kwargs: Mapping[str, Any]) -> int | str:
    """Return the host's canonical name of a precision: 8, 16, 32, or its name of a mixed one.

    Args:
        kwargs: The host's arguments. ``quantize`` wins over the older flags, and ``int8`` over ``half``.

    Raises:
        ConfigError: If ``quantize`` is none of the host's words.
    """
    if "quantize" not in kwargs:
        return 8 if _on(kwargs.get("int8")) else 16 if _on(kwargs.get("half")) else 32
    named = kwargs["quantize"]
    if named is None:
        return 32
    words = _host_words()
    scheme = words.get(str(named).lower())
    if scheme is None:
        raise ConfigError("quantize", f"one of {', '.join(words)}", named)
    return scheme


def bits_of(kwargs: Mapping[str, Any]) -> int:
    """Return the bits of an export's coarser operands, 32, 16 or 8: that is what its result can be held to."""
    scheme = scheme_of(kwargs)
    return scheme if isinstance(scheme, int) else 8  # w8a16, w8a32


def _on(flag: Any) -> bool:
    """Whether an older flag is set; a bare word on the command line is an empty text and counts as set."""
    return str(flag).strip().lower() not in _OFF


def _host_words() -> Mapping[str, int | str]:
    """Return the host's own table where it has one."""
    from ultralytics import cfg

    return getattr(cfg, "QUANTIZE_ALIASES", _WORDS)
