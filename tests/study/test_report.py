"""The page of a study: what it names besides the means, and the table of the knock-outs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ultra_dsmoe.evaluate.bootstrap import mean_f1
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.study import report, store, verdict
from ultra_dsmoe.study.results_csv import read_rows


def test_nothing_learned(
    host_class: type[Any], fake_stats: Callable[[int], ImageStats], write: Callable[..., Path], run: Callable[..., Any]
) -> None:
    """A model that found nothing is named, since comparing it means little."""
    found = fake_stats(0)
    found.tp = [np.zeros_like(t) for t in found.tp]
    host = host_class(stats=lambda seed: found)
    assert "k2 on boards has learned next to nothing (mAP50 below 0.01)" in run(write(seeds=[0]), host)[1]


def test_f1_stands_beside_precision_and_recall(
    fake_stats: Callable[[int], ImageStats], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """It is the mean over the trainings, from what was kept of them: the table of numbers has none."""
    run(write())
    page = (tmp_path / "out" / "tiny.md").read_text()
    cells = [f"boards-k2-{seed}" for seed in (0, 1)]
    mean = np.mean([mean_f1(fake_stats(len(cell))) for cell in cells])
    assert "| precision | recall | F1 | seeds | minutes |\n" in page
    assert f"| 0.500 | 0.250 | {mean:.3f} | 2 | 1.5 |\n" in page


def test_unequal_seeds(
    host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """A page with more seeds of one model than of another says that their means do not compare."""
    assert run(write(), host_class(fail="boards-k2-1"))[0] == 1
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "| boards | k2 | yolov8n | mAP50 | no verdict on one seed (" in page
    assert "\n- Means over unequal numbers of seeds do not compare; " in page
    assert "\n- One seed: its intervals do not know " in page
    assert run(write())[0] == 0
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "ne seed" not in page
    assert "do not compare" not in page


def test_what_could_not_be_seen(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    """The page names half the width of its own intervals of mAP50, the middle one of several."""
    run(write())
    page = (tmp_path / "out" / "tiny.md").read_text()
    low, high = map(float, re.search(r"\| mAP50 \| [^|]*?([-+][\d.]+) to ([-+][\d.]+) points", page).groups())
    named = re.search(r"\n- Differences below about ([\d.]+) points of mAP50 on boards would not have been seen", page)
    assert float(named[1]) == pytest.approx((high - low) / 2, abs=0.11)  # each of the three is rounded
    # Several models and two data sets; mAP50-95 has no part in it.
    comparison, unseen = verdict.Comparison, report._unseen
    made = [("a", "mAP50", 1.0), ("a", "mAP50", 2.0), ("a", "mAP50", 9.0), ("b", "mAP50", 4.0), ("b", "mAP50-95", 30.0)]
    line = unseen([comparison(d, "m", "b", measure, 5.0, 5 - half, 5 + half, 1.0, 1.0, 3) for d, measure, half in made])
    assert "below about 2.0 points of mAP50 on a, about 4.0 points of mAP50 on b would" in line[0]
    # One seed does not say what could have been seen; nor do no comparisons.
    assert unseen([comparison("a", "m", "b", "mAP50", 5.0, 4.0, 6.0, 1.0, 1.0, 1)]) == []
    assert unseen([]) == []


def test_knockouts(host_class: type[Any], write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    """Means over the trainings, and how many need the part; nets with nothing to switch off have no column."""

    class Switching(host_class):
        def validate(self, folder: Path) -> None:
            super().validate(folder)
            change, verdict = (-3.0, "earns its place") if folder.name.endswith("1") else (-0.5, "inert")
            own = [("hub-constant", change, verdict), ("control", 0.0, "control")] if "k2" in folder.name else []
            self.switched = [("as-trained", "", ""), *own]

    file = write(knockouts=True)
    host = Switching()
    assert run(file, host)[0] == 0
    assert all("--knockouts" in command for command in host.commands[1::2])
    page = (tmp_path / "out" / "tiny.md").read_text()
    assert "| data | knock-out | k2 |\n| --- | --- | ---: |\n" in page
    assert "\n| boards | hub-constant | -1.8 (-3.0 to -0.5), 1 of 2 |\n\n" in page
    # A cell whose knock-outs were cut off is looked at again, not trained again.
    (tmp_path / "runs" / "tiny" / "boards-k2-1" / "knockout.csv").unlink()
    table = tmp_path / "out" / "tiny.csv"
    (without,) = [r for r in read_rows(table) if r["cell"] == "boards-k2-1"]
    (kept := tmp_path / "out" / "cells" / f"{without['settings_hash']}.npz").unlink()
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    host = Switching()
    assert run(file, host)[0] == 0
    assert [Path(command[1]).name for command in host.commands] == ["cell.py"]
    assert (tmp_path / "out" / "tiny.md").read_text() == page
    # What is finished without them stays so, and is named.
    (tmp_path / "runs" / "tiny" / "boards-k2-1" / "knockout.csv").unlink()
    kept.write_bytes(store.gather(tmp_path / "runs" / "tiny" / "boards-k2-1"))
    assert "without knock-outs: boards-k2-1 (to have them, delete its row)\n" in run(file)[1]
    assert "| -0.5 (-0.5 to -0.5), 0 of 1 |" in (tmp_path / "out" / "tiny.md").read_text()


def test_gone_matches(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    """A finished cell whose file was deleted or damaged is left out of the page and named."""
    run(write())
    files = {r["cell"]: tmp_path / "out" / "cells" / f"{r['settings_hash']}.npz"
             for r in read_rows(tmp_path / "out" / "tiny.csv")}  # fmt: skip
    files["boards-k2-1"].unlink()
    code, out, _ = run(write())
    assert code == 0
    assert out.endswith(f"left out: boards-k2-1, since cells/{files['boards-k2-1'].name} is gone or damaged\n")
    files["boards-k2-0"].write_bytes(b"PK no archive")
    code, out, _ = run(write())
    assert (code, out.count("left out"), "against" in out) == (0, 2, False)
    shutil.rmtree(tmp_path / "out" / "cells")
    code, out, _ = run(write())
    assert (code, out.count("left out")) == (0, 4)
