"""Which files are broken, and which test belongs to which file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ultra_dsmoe.errors import DSMoEError

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ultra_dsmoe"
# What computes: a wrong sign there trains, exports or reports something else without a word.
ROOMS = ("ops", "losses", "distill", "nn", "export", "evaluate")


class MutantsError(DSMoEError):
    """What was asked for cannot be broken or tested."""


def files(paths: Iterable[str] = ()) -> list[Path]:
    """Return the source files of files and folders, relative to the checkout; those of all rooms by default.

    Raises:
        MutantsError: If a path is no file or folder of the package.
    """
    found: list[Path] = []
    for name in paths or [f"{PACKAGE}/{room}" for room in ROOMS]:
        path = (ROOT / name).resolve()
        if not path.exists() or not path.is_relative_to(ROOT / PACKAGE):
            raise MutantsError("paths", f"files or folders of {PACKAGE}/", name)
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [p.relative_to(ROOT) for p in dict.fromkeys(found) if p.name != "__init__.py"]


def module(file: Path) -> str:
    """Return the name that a source file is imported by."""
    return ".".join(file.with_suffix("").parts)


def own_test(file: Path, root: Path = ROOT) -> Path | None:
    """Return the same-named test of a source file below the tests' folder of the same room, the nearest of several."""
    room = file.parts[1:-1][:1]
    tests, name = root.joinpath("tests", *room), f"test_{file.stem}.py"
    found = sorted(tests.rglob(name) if room else tests.glob(name))
    inner = set(file.parts[2:-1])
    return max(found, key=lambda p: len(inner & set(p.parts)), default=None)
