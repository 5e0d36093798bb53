"""Arguments of our commands in the host's dialect, ``key=value``, checked before any work.

``--key value`` and ``--key=value`` mean the same.
"""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ultra_dsmoe import checks
from ultra_dsmoe.deprecations import Former
from ultra_dsmoe.errors import ConfigError, did_you_mean

Check = Callable[[str, str], Any]

PROGRAM = "dsmoe-yolo"
WIDTH = 100  # of a help page, in characters
HELP = ("help", "-h", "--help")
NOTHING_TO_DO = 1  # exit code of a command without the words that it needs


def text(key: str, value: str) -> str:
    """Accept any text but an empty one."""
    if not value.strip():
        raise ConfigError(key, "a value, as in 'key=value'", "none")
    return value


def whole(low: int, high: float = math.inf) -> Check:
    """Return a check for whole numbers from ``low`` to ``high``."""
    return lambda key, value: checks.whole(key, _read(int, text(key, value)), low, high)


def number(low: float, high: float) -> Check:
    """Return a check for numbers from ``low`` to ``high``."""
    return lambda key, value: checks.number(key, _read(float, text(key, value)), low, high)


def positive(unit: str) -> Check:
    """Return a check for numbers above 0."""
    return lambda key, value: checks.positive(key, _read(float, text(key, value)), unit)


def _read(read: Callable[[str], float], given: str) -> float | str:
    """Return what ``read`` makes of a text; the text itself, which no check accepts, where it makes nothing of it."""
    try:
        return read(given)
    except ValueError:
        return given


def yes_no(key: str, value: str) -> bool:
    """Accept true or false in any case, as the host does."""
    return checks.flag(key, {"true": True, "false": False}.get(text(key, value).lower(), value))


def one_of(options: Iterable[str]) -> Check:
    """Return a check for one of some names."""
    names = list(options)
    return lambda key, value: checks.one_of(key, text(key, value), names)


def several_of(options: Iterable[str]) -> Check:
    """Return a check for names out of ``options``, separated by commas; gives them without repeats."""
    check = one_of(options)
    return lambda key, value: list(dict.fromkeys(check(key, name.strip()) for name in text(key, value).split(",")))


@dataclass(frozen=True)
class Option:
    """One key of a command.

    Attributes:
        check: Turns the text of the command line into a value.
        about: What it is, for the help.
        default: What holds where it is not given, for the help; nothing where the key must be given.
        flag: Whether ``--key`` alone means True.
        many: Whether it may be given several times; its value is then the list of all.
    """

    check: Check
    about: str
    default: str = ""
    flag: bool = False
    many: bool = False


class Given(dict[str, Any]):
    """Checked values of the keys that were given.

    Attributes:
        line: The command that gave them.
        more: Pairs of a command that takes others than its own.
    """

    def __init__(self, line: str = "") -> None:
        """Begin without a key."""
        super().__init__()
        self.line = line
        self.more: list[str] = []


@dataclass(frozen=True)
class Command:
    """One sub-command: what it takes, and what it does with that.

    Attributes:
        words: Its name, as in ``text lint``.
        about: Paragraph for the help.
        options: Its keys.
        run: Does the work; returns the exit code.
        bare: Keys whose values may stand without them, in this order, and what each must be. All of them are needed.
        more: What other ``key=value`` pairs mean, for the help; they are kept as they come. Empty where there are none.
        former: Keys that were renamed; what took their place is a key, or a key with its value.
        program: What is called.
    """

    words: str
    about: str
    options: Mapping[str, Option]
    run: Callable[[Given], int]
    bare: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    former: Mapping[str, Former] = field(default_factory=dict)
    program: str = PROGRAM

    def main(self, argv: list[str]) -> int:
        """Run the command.

        Args:
            argv: Words behind its name.

        Returns:
            The exit code.

        Raises:
            DSMoEError: On bad input, before anything is written.
        """
        if any(word in HELP for word in argv):
            print(self.usage())
            return 0
        if self.bare and not argv:  # the page says what is missing; a script must not take that for success
            print(self.usage(), file=sys.stderr)
            return NOTHING_TO_DO
        return self.run(self.parse(argv))

    def usage(self) -> str:
        """Return the help page."""
        names = " ".join(f"{key.upper()}{' ...' * self.options[key].many}" for key in self.bare)
        lines = [
            f"usage: {self.program} {self.words} {names} [key=value ...]".replace("  ", " "),
            "",
            textwrap.fill(" ".join(self.about.split()), WIDTH),
            "",
        ]
        shown = {key: f"{option.about}{option.default and f' (default: {option.default})'}"
                 for key, option in self.options.items()}  # fmt: skip
        width = max(map(len, shown), default=0)
        lines += [f"  {key:<{width}}  {text}" for key, text in shown.items()]
        lines += [f"  other keys: {self.more}"] if self.more else []
        return "\n".join(lines)

    def parse(self, argv: list[str]) -> Given:
        """Read ``best.pt key=value --key value --flag ...``.

        Raises:
            ConfigError: If a word is no known key with a proper value, or one that must be there is missing.
        """
        given = Given(" ".join([self.program, self.words, *argv]))
        left, words = list(self.bare), list(argv)
        while words:
            key, value = self._next(words, left)
            if key not in self.options:
                if self.more and value:
                    given.more.append(f"{key}={value}")
                    continue
                known = ", ".join(self.options)
                raise ConfigError(key, f"one of {known}{did_you_mean(key, self.options)}", "an unknown key")
            found = self.options[key].check(key, value)
            given[key] = [*given.get(key, []), found] if self.options[key].many else found
            if key in left:
                left.remove(key)
        if left:
            raise ConfigError(left[0], self.bare[left[0]], "none")
        return given

    def _next(self, words: list[str], left: list[str]) -> tuple[str, str]:
        """Take one key and its value from the front of ``words``; ``left`` are the bare keys still to come."""
        word = self._today(words.pop(0))
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            if equals:
                return key, value
            option = self.options.get(key)
            if option and option.flag and not (words and words[0].lower() in ("true", "false")):
                return key, "True"
            if option and not words:
                raise ConfigError(key, "a value, as in '--key value'", "none")
            return key, words.pop(0) if option else ""
        key, equals, value = word.partition("=")
        if equals:
            return key, value
        takes = [*left, *(key for key in self.bare if self.options[key].many)]
        if word in self.options or not takes:
            raise ConfigError(word, "a value, as in 'key=value'", "none")
        return takes[0], word

    def _today(self, word: str) -> str:
        """Return a word with the key of today in place of a former one, after a warning."""
        found = re.fullmatch(r"(--)?([\w-]+)(=.*)?", word, re.DOTALL)
        key = found[2].replace("-", "_") if found and (found[1] or found[3]) else ""
        if not found or key not in self.former:
            return word
        former = self.former[key]
        print(f"caution: {former.text(key)}", file=sys.stderr)
        return f"{found[1] or ''}{former.today}{found[3] or ''}"
