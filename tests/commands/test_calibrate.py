"""``dsmoe-yolo calibrate``: one run, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultralytics import YOLO

from ultra_dsmoe.commands.calibrate import COMMAND
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.explain import sharpness
from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate


def test_command_prints_what_it_is_worth_and_writes_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharpness, "FACTORS", (1.0, 2.0))
    monkeypatch.setattr(sharpness, "TIE", -1.0)  # an untrained net finds nothing with either: take the second
    out = tmp_path / "sharp.pt"
    assert COMMAND.main([str(checkpoint), f"out={out}", "boot=100", "device=cpu", "batch=4"]) == 0
    shown = capsys.readouterr().out
    assert "x 1.00" in shown
    assert "on the other half:" in shown
    assert "fitted on 2 images, judged on the other 2; in brackets the 95 % interval of 100 " in shown
    assert "mAP50 no evidence of a difference, mAP50-95 no evidence of a difference" in shown
    assert "temperature of the gate: 0.0500" in shown
    assert f"written: {out}" in shown
    assert blocks(YOLO(str(out)).model, ExpertGate)[0].tau.item() == pytest.approx(0.05, rel=1e-3)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_bad_input_is_refused_before_any_work(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out: expected a file that ends in \.pt, got x\.onnx"):
        COMMAND.main([str(checkpoint), "out=x.onnx", "device=cpu"])
    with pytest.raises(ConfigError, match="boot: expected a whole number from 100"):
        COMMAND.main([str(checkpoint), "boot=1"])
    assert COMMAND.main(["help"]) == 0
    assert not any(tmp_path.iterdir())
