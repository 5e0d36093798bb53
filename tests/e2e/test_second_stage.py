"""A second stage behind a detector on the command line, with nothing but files."""

from __future__ import annotations

import csv
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from ultralytics import YOLO

RunYolo = Callable[..., subprocess.CompletedProcess[str]]


def test_a_detector_is_validated_and_predicts_with_a_second_stage(
    run_yolo: RunYolo,
    tiny_boards: Path,
    boards: list[Path],
    names: dict[int, str],
    save_classifier: Callable[..., Path],
    save_detector: Callable[..., Path],
    tmp_path: Path,
) -> None:
    detector = save_detector(names)
    classifier = save_classifier({"background": 1.0, **dict.fromkeys(names.values(), 1e-6)})
    usual = (f"model={detector}", "imgsz=64", "device=cpu", "workers=0", f"project={tmp_path}", "conf=0.01")
    verify = (f"dsmoe_verify={classifier}", "dsmoe_verify_band=0.1,1")
    done = run_yolo("val", f"data={tiny_boards}", "plots=False", "name=val", *usual, *verify)
    dropped = re.search(r"Second look: (\d+) of (\d+) doubtful boxes dropped", done.stdout + done.stderr)
    assert dropped
    assert int(dropped[1]) == int(dropped[2]) > 0
    with (tmp_path / "val" / "verify.csv").open() as f:
        rows = {row["class"]: {k: int(v) for k, v in row.items() if k != "class"} for row in csv.DictReader(f)}
    assert list(rows) == ["all", *names.values()]
    every = rows["all"]
    assert every["overkill_before"] > every["overkill_after"]
    assert every["escapes_before"] <= every["escapes_after"] <= every["labelled"]

    run_yolo("predict", f"source={boards[0]}", "name=left", "save_txt=True", "save_conf=True", *usual, *verify)
    assert (tmp_path / "left" / boards[0].with_suffix(".jpg").name).is_file()
    (found,) = YOLO(detector).predict(boards[0], imgsz=64, device="cpu", conf=0.01, verbose=False)
    file = tmp_path / "left" / "labels" / f"{boards[0].stem}.txt"
    left = file.read_text().splitlines() if file.exists() else []
    assert len(left) == (found.boxes.conf < 0.1).sum() < len(found.boxes)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["left", "val"]
