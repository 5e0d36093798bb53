"""The command: ``python -m benchmarks.mutants [PATH ...] [--sample N] [--seed S]``."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script and with -m alike

from benchmarks.interleaved import positive
from benchmarks.mutants.breaks import Break, breaks
from benchmarks.mutants.forks import Outcome, tried, warm
from benchmarks.mutants.reasons import Reasons
from benchmarks.mutants.rooms import ROOT, MutantsError, files, module, own_test
from ultra_dsmoe.errors import DSMoEError

FIRST_LIMIT_S = 600.0  # for the whole module
SLACK = 5.0  # a break may take this many times as long as the whole module, and GRACE_S more, before it counts as found
GRACE_S = 15.0
HEAD = f"{'file':<46}{'breaks':>7}{'found':>7}{'excused':>8}{'missed':>7}{'s':>7}"


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(prog="mutants", description="Break the package on purpose; say what no test sees.")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (all rooms that compute)")
    parser.add_argument("--sample", type=positive, metavar="N", help="of each file N breaks, drawn; all by default")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (%(default)s)")
    return parser.parse_args(argv)


def chosen(file: Path, source: str, sample: int | None, seed: int) -> list[Break]:
    """Return the breaks of a file to try: all, or some drawn by seed and name of the file."""
    found = breaks(source)
    if not sample or sample >= len(found):
        return found
    drawn = random.Random(f"{seed} {file.as_posix()}").sample(found, sample)
    return sorted(drawn, key=lambda b: b.start)


def survivors(file: Path, test: Path, source: str, tries: Sequence[Break]) -> list[Break]:
    """Return the breaks of a file that its test lets pass.

    Raises:
        MutantsError: If the test does not pass on the file as it is.
    """

    def outcome(text: str, limit_s: float) -> Outcome:
        return tried(test, limit_s, (module(file), ROOT / file, text))

    whole = outcome(source, FIRST_LIMIT_S)
    if not whole.passed:
        ending = whole.log.strip().rpartition("\n")[2] or "no result"
        raise MutantsError(f"{test.relative_to(ROOT)}", "a pass before anything is broken", ending)
    limit_s = SLACK * whole.seconds + GRACE_S
    return [b for b in tries if outcome(b.applied(source), limit_s).passed]


def report(file: Path, args: argparse.Namespace, reasons: Reasons) -> tuple[Counter[str], list[str]]:
    """Break one file and return the counts of its row and what is wrong, a line each."""
    source = (ROOT / file).read_text(encoding="utf-8")
    tries = chosen(file, source, args.sample, args.seed)
    test = own_test(file)
    if test is None:
        return Counter(breaks=len(tries), missed=len(tries)), [f"{file}: has no test of its own name"] * bool(tries)
    left = survivors(file, test, source, tries)
    missed = [b for b in left if not reasons.why(file, b)]
    wrong = [f"{file}:{b.line}: {b.kind}: {b.was}  ->  {b.now}" for b in missed]
    if len(tries) == len(breaks(source)):
        wrong += [f"{file}: no survivor needs the reason for {a}  ->  {b}" for a, b in reasons.idle(file, left)]
    excused = len(left) - len(missed)
    return Counter(breaks=len(tries), found=len(tries) - len(left), excused=excused, missed=len(missed)), wrong


def row(name: object, counts: Counter[str], seconds: float) -> str:
    """Return one line of the table."""
    numbers = "".join(f"{counts[k]:>{w}}" for k, w in (("breaks", 7), ("found", 7), ("excused", 8), ("missed", 7)))
    return f"{name!s:<46}{numbers}{seconds:>7.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Break all files that were asked for; 1 where a break was missed without a reason."""
    args = parsed(argv)
    try:
        todo, reasons = files(args.paths), Reasons()
        os.chdir(ROOT)
        warm()
        print(HEAD)
        total, wrong, since = Counter[str](), list[str](), os.times().elapsed
        for file in todo:
            start = os.times().elapsed
            counts, lines = report(file, args, reasons)
            print(row(file, counts, os.times().elapsed - start), *(f"    {x}" for x in lines), sep="\n", flush=True)
            total += counts
            wrong += lines
    except DSMoEError as e:
        print(f"mutants: {e}", file=sys.stderr)
        return 1
    print(row("all", total, os.times().elapsed - since))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
