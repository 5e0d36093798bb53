"""What the latency benchmarks share: timing side by side, bars, tables, arguments.

Everything to be compared runs once per round, one after the other, so that a busy machine is fair to all. The smallest
time says what a candidate needs, the median what it got; the processor time, of what runs on one thread, leaves out
what other programs took. Bars are judged by the smallest times.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WARM_UP = 3  # untimed rounds (our choice)
BUSY = 0.1  # share of the time spent waiting from which a measurement is doubtful (our choice)


class Timing(NamedTuple):
    """Time of one candidate over all rounds, in ms, or its ratio to another's."""

    minimum: float
    median: float
    processor: float  # smallest processor time: without what a busy machine took away

    def over(self, other: Timing) -> Timing:
        """Return the three ratios to ``other``."""
        return Timing(*(mine / its for mine, its in zip(self, other, strict=True)))


TIMES = [f"{field}, ms" for field in Timing._fields]  # heads of a table's columns


class Bar(NamedTuple):
    """A measured value and the most that it should be."""

    what: str
    value: float
    aim: float
    beside: Mapping[str, float] = {}  # the same, measured otherwise

    @classmethod
    def of(cls, what: str, ratio: Timing, aim: float) -> Bar:
        """Return the bar of a ratio of times, judged by the smallest."""
        return cls(what, ratio.minimum, aim, {"median": ratio.median, "processor": ratio.processor})

    @property
    def holds(self) -> bool:
        """Whether the value is no larger than its aim."""
        return self.value <= self.aim

    def __str__(self) -> str:
        """Return one line."""
        others = ", ".join(f"{name} {value:.3f}" for name, value in self.beside.items())
        shown = f"{self.value:.3f} ({others})" if others else f"{self.value:.3f}"
        return f"{self.what}: {shown}, aim <= {self.aim:g}: {'holds' if self.holds else 'MISSED'}"

    def as_dict(self) -> dict[str, Any]:
        """Return the bar for a JSON file."""
        return {"what": self.what, "value": self.value, **self.beside, "aim": self.aim, "holds": self.holds}


def interleave(runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = WARM_UP) -> dict[str, Timing]:
    """Time every candidate once per round.

    Args:
        runs: What to time, by name.
        repeats: Timed rounds.
        warm_up: Untimed rounds before them.
    """
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(warm_up + repeats):
        for name, run in runs.items():
            start, start_processor = time.perf_counter(), time.process_time()
            run()
            spent, spent_processor = time.perf_counter() - start, time.process_time() - start_processor
            if i >= warm_up:
                wall[name].append(1e3 * spent)
                processor[name].append(1e3 * spent_processor)
    return {name: Timing(min(wall[name]), statistics.median(wall[name]), min(processor[name])) for name in runs}


def caution(times: Mapping[str, Timing]) -> list[str]:
    """Return a line if the machine was busy: single-threaded candidates were given a processor part of the time."""
    share = min(t.processor / t.minimum for t in times.values())
    if share > 1 - BUSY:
        return []
    return [f"the machine was busy: only {share:.0%} of a smallest time was processor time; ratios of that are fairer"]


def onnx_runner(model: str | bytes, feed: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that runs an ONNX file, or its content, on one thread in ONNX Runtime.

    Args:
        model: Path or serialized graph.
        feed: Arrays by input name; the only value of a feed may have any name. Changed in place it gives other results.

    Returns:
        A function that returns the graph's first output.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    if len(names) == len(feed) == 1:
        feed = {names[0]: next(iter(feed.values()))}
    return lambda: session.run(None, feed)[0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines: the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    cells = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in (header, *rows)]  # fmt: skip
    return ["  ".join(row).rstrip() for row in cells]


def arguments(description: str, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all of the benchmarks have; ``repeats`` is the default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the results there, too")
    parser.add_argument("--repeats", type=positive, default=repeats, metavar="N", help="timed rounds (%(default)s)")
    return parser


def positive(value: str) -> int:
    """Check an argument that is an integer of at least 1."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {value}")
    return int(value)


def image_size(value: str) -> int:
    """Check an image size: a positive multiple of the largest stride."""
    if not value.isdecimal() or int(value) < 1 or int(value) % 32:
        raise argparse.ArgumentTypeError(f"expected a multiple of 32, got {value}")
    return int(value)


def new_file(value: str) -> Path:
    """Check a file to be written before anything is measured."""
    file = Path(value)
    if file.is_dir() or not file.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in an existing folder, got {value}")
    return file


def write_json(file: Path | None, content: dict[str, Any]) -> None:
    """Write the results and the versions that gave them; nothing without a file."""
    if file is not None:
        file.write_text(json.dumps({**content, "versions": versions()}, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Return the installed ones of the packages that matter for latency."""
    found = {}
    for name in ("ultralytics", "torch", "onnx", "onnxruntime", "openvino"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
