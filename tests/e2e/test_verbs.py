"""The host's verbs on a trained net: val, predict, track, benchmark, fresh processes, the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics import YOLO

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

SIZE = 64
SCRIPT = """
import sys, torch
from ultralytics import YOLO
torch.set_num_threads(1)
torch.manual_seed(0)
net = YOLO(sys.argv[1]).model
print(type(net).__module__, float(net.eval()(torch.rand(1, 3, 64, 64))[0].sum()))
"""


def test_training_leaves_checkpoints_and_curves(trained: Path) -> None:
    assert (trained / "weights" / "best.pt").is_file()
    net = YOLO(trained / "weights" / "best.pt").model
    assert type(net) is DSMoEModel
    assert net.text_info["names"][0] == "missing_hole"
    assert len(net.text_info["prompts"][0]) == 2
    assert "router/entropy" in (trained / "results.csv").read_text()


def test_val_measures_every_class(trained: Path, tiny_boards: Path, tmp_path: Path) -> None:
    yolo = YOLO(trained / "weights" / "best.pt")
    metrics = yolo.val(
        data=tiny_boards, imgsz=SIZE, batch=2, workers=0, plots=False, project=str(tmp_path), verbose=False
    )
    assert list(metrics.names.values())[-1] == "spurious_copper"
    assert 0 <= metrics.box.map50 <= 1


def test_keys_hold_for_one_call(routed: Path, boards: list[Path], tmp_path: Path) -> None:
    yolo = YOLO(routed)
    arguments = {"imgsz": SIZE, "conf": 1e-3, "verbose": False, "project": str(tmp_path)}
    usual = yolo.predict(boards[0], **arguments)[0].boxes.data
    one = yolo.predict(boards[0], dsmoe_topk=1, **arguments)[0].boxes.data
    again = yolo.predict(boards[0], **arguments)[0].boxes.data
    assert torch.equal(usual, again)
    assert usual.shape != one.shape or not torch.allclose(usual, one)
    assert yolo.model.blocks(SparseMoE)[0].k == 5


def test_predict_takes_any_picture_size(routed: Path, tmp_path: Path) -> None:
    picture = tmp_path / "odd.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (75, 133, 3), np.uint8))
    (result,) = YOLO(routed).predict(picture, imgsz=SIZE, conf=1e-3, verbose=False, project=str(tmp_path))
    assert len(result.boxes) > 0
    assert result.boxes.xyxy[:, 2].max() <= 133


@pytest.mark.parametrize("reid", [{}, {"tracker_type": "botsort", "with_reid": True, "model": "auto"}])
def test_track_a_video(reid: dict[str, Any], routed: Path, boards: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("lap", reason="the host's trackers need lap")
    video = tmp_path / "boards.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 96))
    board = cv2.imread(str(boards[0]))
    for step in range(5):
        writer.write(np.roll(np.asarray(board), 2 * step, axis=1))
    writer.release()
    tracker = tmp_path / "eager.yaml"  # a hardly trained net is sure of nothing
    settings = {"tracker_type": "bytetrack", "track_buffer": 30, "match_thresh": 0.9, "fuse_score": False}
    levels = {"track_high_thresh": 1e-4, "track_low_thresh": 5e-5, "new_track_thresh": 1e-4}
    looks = {"gmc_method": "none", "proximity_thresh": 0.5, "appearance_thresh": 0.8} if reid else {}
    tracker.write_text(yaml.safe_dump({**settings, **levels, **looks, **reid}))
    results = YOLO(routed).track(
        str(video), imgsz=SIZE, conf=1e-4, tracker=str(tracker), verbose=False, project=str(tmp_path)
    )
    assert len(results) == 5
    ids = [set(r.boxes.id.int().tolist()) for r in results if r.boxes.is_track]
    assert len(ids) >= 2
    assert ids[-1] & ids[-2], "no box kept its number from one frame to the next"


def test_benchmark(routed: Path, tiny_boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the host writes a log there
    table = YOLO(routed).benchmark(data=str(tiny_boards), imgsz=SIZE, format="onnx", device="cpu", verbose=False)
    assert "ONNX" in str(table)
    assert "❌" not in str(table)


@pytest.mark.parametrize("safe", ["", "1"])
def test_a_fresh_process_reads_the_checkpoint(safe: str, trained: Path, tmp_path: Path) -> None:
    weights = trained / "weights" / "best.pt"
    torch.manual_seed(0)
    expected = float(YOLO(weights).model.eval()(torch.rand(1, 3, 64, 64))[0].sum())
    env = {**os.environ, "OMP_NUM_THREADS": "1", **({"ULTRALYTICS_SAFE_LOAD": safe} if safe else {})}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(weights)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    module, total = done.stdout.split()[-2:]
    assert module == "ultra_dsmoe.model.detector"
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_the_command_line_trains_and_predicts(
    run_yolo: Callable[..., subprocess.CompletedProcess[str]], tiny_boards: Path, boards: list[Path], tmp_path: Path
) -> None:
    common = ("imgsz=64", "workers=0", "device=cpu", "plots=False", f"project={tmp_path}")
    training = (f"data={tiny_boards}", "epochs=1", "batch=4", "name=cli", "dsmoe_text=hash", "dsmoe_topk=3")
    done = run_yolo("train", "model=dsmoe-n.yaml", *training, *common)
    assert "3 of 32 experts chosen" in done.stdout + done.stderr
    best = tmp_path / "cli" / "weights" / "best.pt"
    run_yolo("predict", f"model={best}", f"source={boards[0]}", "conf=0.001", *common, "name=seen", script="dsmoe-yolo")
    assert (tmp_path / "seen" / f"{boards[0].stem}.jpg").is_file()
