"""Texts by rule: measured quantities of the picture and recorded numbers, put into graded words. No weights.

The words say how an image compares with the training half, never what class it might be. Elongated is said only beyond
what chance does: the log of the variance ratio of N hits has the standard error 2 / sqrt(N).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text.providers import wording
from ultra_dsmoe.text.providers.base import Record
from ultra_dsmoe.text.providers.grades import Grades
from ultra_dsmoe.text.providers.measures import measure
from ultra_dsmoe.text.providers.quantities import SIDED, quantities

OFFSETS = ("offset_x", "offset_y")  # of a picture's foreground, graded by their distance from 0
UNSAID = ("points", "grain", "stretch", "tilt")  # numbers that other phrases use


class Rules:
    """Texts from measures and records, with bounds from the images given to `fit`.

    Args:
        picture: What is usual of the measures of pictures.
        record: What is usual of the quantities of records; of nothing where there were none.
    """

    def __init__(self, picture: Grades | None = None, record: Grades | None = None) -> None:
        self.picture, self.record = picture, record

    @property
    def id(self) -> str:
        """Return ``rules``."""
        return "rules"

    def prepare(self) -> None:
        """Need nothing."""

    def fit(self, images: Iterable[np.ndarray], records: Sequence[Record | None]) -> None:
        """Learn bounds from the training half.

        Args:
            images: RGB uint8 images.
            records: The record of each image, or None.

        Raises:
            TextError: If there is no image.
        """
        measured = [measure(image) for image in images]
        if not measured:
            raise TextError("rules", "at least one image to learn from", "none")
        self.picture = Grades.of(measured, OFFSETS)
        self.record = Grades.of([quantities(record) for record in records if record is not None], SIDED)

    def describe(self, text: str, image: np.ndarray, record: Record | None) -> str:
        """Return one text of an image.

        Args:
            text: ``vlm`` or ``llm``.
            image: RGB uint8 [H, W, 3].
            record: Its record. Without one, or where the training half had none, ``llm`` tells the measured numbers.

        Raises:
            TextError: If `fit` has not been called.
            DataError: If the record has none of the quantities that those of the training half had.
        """
        if self.picture is None or self.record is None:
            raise TextError("rules", "bounds of a training half, by fit(images)", "none")
        if text == "vlm":
            return _of_picture(measure(image), self.picture)
        if record is None or not self.record.bounds:
            return _of_numbers("Measured", measure(image), self.picture, OFFSETS, wording.MEASURED)
        found = quantities(record)
        if not found.keys() & self.record.bounds.keys():
            raise DataError("record", f"some of {', '.join(self.record.bounds)}", ", ".join(found) or "none")
        return _of_numbers("Recorded", found, self.record, SIDED, wording.RECORD)

    def state(self) -> dict[str, Any]:
        """Return the bounds, JSON-like; none before `fit`."""
        if self.picture is None or self.record is None:
            return {"wording": wording.WORDING}
        return {"wording": wording.WORDING, "picture": self.picture.state(), "record": self.record.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Rules:
        """Rebuild from `state`.

        Raises:
            TextError: If it is something else, or of other words.
        """
        if state.get("wording") != wording.WORDING:
            raise TextError("rules", f"the wording {wording.WORDING} that is known here", state.get("wording"))
        if "picture" not in state:
            return cls()
        return cls(Grades.from_state(state["picture"]), Grades.from_state(state.get("record", {})))


def _of_picture(found: Mapping[str, float], grades: Grades) -> str:
    """Return the text of a picture: no numbers, as one who looks would say it."""
    if "parts" not in found:
        return _sentences([["Nothing stands out from the ground"], _words(found, grades, wording.SENTENCES[2]),
                           _words(found, grades, wording.SENTENCES[3])])  # fmt: skip
    groups = [_words(found, grades, names) for names in wording.SENTENCES]
    place = _place(found, grades, OFFSETS)
    shape = elongation(found["stretch"], found["tilt"], found["points"])
    if found["coherence"] > 0 and "coherence" in grades:
        axis = wording.AXES[round(found["grain"] / 45) % 4]
        groups[3].append(f"running {axis}")
    return _sentences([groups[0], [*([f"centre of mass {place}"] if place else []), shape], *groups[1:]])


def _of_numbers(
    how: str, found: Mapping[str, float], grades: Grades, sided: Sequence[str], words: Mapping[str, wording.Words]
) -> str:
    """Return the text of numbers: each by its name, rounded, with a graded word."""
    told = []
    if place := _place(found, grades, sided):
        told.append(f"{', '.join(_number(found, grades, name) for name in sided if name in found)}: {place}")
    points = found.get("points", found.get("hits"))
    if points and "stretch" in found:
        told.append(elongation(found["stretch"], found.get("tilt", 0.0), points))
    for name in grades.bounds:
        if name in found and name not in (*sided, *UNSAID):
            word = words.get(name, wording.OTHER)[grades.grade(name, found[name])]
            told.append(f"{_number(found, grades, name)}: {word}")
    return f"{how}: {'; '.join(told)}." if told else f"{how}: nothing that differs."


def _number(found: Mapping[str, float], grades: Grades, name: str) -> str:
    """Return a number with its name, rounded where it varies."""
    spoken = name.replace("_", " ")
    return f"{spoken} {grades.rounded(name, found[name])}" if name in grades else spoken


def elongation(stretch: float, tilt: float, points: float) -> str:
    """Return in words whether points lie along an axis, and along which, beyond what chance does.

    Args:
        stretch: Log of their variance in x over that in y.
        tilt: 2 atanh of their correlation, y up.
        points: How many they are: either number has the standard error 2 / sqrt(points).
    """
    length = math.hypot(stretch, tilt) * math.sqrt(max(points, 1.0)) / 2
    sure = sum(length > chance for chance in wording.CHANCE)
    if not sure:
        return wording.STRETCHED[0]
    angle = math.degrees(math.atan2(tilt, stretch)) / 2 % 180
    return f"{wording.STRETCHED[sure]} {wording.AXES[round(angle / 45) % 4]}"


def _place(found: Mapping[str, float], grades: Grades, sided: Sequence[str]) -> str:
    """Return where a mean lies, as ``far right and barely below``."""
    said = []
    for name, (positive, negative) in zip(sided, wording.SIDES, strict=True):
        if name in found and name in grades:
            words = positive if found[name] >= 0 else negative
            said.append(words[grades.grade(name, abs(found[name]))])
    return " and ".join(said)


def _words(found: Mapping[str, float], grades: Grades, names: Iterable[str]) -> list[str]:
    """Return the graded words of those measures that vary."""
    return [
        wording.PICTURE[name][grades.grade(name, found[name])] for name in names if name in found and name in grades
    ]


def _sentences(groups: Iterable[Sequence[str]]) -> str:
    """Return groups of phrases as sentences."""
    said = [", ".join(group) for group in groups if group]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in said)
