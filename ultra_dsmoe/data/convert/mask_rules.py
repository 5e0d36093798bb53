"""What the section ``masks`` of a data YAML says: which class a folder, a file's name or a pixel's value stands for.

    masks:
      kinds: {oil spot: oil_spot, e2: oil_spot, good: }  # folder, or what `name` finds -> class; nothing: good parts
      name: '(e[0-7])n[0-9]+$'                           # its first group, in an image's name, is a word of `kinds`
      values: {hole: 1, oil_spot: 2}                     # of mask pixels, or colours: '#ff0000'; black is background

All of it may be left out. Folders with a class's own name, and the folder ``good``, are known anyway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultra_dsmoe import checks
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.naming import plain
from ultra_dsmoe.errors import DataError, did_you_mean

SECTION = "masks"
KEYS = ("kinds", "name", "values")
GOOD = -1  # in place of a class: a part without defect
GOOD_WORD = "good"
COLOUR = re.compile("#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class MaskRules:
    """How classes are told.

    Attributes:
        names: The classes, in order.
        kinds: Class, or `GOOD`, of each known word.
        name: What finds such a word in an image's name.
        values: Class of each value of a mask's pixels; empty where the image's class is that of its whole mask.
        by_colour: Whether the values are colours.
    """

    names: tuple[str, ...]
    kinds: Mapping[str, int]
    name: re.Pattern[str] | None
    values: Mapping[int, int]
    by_colour: bool

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> MaskRules:
        """Read the rules of a data YAML.

        Raises:
            DSMoEError: If a key is unknown, or a value no class, pattern, number or colour.
        """
        names = tuple(packaged.class_names(data))
        section = _mapping(SECTION, data.get(SECTION))
        checks.known(SECTION, section, KEYS)
        kinds = {GOOD_WORD: GOOD, **{plain(name): i for i, name in enumerate(names)}}
        for word, name in _mapping(f"{SECTION}: kinds", section.get("kinds")).items():
            kinds[plain(str(word))] = GOOD if name is None else _index(f"{SECTION}: kinds", name, names)
        pattern = section.get("name")
        try:
            name = None if pattern is None else re.compile(pattern)
        except (re.error, TypeError) as error:
            raise DataError(f"{SECTION}: name", "a regular expression", pattern) from error
        if name and name.groups != 1:
            raise DataError(f"{SECTION}: name", "a regular expression with one group in parentheses", pattern)
        given = _mapping(f"{SECTION}: values", section.get("values"))
        by_colour = bool(given) and all(isinstance(value, str) for value in given.values())
        values = {_value(value, by_colour): _index(f"{SECTION}: values", kind, names) for kind, value in given.items()}
        if len(values) != len(given):
            raise DataError(f"{SECTION}: values", "another value for each class", list(given.values()))
        return cls(names, kinds, name, values, by_colour)

    def kind(self, files: Sequence[Path]) -> int | None:
        """Return the class that the places of an image and its mask tell, `GOOD`, or None where they tell none.

        Args:
            files: From the folder of the set on, the image first. Its name counts before folders, near ones first.
        """
        match = self.name.search(files[0].stem) if self.name else None
        words = [match[1]] if match and match[1] else []
        words += [part for file in files for part in reversed(file.parent.parts)]
        return next((self.kinds[plain(word)] for word in words if plain(word) in self.kinds), None)

    def unknown(self, source: Path, file: Path) -> DataError:
        """Return the error of an image whose place tells no class.

        Args:
            source: What to name in it.
            file: From the folder of the set on.
        """
        hints = [did_you_mean(plain(part), self.kinds) for part in reversed(file.parent.parts)]
        got = file.parent.as_posix() if file.parent.parts else "none"
        hint = next(filter(None, hints), "")
        return DataError(str(source), f"a folder out of {', '.join(self.kinds)}{hint}", got)


def _mapping(source: str, value: Any) -> Mapping[Any, Any]:
    """Return a mapping, an empty one for nothing."""
    if value is not None and not isinstance(value, Mapping):
        raise DataError(source, "a mapping", value)
    return value or {}


def _index(source: str, name: Any, names: Sequence[str]) -> int:
    """Return the number of a class."""
    return names.index(checks.one_of(source, str(name), names, DataError))


def _value(value: Any, by_colour: bool) -> int:
    """Return a value of a mask's pixels as a number."""
    if by_colour and COLOUR.fullmatch(value) and int(value[1:], 16):
        return int(value[1:], 16)
    if by_colour or not checks.is_whole(value, 1):
        raise DataError(f"{SECTION}: values", "numbers above 0, or colours such as '#ff0000' but black", value)
    return int(value)
