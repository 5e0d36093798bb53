"""Errors that a user can cause, each one line long: the argument, what was expected, what came."""

from __future__ import annotations

from collections.abc import Iterable


class DSMoEError(ValueError):
    """Base of all user errors of this package; the command line prints it as one line and exits with 1."""

    def __init__(self, argument: str, expected: str, got: object) -> None:
        """Build the one-line message.

        Args:
            argument: Name of the argument, key or file that is wrong.
            expected: What would have been accepted.
            got: What came; shown with ``repr`` unless it is text.
        """
        self.argument, self.expected, self.got = argument, expected, got
        shown = got if isinstance(got, str) else repr(got)
        super().__init__(f"{argument}: expected {expected}, got {shown}".replace("\n", " "))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the three parts, so that the error survives a worker process."""
        return type(self), (self.argument, self.expected, self.got)


class ConfigError(DSMoEError):
    """A wrong key or value in a YAML, on the command line or in a constructor."""


class ShapeError(DSMoEError):
    """A tensor of the wrong shape or size."""


class WeightsError(DSMoEError):
    """A weight file that does not fit, is damaged or comes from a newer version."""


class TextError(DSMoEError):
    """A prompt, taxonomy or text vector that cannot be used."""


class DataError(DSMoEError):
    """A data set that is missing, incomplete or malformed."""


class PlaceError(DSMoEError, OSError):
    """A place where nothing can be written, by the name under which the user knows it; an `OSError` too."""


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that is spelled nearest to ``name``, or None where none is near."""
    from difflib import get_close_matches  # late: every process that imports the host loads this module

    return next(iter(get_close_matches(name, list(options), n=1)), None)


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest option, or nothing where none is near."""
    near = nearest(str(name), options)
    return f" (did you mean '{near}'?)" if near else ""
