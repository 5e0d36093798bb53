"""The block's benchmark: its files agree, its work is counted, its line and bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

C, PIXELS, N = 8, 6, 10


@pytest.fixture(scope="module")
def files(moe_latency: ModuleType) -> dict[str, Any]:
    make = moe_latency.Variant
    variants = [make("dense", 3), make("gather", 1), make("gather", 3), make("static", 3, 4)]
    return moe_latency.candidates(variants, C, PIXELS, N)


def test_names(moe_latency: ModuleType) -> None:
    names = [v.name for v in moe_latency.VARIANTS]
    assert names[:3] == ["dense", "gather k=1", "gather k=2"]
    assert names[-3:] == ["static 5", "static 8", "static 32"]
    assert len(set(names)) == len(names)


def test_files_are_the_block(moe_latency: ModuleType, files: dict[str, Any]) -> None:
    for file in files.values():
        row = moe_latency.build(file.variant, C, N)
        with torch.no_grad():
            wanted = row(torch.from_numpy(file.feed["x"]), torch.from_numpy(file.feed["gate"]))
        np.testing.assert_allclose(file.run(), wanted.numpy(), atol=1e-5)
    assert moe_latency.check(files, N) < 1e-5


def test_work_grows_by_expert(files: dict[str, Any]) -> None:
    one = 2 * PIXELS**2 * (C * C + 9 * C) / 1e9  # of a cross-modal expert, with its share of the sum
    universal = 2 * PIXELS**2 * (14 * C + C * C + 3 * C * C) / 1e9
    share = 2 * PIXELS**2 * C / 1e9
    for name, computed in (("gather k=1", 1), ("gather k=3", 3), ("dense", N - 2), ("static 4", 2)):
        assert files[name].gflops == pytest.approx(universal + computed * (one + share), rel=1e-6)


def test_check_finds_another_result(moe_latency: ModuleType, files: dict[str, Any]) -> None:
    spoilt = {**files, "gather k=3": _with(files["gather k=3"], lambda got: got + 1e-3)}
    with pytest.raises(RuntimeError, match=r"gather k=3 differs from dense by 1\.0e-03"):
        moe_latency.check(spoilt, N)


def test_check_finds_a_frozen_route(moe_latency: ModuleType, files: dict[str, Any]) -> None:
    frozen = files["gather k=3"].run().copy()
    dense = _with(files["dense"], lambda _: frozen)
    gather = _with(files["gather k=3"], lambda _: frozen)
    with pytest.raises(RuntimeError, match="gather k=3 gives two routes the same result"):
        moe_latency.check({"dense": dense, "gather k=3": gather}, N)


def _with(file: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    return type(file)(file.variant, file.gflops, file.feed, lambda: change(file.run()))


def test_another_route_is_taken_back(moe_latency: ModuleType, files: dict[str, Any]) -> None:
    file = files["gather k=1"]
    usual = file.run()
    other = file.on(moe_latency.route([N - 1], N))
    assert np.abs(other - usual).max() > 1e-3
    np.testing.assert_array_equal(file.run(), usual)


def test_line(moe_latency: ModuleType) -> None:
    assert moe_latency.fit([1, 2, 4], [5, 7, 11]) == pytest.approx((3, 2))


def test_expected_growth(moe_latency: ModuleType) -> None:
    assert moe_latency.expected_growth(1, 4, fixed=0, slope=7) == pytest.approx(4)
    assert moe_latency.expected_growth(1, 4, fixed=2, slope=1) == pytest.approx(2)
    assert moe_latency.expected_growth(1, 4, fixed=-0.5, slope=1) == pytest.approx(4), "it grows faster than work"


def measured(moe_latency: ModuleType, **changed: float) -> tuple[dict[str, float], dict[str, Any]]:
    """Times of 1 ms + 10 ms per GFLOP for gathered files, medians twice that, on an idle machine; dense 20 ms."""
    names = [v.name for v in moe_latency.VARIANTS]
    work = dict.fromkeys(names, 1.9) | {f"gather k={k}": 0.2 + 0.05 * k for k in moe_latency.GATHER_K}
    ms = dict.fromkeys(names, 20.0) | {f"gather k={k}": 3 + 0.5 * k for k in moe_latency.GATHER_K}
    ms |= {"static 5": 4.0, "static 8": 6.0, **changed}
    timing = sys.modules["interleaved"].Timing
    return work, {name: timing(t, 2 * t, t) for name, t in ms.items()}


def test_bars(moe_latency: ModuleType) -> None:
    work, times = measured(moe_latency)
    gather, static, growth = moe_latency.bars(work, times)
    assert (gather.value, gather.aim, gather.holds) == (pytest.approx(5.5 / 20), 0.30, True)
    assert (static.value, static.aim, static.holds) == (pytest.approx(4 / 20), 0.24, True)
    assert (growth.value, growth.aim, growth.holds) == (pytest.approx(1), 1.3, True)
    work, times = measured(moe_latency, **{"gather k=5": 6.1, "static 5": 4.9})
    assert [bar.holds for bar in moe_latency.bars(work, times)] == [False, False, True]


def test_report_and_json(
    moe_latency: ModuleType,
    files: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work, times = measured(moe_latency, **{"static 5": 4.9})
    some = files["gather k=1"]
    counted = {name: type(some)(some.variant, gflops, some.feed, some.run) for name, gflops in work.items()}
    monkeypatch.setattr(moe_latency, "candidates", lambda *_: counted)
    monkeypatch.setattr(moe_latency, "check", lambda *_: 1e-6)
    monkeypatch.setattr(moe_latency, "interleave", lambda runs, repeats: times)
    file = tmp_path / "moe.json"
    monkeypatch.setattr(sys, "argv", ["moe_latency.py", "--json", str(file), "--repeats", "3"])
    moe_latency.main()
    out = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in out if line.startswith("gather k=5"))
    assert row[2:] == ["0.450", "5.50", "11.00", "5.50", "0.275", "0.275", "0.275"]
    assert "gather: 1.00 ms fixed + 10.00 ms per GFLOP (least squares, minima)" in out
    assert any(line.startswith("k=8 over k=1: 2.00; by work alone 2.40, by work and fixed part 2.00") for line in out)
    assert out[-2] == "static 5 over dense: 0.245 (median 0.245, processor 0.245), aim <= 0.24: MISSED"
    found = json.loads(file.read_text())
    assert found["gather_k5_over_dense"] == pytest.approx(0.275)
    assert found["fixed_ms"] == pytest.approx(1)
    assert found["variants"]["static 5"]["median_ms"] == pytest.approx(9.8)
    assert [bar["holds"] for bar in found["bars"]] == [True, False, True]
    assert (found["repeats"], found["threads"]) == (3, 1)


def test_usage(moe_latency: ModuleType, usage_error: Callable[..., str], tmp_path: Path) -> None:
    assert "--repeats: expected an integer of at least 1, got 0" in usage_error(moe_latency, "--repeats", "0")
    wrong = str(tmp_path / "no" / "x.json")
    assert "--json: expected a file in an existing folder, got" in usage_error(moe_latency, "--json", wrong)
