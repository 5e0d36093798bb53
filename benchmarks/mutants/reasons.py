"""Survivors that are accepted, each with its reason."""

from __future__ import annotations

from pathlib import Path

import yaml

from benchmarks.mutants.breaks import Break
from benchmarks.mutants.rooms import MutantsError

FILE = Path(__file__).with_name("reasons.yaml")
KEYS = {"was", "now", "why"}
ANY = "any"  # as `now`: whatever becomes of the line


class Reasons:
    """The accepted survivors of all files: by file, then the line before and after the break."""

    def __init__(self, path: Path = FILE) -> None:
        """Read the list.

        Raises:
            MutantsError: If an entry lacks a key, has another, or an empty one.
        """
        self.path = path
        self.listed: dict[str, dict[tuple[str, str], str]] = {}
        for file, entries in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items():
            for entry in entries:
                if set(entry) != KEYS or not all(isinstance(v, str) and v.strip() for v in entry.values()):
                    raise MutantsError(f"{path.name}: {file}", "was, now and why", entry)
            self.listed[file] = {(e["was"], e["now"]): e["why"] for e in entries}

    def why(self, file: Path, broken: Break) -> str | None:
        """Return why a survivor is accepted, None where nobody said."""
        listed = self.listed.get(file.as_posix(), {})
        return listed.get((broken.was, broken.now)) or listed.get((broken.was, ANY))

    def idle(self, file: Path, survivors: list[Break]) -> list[tuple[str, str]]:
        """Return the entries of a file that no survivor needs: killed by now, or of a line that changed."""
        needed = {(b.was, now) for b in survivors for now in (b.now, ANY)}
        return [pair for pair in self.listed.get(file.as_posix(), {}) if pair not in needed]
