"""Name the nearest of the accepted names in an error."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest option, or nothing where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(options), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
