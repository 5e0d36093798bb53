"""``dsmoe-yolo data``: list the packaged sets, make the board set, unpack or convert a set that was fetched.

Errors are raised as `DataError`; the calling script prints them as one line.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.data.convert import archive, voc
from ultra_dsmoe.errors import DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dsmoe-yolo data ...``.

    Args:
        argv: Arguments after ``data``; those of the process if left out.

    Returns:
        The exit code, 0.

    Raises:
        DataError: If the command cannot be carried out.
    """
    args = _parser().parse_args(argv)
    args.run(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    """Build the parser of the four commands."""
    sizes = "'dsmoe-yolo data sizes DATA.yaml' says what the box sizes of a set ask of image size and head."
    parser = argparse.ArgumentParser(
        prog="dsmoe-yolo data", description="Packaged data sets and their images.", epilog=sizes
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="table of the packaged sets and whether their images are here")
    command.set_defaults(run=_list)

    command = commands.add_parser("make", help="generate pcb-demo, or a variant of it under --out")
    command.add_argument("name", metavar="pcb-demo")
    command.add_argument("--train", type=int, default=demo.TRAIN, help="training boards (%(default)s)")
    command.add_argument("--val", type=int, default=demo.VAL, help="validation boards (%(default)s)")
    command.add_argument("--seed", type=int, default=demo.SEED, help="%(default)s")
    command.add_argument("--size", type=int, default=demo.SIZE, help="side of the images in pixels (%(default)s)")
    command.add_argument("--out", help="folder to make; the one that pcb-demo.yaml expects if left out")
    command.set_defaults(run=_make)

    command = commands.add_parser("unpack", help="put the images of a set in place from a tar or zip in YOLO layout")
    command.add_argument("name", help="name of a packaged set, such as deeppcb")
    command.add_argument("archive", help="tar or zip with data.yaml, images/ and labels/")
    command.add_argument("--out", help="folder to make; the one that the set's YAML expects if left out")
    command.set_defaults(run=_unpack)

    command = commands.add_parser("convert-voc", help="convert a folder of images and Pascal VOC .xml files")
    command.add_argument("name", help="name of a packaged set, such as pcb")
    command.add_argument("folder", help="folder with the images and .xml files, at any depth")
    command.add_argument("--split", type=_shares, default=voc.RATIO, help="shares of train:val[:test] (6:2:2)")
    command.add_argument("--seed", type=int, default=voc.SEED, help="seed of the split (%(default)s)")
    command.add_argument("--group", help="regular expression; images with the same first group stay together")
    command.add_argument("--out", help="folder to make; the one that the set's YAML expects if left out")
    command.set_defaults(run=_convert)
    return parser


def _shares(text: str) -> tuple[int, ...]:
    """Read shares such as 6:2:2."""
    try:
        return tuple(int(v) for v in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected shares such as 6:2:2, got {text}") from None


def _list(args: argparse.Namespace) -> None:
    """Print one row per packaged set."""
    print(f"{'set':<11}{'classes':>7}  {'images':<8}folder, or the command that brings them")
    for name, command in packaged.COMMANDS.items():
        data, root = packaged.load(name), packaged.images_root(name)
        here = all((root / data[split]).is_dir() for split in ("train", "val"))
        print(f"{name:<11}{len(data['names']):>7}  {'here' if here else 'missing':<8}{root if here else command}")


def _make(args: argparse.Namespace) -> None:
    """Generate the boards."""
    if args.name.removesuffix(".yaml") != "pcb-demo":
        raise DataError("name", "pcb-demo, the only set that is generated", args.name)
    root = Path(args.out) if args.out else packaged.images_root("pcb-demo")
    start = time.monotonic()
    file = demo.generate(root, args.train, args.val, args.seed, args.size, _bar)
    print(f"pcb-demo: {args.train} + {args.val} boards in {time.monotonic() - start:.1f} s; train with data={file}")


def _bar(counter: Iterator[int], total: int) -> Iterator[int]:
    """Show a bar while boards are drawn."""
    from ultralytics.utils import TQDM  # late: the other commands need no host for it

    return iter(TQDM(counter, total=total, desc="boards"))


def _unpack(args: argparse.Namespace) -> None:
    """Unpack an archive."""
    root = archive.unpack(args.name, args.archive, args.out)
    _say_done(args, root)


def _convert(args: argparse.Namespace) -> None:
    """Convert VOC labels."""
    root = voc.convert_voc(args.name, args.folder, ratio=args.split, seed=args.seed, group=args.group, root=args.out)
    _say_done(args, root)


def _say_done(args: argparse.Namespace, root: Path) -> None:
    """Tell where the images are and how to use them."""
    name = args.name.removesuffix(".yaml")
    print(f"{name}: images are in {root}; train with data={root / 'data.yaml' if args.out else name + '.yaml'}")
