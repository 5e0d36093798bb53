"""The command: ``python -m ultra_dsmoe.study STUDY.yaml``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.evaluate.evaluation import output_folder
from ultra_dsmoe.study.reader import read_plan
from ultra_dsmoe.study.report import write_report
from ultra_dsmoe.study.runner import Study, yolo_command
from ultra_dsmoe.study.table import room

RUNS = "runs/studies"


def results() -> str:
    """Return where table, page and picture go by default: into the docs of a checkout, else beside the trainings."""
    return "docs/results" if Path.cwd() == Path(__file__).resolve().parents[2] else RUNS


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description="Train, validate and compare all that a study file names.")
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument("--out", default=results(), metavar="FOLDER", help="table, page, picture (%(default)s)")
    parser.add_argument("--runs", default=RUNS, type=Path, metavar="FOLDER", help="trainings (%(default)s)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="changes",
                        help="in place of what the file says: --set name=peers-640 imgsz=640 device=0")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what is left, run nothing")
    parser.add_argument("--report", action="store_true", help="write the page of what is finished, train nothing")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N",
                        help="cells side by side, as many of them as memory allows (%(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run a study; 1 where something was wrong or a cell failed."""
    args = parsed()
    try:
        plan = read_plan(args.study, args.changes)
        study = Study(plan, args.runs, output_folder(Path("study.pt"), args.out, ""))
        yolo_command()
        if args.dry_run:
            print("\n".join(f"{cell.name}: {study.stage(cell)}" for cell in plan.cells()))
            return 0
        signal.signal(signal.SIGTERM, _interrupted)
        with room(study.folder, "the files of its cells"):
            failed = study.run(args.jobs, train=not args.report)
        rows = [study.rows[c.name] for c in plan.cells() if c.name in study.rows]
        if rows:
            with room(study.out, "page and picture"):
                print("\n".join(write_report(plan, rows, study.out)))
    except DSMoEError as e:
        print(f"study: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("study: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    if failed:
        print(f"study: {len(failed)} of {len(plan.cells())} cells failed; the same command tries again",
              file=sys.stderr)  # fmt: skip
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
