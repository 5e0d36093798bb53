"""What caching images saves: ``python -m benchmarks.cache [--data YAML] [--images N] [--pixels N] [--workers N]``.

In turn: one epoch of the host's training set without a cache, with ``cache=disk``, ``cache=ram`` and our
``cache=lmdb``, under the augmentation of the DS-MoE paper's recipe. No network runs, so this is the part of an epoch
that a cache can change; on a fast GPU it is the epoch. Starting the workers is part of it. All caches are filled
before, and files are in the system's own cache, as in the second epoch of a set that fits into memory. The aim is for
LMDB over disk. Images are copied, since the host leaves its cache beside them; by default boards are generated.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))  # as a script and with -m alike

from interleaved import Bar, Timing, arguments, image_size, interleave, positive, table, write_json

import ultra_dsmoe  # noqa: F401  (our keys and recipes)
from ultra_dsmoe.data import lmdb_cache
from ultra_dsmoe.errors import DSMoEError

KINDS = ("none", "disk", "ram", lmdb_cache.NAME)
RECIPE = "train/dsmoe.yaml"
REPEATS, WARM_UP = 5, 1
IMAGES, PIXELS, WORKERS, IMGSZ, BATCH = 128, 1280, 2, 640, 8
AIM = 0.8


def copied(data: str | None, folder: Path, images: int, pixels: int) -> str:
    """Return the data YAML of a copy of a set, or of generated boards."""
    import yaml
    from ultralytics.data.utils import check_det_dataset

    if data is None:
        from ultra_dsmoe.data.boards import demo

        demo.generate(folder, train=images, val=1, seed=0, size=pixels)
        return str(next(folder.glob("*.yaml")))
    found = check_det_dataset(data)
    files = sorted(p for p in Path(found["train"]).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp"})
    for file in files[:images]:
        label = Path(str(file.with_suffix(".txt")).replace("/images/", "/labels/"))
        for source, kind in ((file, "images"), (label, "labels")):
            target = folder / kind / "train" / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_file():
                shutil.copyfile(source, target)
    path = folder / "data.yaml"
    names = {"path": str(folder), "train": "images/train", "val": "images/train", "names": found["names"]}
    path.write_text(yaml.safe_dump(names))
    return str(path)


def epoch_of(data: str, kind: str, imgsz: int, workers: int) -> tuple[Callable[[], None], int]:
    """Return a function that reads one training epoch, and the number of its images."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import YAML, checks

    recipe = YAML.load(checks.check_yaml(RECIPE))
    cache = False if kind == "none" else kind
    cfg = get_cfg(overrides={**recipe, "task": "detect", "imgsz": imgsz, "cache": cache})
    found = check_det_dataset(data)
    dataset: Any = build_yolo_dataset(cfg, found["train"], BATCH, found)
    if kind == lmdb_cache.NAME:
        lmdb_cache.use_lmdb(dataset, cfg)
    # Not the host's loader: its workers live on and would read ahead while another candidate is timed.
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, collate_fn=dataset.collate_fn)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch, len(dataset)


def bar(times: dict[str, Timing]) -> Bar:
    """Return the bar: LMDB over the host's cache on disk."""
    ratio = times[lmdb_cache.NAME].over(times["disk"])
    return Bar("epoch with cache=lmdb over cache=disk", ratio.minimum, AIM, {"median": ratio.median})


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("Time of a training epoch's images by kind of cache.", REPEATS)
    parser.add_argument("--data", help="data YAML (default: generated boards)")
    parser.add_argument("--images", type=positive, default=IMAGES, help="training images at most (%(default)s)")
    parser.add_argument("--pixels", type=positive, default=PIXELS, help="side of generated boards (%(default)s)")
    parser.add_argument("--imgsz", type=image_size, default=IMGSZ, help="side of the images (%(default)s)")
    parser.add_argument("--workers", type=positive, default=WORKERS, help="loading processes (%(default)s)")
    return parser.parse_args(argv)


def main() -> None:
    """Print times and the bar."""
    args = parsed(None)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "none"
        try:
            lmdb_cache.load_library()
            copied(args.data, first, args.images, args.pixels)
            runs: dict[str, Callable[[], None]] = {}
            for kind in KINDS:
                place = Path(folder) / kind
                if kind != "none":  # a copy each: the host reads what `disk` left behind in any mode
                    copied_again(first, place)
                runs[kind], count = epoch_of(str(next(place.glob("*.yaml"))), kind, args.imgsz, args.workers)
        except DSMoEError as e:
            sys.exit(f"error: {e}")
        times = interleave(runs, args.repeats, WARM_UP)
    print(f"{count} images, {args.imgsz} px, batch {BATCH}, {args.workers} workers, {args.repeats} epochs")
    rows = [[kind, f"{t.minimum:.0f}", f"{t.median:.0f}", f"{t.minimum / count:.2f}"] for kind, t in times.items()]
    print("\n".join([*table(["cache", "minimum, ms", "median, ms", "ms per image"], rows), str(bar(times))]))
    about = {"images": count, "imgsz": args.imgsz, "workers": args.workers, "repeats": args.repeats}
    found = {kind: {"minimum": t.minimum, "median": t.median} for kind, t in times.items()}
    write_json(args.json, {"ms": found, "bars": [bar(times).as_dict()], **about})


def copied_again(source: Path, target: Path) -> None:
    """Copy a set without its caches and let its YAML name the copy."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.cache", "*.npy", "*.lmdb"))
    for path in target.glob("*.yaml"):
        path.write_text(path.read_text().replace(str(source), str(target)))


if __name__ == "__main__":
    main()
