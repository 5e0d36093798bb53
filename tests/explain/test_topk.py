"""The table of k: what is measured, with which k in force, and how it is written down."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ultra_dsmoe.commands.topk import COMMAND, several_k
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.explain import topk
from ultra_dsmoe.explain.plots.topk import draw
from ultra_dsmoe.explain.topk import Row, as_csv, cells, latencies, measure
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE

ROWS = [
    Row(k, 0.4 + 0.02 * k, 0.2 + 0.01 * k, 1.0 + k / 10, 9.0 + k, 8.0 + k, 7.0 + k, 6.0 + k) for k in topk.TABLE_K[:4]
]


def test_lists_of_k() -> None:
    assert several_k("k", "5") == [5]
    assert several_k("k", "8, 1,2,8") == [1, 2, 8]
    assert several_k("k", "[1,2,4]") == [1, 2, 4]
    for wrong in ("", "0", "1,,2", "1,x", "2.5"):
        with pytest.raises(ConfigError, match=r"^k: expected"):
            several_k("k", wrong)


def test_command_fills_the_table(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of the command: accuracy under its own k, work as the net counts it, one latency per engine."""
    out, run, evaluated = tmp_path / "table", Evaluation.run, []

    def watched(self: Evaluation, *args: object) -> object:
        evaluated.append(self.net.blocks(SparseMoE)[0].k)
        return run(self, *args)

    monkeypatch.setattr(Evaluation, "run", watched)
    monkeypatch.setattr(topk, "mean_ap", lambda stats: (len(evaluated) / 10, len(stats.conf) / 10))
    assert COMMAND.main([str(checkpoint), "k=2,32", "rounds=3", "device=cpu", "batch=4", f"out={out}"]) == 0
    rows = list(csv.DictReader(io.StringIO((out / "topk.csv").read_text())))
    assert [int(r["k"]) for r in rows] == [2, 32]
    assert evaluated == [2, 32]
    assert [(r["map50"], r["map50_95"]) for r in rows] == [("0.1000", "0.4000"), ("0.2000", "0.4000")]  # 4 images
    net = Evaluation({"model": str(checkpoint), "device": "cpu"}).net
    net.fuse()
    for row in rows:
        net.set_topk(int(row["k"]))
        assert float(row["gflops"]) == pytest.approx(net.gflops(64), abs=1e-4)
        for engine in ("torch", "onnx"):
            assert 0 < float(row[f"{engine}_ms_min"]) <= float(row[f"{engine}_ms_median"])
    assert float(rows[1]["gflops"]) > float(rows[0]["gflops"])
    assert Image.open(out / "topk.png").size[0] > 1000
    shown = capsys.readouterr().out
    assert "ONNX Runtime ms" in shown
    assert f"written: {out / 'topk.csv'}" in shown
    assert list(checkpoint.parent.iterdir()) == [checkpoint], "exported files stay out of the run folder"


def test_latency_is_interleaved_on_one_thread() -> None:
    order: list[Any] = []
    torch.set_num_threads(2)
    runs = {("torch", k): (lambda image, k=k: order.append((k, torch.get_num_threads()))) for k in (1, 2)}
    times = latencies(runs, torch.zeros(1, 3, 4, 4), 4)
    assert order == [(1, 1), (2, 1)] * (4 + topk.WARM_UP)
    assert {key: t.shape for key, t in times.items()} == {("torch", 1): (4,), ("torch", 2): (4,)}
    assert torch.get_num_threads() == 2


def test_errors(checkpoint: Path, tmp_path: Path) -> None:
    evaluation = Evaluation({"model": str(checkpoint), "device": "cpu"})
    with pytest.raises(ConfigError, match=r"^k: expected numbers from 1 to 32 .*, got 33"):
        measure(evaluation, [1, 33])
    with pytest.raises(ConfigError, match="rounds: expected a whole number from 1"):
        COMMAND.main([str(checkpoint), "rounds=0"])
    for block in evaluation.net.blocks(SparseMoE):
        block.experts = 9
    assert topk._fitting(evaluation, None) == [1, 2, 4, 5, 8]
    evaluation.net.model = torch.nn.Sequential(*[m for m in evaluation.net.model if not isinstance(m, SparseMoE)])
    with pytest.raises(ConfigError, match="model: expected a network with a SparseMoE"):
        measure(evaluation)
    assert COMMAND.main(["help"]) == 0


def test_what_is_written() -> None:
    table = cells(ROWS)
    assert table[0][:4] == ["k", "mAP50", "mAP50-95", "GFLOPs"]
    assert table[1] == ["1", "0.420", "0.210", "1.10", "10.00", "9.00", "8.00", "7.00", ""]
    assert as_csv(ROWS).splitlines()[1] == "1,0.4200,0.2100,1.1000,10.0000,9.0000,8.0000,7.0000"


def test_picture_shows_the_lines() -> None:
    """More rows draw more ink in both colours; a mark adds grey."""

    def ink(png: bytes, colour: tuple[int, int, int]) -> int:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        return int((np.abs(pixels - colour).max(-1) < 8).sum())

    blue, orange, grey = (0, 114, 178), (213, 94, 0), (153, 153, 153)
    few, many = draw(ROWS[:1], None, "t"), draw(ROWS, None, "t")
    assert ink(many, blue) > 2 * ink(few, blue)
    assert ink(many, orange) > 2 * ink(few, orange)
    assert ink(draw(ROWS, 4, "t"), grey) > ink(many, grey) + 100
