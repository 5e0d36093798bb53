"""Whose word a command follows to its data set: the user's, or that of a checkpoint.

A user may name anything that the host takes: a file, a packaged set, an address, a YAML whose ``download`` line runs
code. A checkpoint comes from anywhere, so what it remembers of its training is followed to an existing YAML file on
this disk and to images that are there, and no further.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.errors import DataError

SUFFIXES = (".yaml", ".yml")
NETWORK_SHARE = ("\\\\", "//")  # how paths begin that a system may ask another machine for


@dataclass(frozen=True)
class DataSource:
    """A data YAML and who named it.

    Attributes:
        yaml: What was named: for a user whatever the host takes, for a checkpoint an existing file.
        named: Whether the user named it in this call.
    """

    yaml: str
    named: bool

    @classmethod
    def choose(cls, named: Any, remembered: Iterable[Any]) -> DataSource | None:
        """Return the user's data set, else the first remembered one that is an existing YAML file, else None."""
        if named:
            return cls(str(named), named=True)
        return next((cls(str(given), named=False) for given in remembered if _is_local(given)), None)

    def require_local(self, *splits: str) -> None:
        """Refuse remembered data whose images are missing, before the host would get them; named data pass.

        Args:
            splits: Which are needed. The validation half always is: hosts look for it whatever they are asked.

        Raises:
            DataError: If a split has a path that does not exist.
        """
        if self.named:
            return
        for split in dict.fromkeys(("val", *splits)):
            for place in split_places(self.yaml, split):
                if not place.exists():
                    wanted = f"the images of its '{split}' split here, or data= (only what you name is downloaded)"
                    raise DataError("data", wanted, f"{self.yaml} from the checkpoint, {place} missing")


def split_places(data: str | Path, split: str) -> list[Path]:
    """Return the folders and lists of a split as the host resolves them; nothing is fetched, run or drawn.

    Args:
        data: Data YAML on this disk, by its path or by a name that the host finds among its own.
        split: ``train``, ``val`` or ``test``.

    Returns:
        The places, existing or not; none where the YAML has no such split.

    Raises:
        DataError: If there is no such YAML on this disk, or it holds no table of paths.
    """
    from ultralytics.utils import checks

    file = "" if "://" in str(data) else checks.check_file(str(data), hard=False)
    if not file or Path(file).suffix not in SUFFIXES:
        raise DataError("data", f"a data YAML with images in its '{split}' split", f"{data}, no file on this disk")
    content, folder = table_of(file)
    named = content.get(split) or (content.get("validation") if split == "val" else None)
    places = named if isinstance(named, list) else [named] if named else []
    if not all(isinstance(p, str) for p in places):
        raise DataError("data", f"paths as text under '{split}'", f"{data} with {named!r}")
    return [_resolved(folder, place) for place in places]


def table_of(data: str | Path) -> tuple[dict[str, Any], Path]:
    """Return the content of a data YAML on this disk and the folder that its paths start from, as the host finds both.

    Raises:
        DataError: If there is no such file, or it holds no table.
    """
    from ultralytics.utils import checks

    file = checks.check_file(str(data), hard=False)
    if not file:
        raise DataError("data", "a data YAML", f"{data}, no file on this disk")
    content = _table(file)
    root = content.get("path")
    if not isinstance(root, (str, type(None))):
        raise DataError("data", "a path as text", f"{data} with {root!r}")
    return content, root_of(content, file)


def root_of(content: dict[str, Any], file: str | Path) -> Path:
    """Return the folder from which the host resolves the paths of a data YAML."""
    from ultralytics.data.utils import DATASETS_DIR

    folder = Path(content.get("path") or Path(file).parent)
    return folder if folder.exists() or folder.is_absolute() else DATASETS_DIR / folder


def _table(file: str) -> dict[str, Any]:
    """Return the content of a YAML file as the host reads it."""
    from ultralytics.utils import YAML

    try:
        content: Any = YAML.load(file)
    except (OSError, ValueError, yaml.YAMLError) as e:  # the last one from older hosts
        raise DataError("data", "a data YAML with images that can be read", f"{file} ({str(e).splitlines()[0]})") from e
    if not isinstance(content, dict):  # older hosts return what there is
        raise DataError("data", "a table of paths and names", f"{file} with {type(content).__name__}")
    return content


def _resolved(folder: Path, place: str) -> Path:
    """Return the path of one place; as the host does, ``../images`` may also mean ``images``."""
    path = (folder / place).resolve()
    return path if path.exists() or not place.startswith("../") else (folder / place[3:]).resolve()


def _is_local(given: Any) -> bool:
    """Whether a checkpoint's word is an existing YAML file; a network share is not even asked for."""
    text = str(given) if isinstance(given, (str, Path)) else ""
    return text.endswith(SUFFIXES) and not text.startswith(NETWORK_SHARE) and Path(text).is_file()
