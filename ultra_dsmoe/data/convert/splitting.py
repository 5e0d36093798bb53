"""Deal labelled images out to train, val and test, and write them as a set in YOLO layout.

The split keeps groups together: pictures of one board, or overlapping windows of one surface, on both sides of a split
make every score too good.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultra_dsmoe.checks import whole
from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data import packaged
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import require_unused, whole_folder

RATIO = (6, 2, 2)  # [DSMoE] for the board set
SEED = 42  # [DSMoE]
EACH_ALONE = "^(.*)$"  # what tells an image's group where nothing is known: its whole name


@dataclass(frozen=True)
class Sample:
    """One labelled image: its file, its name without suffix in the new set and its label lines."""

    image: Path
    stem: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """How a set is split.

    Attributes:
        ratio: Shares of train, val and, if three are given, test.
        seed: Of the order in which groups are dealt out.
        group: Regular expression whose first group, searched in an image's name, says what must stay together; the
            data YAML's ``groups`` if left out.
    """

    ratio: tuple[int, ...] = RATIO
    seed: int = SEED
    group: str | None = None

    def __post_init__(self) -> None:
        """Check shares and seed.

        Raises:
            DataError: If they are none.
        """
        whole("seed", self.seed, low=0, kind=DataError)
        if len(self.ratio) not in (2, 3) or min(self.ratio) < 0 or min(self.ratio[:2]) == 0:
            shares = ":".join(map(str, self.ratio))
            raise DataError("split", "two or three shares such as 6:2:2, the first two above 0", shares)

    def __str__(self) -> str:
        """Return shares and seed in words."""
        return f"split {':'.join(map(str, self.ratio))} (seed {self.seed})"


def free_root(name: str, root: str | Path | None) -> Path:
    """Return the folder to make: the given one, or the one that a data YAML looks for its images in.

    Raises:
        DataError: If something is in it, or none is known.
    """
    if root is None and packaged.is_file(name):
        _require_place(name, packaged.read(name))
    found = Path(root).resolve() if root else packaged.images_root(name)
    require_unused(found)
    return found


def _require_place(name: str, data: Mapping[str, Any]) -> None:
    """Refuse a data YAML that would not find the images of a new set in its own ``path``."""
    if not isinstance(data.get("path"), str) or not data["path"]:
        raise DataError("out", f"a folder to make, as {name} has no 'path'", "none")
    for split in SPLITS:
        place, may_lack = data.get(split), split == SPLITS[2]
        if place != f"images/{split}" and not (place is None and may_lack):
            raise DataError("out", f"a folder to make, as the '{split}' of {name} is not images/{split}", "none")


def write_set(root: Path, samples: Sequence[Sample], data: Mapping[str, Any], split: Split, note: str) -> None:
    """Split labelled images and write them with a data.yaml, all of it or nothing.

    Args:
        root: The folder to make.
        samples: Images, each with a name of its own.
        data: The set's data YAML.
        split: How to split.
        note: Where the set came from, one line.

    Raises:
        DataError: If the group is no regular expression with one group, or there are fewer groups than splits.
    """
    group = split.group or data.get("groups")
    parts = _deal(samples, split, _group_pattern(group or EACH_ALONE))
    with whole_folder(root) as partial:
        for name, members in parts.items():
            _write_split(partial, name, members)
        splits = {name: f"images/{name}" for name in parts}
        text = packaged.yaml_beside(data, splits, f"{note}, {split}", {"groups": group} if group else None)
        (partial / "data.yaml").write_text(text, encoding="utf-8")


def _group_pattern(group: str) -> re.Pattern[str]:
    """Compile the expression that tells the group of an image."""
    try:
        pattern = re.compile(group)
    except (re.error, TypeError) as error:
        raise DataError("group", "a regular expression", f"{group} ({error})") from error
    if pattern.groups != 1:
        raise DataError("group", "a regular expression with one group in parentheses", group)
    return pattern


def _deal(samples: Sequence[Sample], split: Split, pattern: re.Pattern[str]) -> dict[str, list[Sample]]:
    """Deal whole groups out in random order, each to the split that lacks most of such images: with boxes, or without.

    A class that the training images would not show gets a group back from another split, where that can spare one.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        match = pattern.search(sample.stem)
        groups[match[1] if match and match[1] else sample.stem].append(sample)
    order = sorted(groups)
    np.random.default_rng(split.seed).shuffle(order)
    totals = Counter(bool(sample.lines) for sample in samples)
    shares = {s: r for s, r in zip(SPLITS, split.ratio, strict=False) if r}
    wanted = {s: {kind: n * r / sum(split.ratio) for kind, n in totals.items()} for s, r in shares.items()}
    dealt: dict[str, list[str]] = {name: [] for name in wanted}
    counts: dict[str, Counter[bool]] = {name: Counter() for name in wanted}
    for key in order:
        kinds = Counter(bool(sample.lines) for sample in groups[key])
        neediest = _neediest(counts, wanted, kinds)
        dealt[neediest].append(key)
        counts[neediest] += kinds
    if not all(dealt.values()):
        raise DataError("split", f"at least {len(wanted)} groups of images, one per split", f"{len(order)}")
    _fill_training(dealt, groups)
    return {name: [sample for key in keys for sample in groups[key]] for name, keys in dealt.items()}


def _neediest(
    counts: Mapping[str, Counter[bool]], wanted: Mapping[str, Mapping[bool, float]], kinds: Counter[bool]
) -> str:
    """Return the split that lacks the largest share of such images as a group has, and then of all.

    Args:
        counts: Images with boxes, and without, that each split has.
        wanted: How many it is to have.
        kinds: Those of the group.
    """

    def lack(name: str) -> tuple[float, float]:
        alike = sum((1 - counts[name][kind] / wanted[name][kind]) * n for kind, n in kinds.items())
        return alike, 1 - counts[name].total() / sum(wanted[name].values())

    return max(wanted, key=lack)


def _fill_training(dealt: dict[str, list[str]], groups: dict[str, list[Sample]]) -> None:
    """Move groups to the training images until these show every class, or the other splits have one group each."""
    kinds = {key: {line.split()[0] for sample in members for line in sample.lines} for key, members in groups.items()}
    train = SPLITS[0]
    while True:
        shown = set().union(*(kinds[key] for key in dealt[train]))
        spare = [(split, key) for split, keys in dealt.items() if split != train and len(keys) > 1 for key in keys]
        useful = [(split, key) for split, key in spare if kinds[key] - shown]
        if not useful:
            return
        split, key = min(useful, key=lambda place: (-len(kinds[place[1]] - shown), len(groups[place[1]]), place[1]))
        dealt[split].remove(key)
        dealt[train].append(key)


def _write_split(root: Path, split: str, samples: Sequence[Sample]) -> None:
    """Copy the images of one split and write their labels."""
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for sample in samples:
        shutil.copyfile(sample.image, images / f"{sample.stem}{sample.image.suffix.lower()}")
        text = "".join(f"{line}\n" for line in sample.lines)
        (labels / f"{sample.stem}.txt").write_text(text, encoding="utf-8")
