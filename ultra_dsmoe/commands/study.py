"""``dsmoe-yolo study``: train, validate and compare all that a study file names."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ultra_dsmoe.causes import STOPPED
from ultra_dsmoe.commands.opening import output_folder
from ultra_dsmoe.parsing import Command, Given, Option, text, whole, yes_no
from ultra_dsmoe.study.reader import read_plan
from ultra_dsmoe.study.report import write_report
from ultra_dsmoe.study.results_csv import disk_full_errors
from ultra_dsmoe.study.runner import Study, yolo_command

RUNS = "runs/studies"
RESULTS = "docs/results"  # of a checkout, which keeps the cells of its studies


def results() -> str:
    """Return where table, page and picture go by default: into the docs of a checkout, else beside the trainings."""
    return RESULTS if Path(RESULTS, "cells").is_dir() else RUNS


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def run(options: Given) -> int:
    """Run a study; 1 where a cell failed."""
    plan = read_plan(Path(options["study"]), options.more)
    runs, out = Path(options.get("runs", RUNS)), options.get("out", results())
    study = Study(plan, runs, output_folder(Path("study.pt"), out, ""))
    yolo_command()
    if options.get("dry_run", False):
        print("\n".join(f"{cell.name}: {study.stage(cell)}" for cell in plan.cells()))
        return 0
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        with disk_full_errors(study.folder, "the files of its cells"):
            failed = study.run(options.get("jobs", 1), train=not options.get("report", False))
        rows = [study.rows[c.name] for c in plan.cells() if c.name in study.rows]
        if rows:
            with disk_full_errors(study.out, "page and picture"):
                print("\n".join(write_report(plan, rows, study.out)))
    except KeyboardInterrupt:
        print("study: stopped; the same command goes on from here", file=sys.stderr)
        return STOPPED
    if failed:
        left = f"{len(failed)} of {len(plan.cells())} cells failed"
        print(f"study: {left}; the same command tries again", file=sys.stderr)
    return int(bool(failed))


COMMAND = Command(
    "study",
    """Trains every model of a study file on every data set with every seed, and says what the differences are worth. A
study that was stopped goes on with the same command.""",
    {
        "study": Option(text, "study file, such as benchmarks/studies/peers.yaml"),
        "out": Option(text, "folder of table, page and picture", f"{RESULTS} in a checkout, else {RUNS}"),
        "runs": Option(text, "folder of the trainings", RUNS),
        "jobs": Option(whole(1), "cells side by side, as many of them as memory allows", "1"),
        "dry_run": Option(yes_no, "whether to check all and say what is left only", "False", flag=True),
        "report": Option(yes_no, "whether to write the page of what is finished only", "False", flag=True),
    },
    run,
    {"study": "a study file as first argument, such as benchmarks/studies/peers.yaml"},
    more="in place of what the study file says, as in name=peers-640 imgsz=640 epochs=100 device=0",
)
