"""Which known-good picture belongs to an image: by folder, by pattern, by a CSV, or one for all."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data.packaged import command_for_references
from ultra_dsmoe.data.reference.spec import GROUP, ReferenceSpec
from ultra_dsmoe.errors import DataError

SHOWN = 3  # names in an error
COLUMNS = ("image", "reference")
DELIMITERS = ",;\t"
SPLIT_OF = {**{split: split for split in SPLITS}, "valid": "val"}  # folders that are named for a split


class Place(Protocol):
    """Where known-good pictures are."""

    def find(self, image: Path) -> Path | None:
        """Return the picture of an image, None where it has none."""

    def check(self, images: Sequence[Path]) -> None:
        """Refuse what is wrong with the place itself, or in it about these images."""


def place_of(spec: ReferenceSpec) -> Place | None:
    """Return the place that a spec names, None for an array."""
    if spec.folder is not None:
        return Folder(spec.argument, spec.folder)
    if spec.csv is not None:
        return Table(spec.argument, spec.csv, spec.root)
    if spec.pattern is not None and spec.file is not None:
        return Pattern(spec.argument, spec.pattern, str(spec.file))
    return None if spec.file is None else OneFile(spec.argument, spec.file)


def named(files: Iterable[object]) -> str:
    """Return the first names of several."""
    names = [str(file) for file in files]
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


class Folder:
    """Pictures with the images' names, whatever their endings, in sub-folders that mirror those of the images."""

    def __init__(self, argument: str, folder: Path) -> None:
        """Remember the folder."""
        self.argument, self.folder = argument, folder

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        """Pictures by name without ending."""
        from ultralytics.data.utils import IMG_FORMATS

        if not self.folder.is_dir():
            how = command_for_references(self.folder)
            expected = "a folder with known-good pictures" + (f"; get them with: {how}" if how else "")
            got = f"{self.folder}, {'which is none' if self.folder.exists() else 'no such folder'}"
            raise DataError(self.argument, expected, got)
        found: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(self.folder.rglob("*.*")):
            if file.suffix[1:].lower() in IMG_FORMATS and file.is_file():
                found[file.stem].append(file)
        if not found:
            raise DataError(self.argument, "a folder with known-good pictures", f"{self.folder}, none in it")
        return found

    @cached_property
    def _folders(self) -> list[Path]:
        """Folders with pictures."""
        return sorted({file.parent for files in self._by_stem.values() for file in files})

    def check(self, images: Sequence[Path]) -> None:
        """Refuse a folder without pictures, two pictures for one image, and one in a sub-folder for two folders.

        What serves images of one name in several folders is known-good for all of them only in the folder itself.
        """
        users: dict[Path, Path] = {}
        for image in images:
            found = self.find(image)
            if found is None or found.parent == self.folder:
                continue
            first = users.setdefault(found, image)
            if first.absolute().parent != image.absolute().parent:
                expected = f"a reference for each of {first} and {image}"
                raise DataError(self.argument, expected, f"{found.relative_to(self.folder)} alone in {self.folder}")

    def find(self, image: Path) -> Path | None:
        """Return the picture of an image's name, None where there is none.

        Where a sub-folder mirrors the image's own, a picture of another sub-folder is that of another image; so is one
        in a sub-folder that is named for another split.

        Raises:
            DataError: If there are two.
        """
        files = self._by_stem.get(image.stem, [])
        parents = image.absolute().parent.parts
        split = _split(_below(self.folder, parents))
        likeness = {folder: _common_tail(folder.relative_to(self.folder).parts, parents) for folder in self._folders}
        best = max(likeness.values())
        if best:
            mirrored = [file for file in files if likeness[file.parent] == best]
            files = mirrored or [file for file in files if file.parent == self.folder]
        if split is not None:
            files = [f for f in files if _split(f.parent.relative_to(self.folder).parts) in (None, split)]
        if len(files) > 1:
            names = " and ".join(str(file.relative_to(self.folder)) for file in files[:2])
            raise DataError(self.argument, f"one reference for {image.name}", f"{names} in {self.folder}")
        return files[0] if files else None


def _common_tail(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many of the last parts of two paths are the same."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def _below(folder: Path, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what of a path is not above a folder too."""
    return parts[_common_tail(folder.absolute().parts[::-1], parts[::-1]) :]


def _split(parts: Sequence[str]) -> str | None:
    """Return the split that the innermost folder with the name of one is for."""
    return next((SPLIT_OF[part] for part in reversed(parts) if part in SPLIT_OF), None)


class Pattern:
    """Pictures named by what a regular expression finds in the image's name."""

    def __init__(self, argument: str, pattern: str, template: str) -> None:
        """Remember both."""
        self.argument, self.pattern, self.template = argument, re.compile(pattern), template

    def check(self, images: Sequence[Path]) -> None:
        """Nothing can be wrong that `read_spec` has not seen."""

    def find(self, image: Path) -> Path | None:
        """Return the picture that the template names, None where it is not there or the pattern finds nothing."""
        match = self.pattern.search(image.stem)
        if match is None:
            return None
        name = GROUP.sub(lambda g: match[int(g[1]) if g[1].isdigit() else g[1]] or "", self.template)
        return Path(name) if Path(name).is_file() else None


class OneFile:
    """One picture for all images."""

    def __init__(self, argument: str, file: Path) -> None:
        """Remember it."""
        self.argument, self.file = argument, file

    def check(self, images: Sequence[Path]) -> None:
        """Refuse a file that is not there."""
        self.find(self.file)

    def find(self, image: Path) -> Path | None:
        """Return the picture."""
        if not self.file.is_file():
            raise DataError(self.argument, "a picture", f"{self.file}, no such file")
        return self.file


class Table:
    """A CSV with the columns image and reference."""

    def __init__(self, argument: str, file: Path, root: Path) -> None:
        """Remember it; relative paths in it start from ``root``, or else from its own folder."""
        self.argument, self.file, self.roots = argument, file, (root, file.parent)

    @cached_property
    def _rows(self) -> dict[str, list[tuple[Path, Path]]]:
        """Rows, image and reference as they stand there, by the image's name."""
        try:
            text = self.file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(self.argument, "a CSV file", f"{self.file} ({e})") from e
        lines = [line for line in text.splitlines() if line.strip()]
        delimiter = max(DELIMITERS, key=lines[0].count) if lines else ","
        reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
        fields = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
        if not set(COLUMNS) <= set(fields):
            got = f"{', '.join(fields) or 'nothing'} in {self.file}"
            raise DataError(self.argument, "a CSV with the columns image and reference", got)
        found: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
        for row in reader:
            image, reference = ((row[fields[name]] or "").strip().replace("\\", "/") for name in COLUMNS)
            if not image or not reference:
                got = f"line {reader.line_num} of {self.file} with '{image}' and '{reference}'"
                raise DataError(self.argument, "an image and a reference in each line", got)
            if any(Path(image) == known for known, _ in found[Path(image).name]):
                raise DataError(self.argument, "each image once", f"{image} twice in {self.file}")
            found[Path(image).name].append((Path(image), Path(reference)))
        return found

    def check(self, images: Sequence[Path]) -> None:
        """Refuse a CSV that cannot be used, has an image twice, or knows images or references that are nowhere.

        Raises:
            DataError: If it does.
        """
        known = {row for image in images if (row := self._row(image)) is not None}
        around = sorted({image.absolute().parent for image in images})
        around = [*around, *{folder for p in around for folder in p.parent.iterdir() if folder.is_dir()}]
        others = (row for rows in self._rows.values() for row in rows if row not in known)
        lost = [row[0] for row in others if not any((place / row[0]).is_file() for place in (*self.roots, *around))]
        if lost:
            got = f"{len(lost)} others in {self.file} ({named(lost)})"
            raise DataError(self.argument, "a CSV of images that are there", got)
        gone = sorted({str(row[1]) for row in known if self._picture(row[1]) is None})
        if gone:
            raise self._gone(gone)

    def find(self, image: Path) -> Path | None:
        """Return the picture that the CSV names, None where it does not know the image.

        Raises:
            DataError: If the CSV has the image twice, or names a picture that is not there.
        """
        row = self._row(image)
        if row is None:
            return None
        picture = self._picture(row[1])
        if picture is None:
            raise self._gone([str(row[1])])
        return picture

    def _picture(self, name: Path) -> Path | None:
        """Return the file that a row names, None where it is not there."""
        return next((place / name for place in self.roots if (place / name).is_file()), None)

    def _gone(self, names: Sequence[str]) -> DataError:
        got = f"{len(names)} in {self.file} that are not ({named(names)})"
        return DataError(self.argument, "a CSV of references that are there", got)

    def _row(self, image: Path) -> tuple[Path, Path] | None:
        """Return the row of an image, whose path is the end of the image's, None where there is none.

        Raises:
            DataError: If there are two.
        """
        parts = image.absolute().parts
        rows = [row for row in self._rows.get(image.name, []) if parts[-len(row[0].parts) :] == row[0].parts]
        if len(rows) > 1:
            raise DataError(self.argument, "each image once", f"{named(row[0] for row in rows)} in {self.file}")
        return rows[0] if rows else None
