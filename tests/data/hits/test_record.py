"""The record by hand, its rings, and what a sidecar must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ultra_dsmoe.data.hits import record
from ultra_dsmoe.data.hits.distribution import RADIUS
from ultra_dsmoe.errors import DataError

POINTS = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [-6.0, -8.0], [0.0, RADIUS]])


def test_record_by_hand() -> None:
    assert record.measure(POINTS) == {
        "mu_x": -0.8,
        "mu_y": 3.2,
        "sd_x": 3.0332,  # squares about -.8: .64 + 7.84 + .64 + 27.04 + .64 = 36.8, over 4: 9.2
        "sd_y": 10.3537,  # about 3.2: 10.24 + 10.24 + .64 + 125.44 + 282.24 = 428.8, over 4: 107.2
        "cov_xy": 15.2,  # 48 + 5 x .8 x 3.2 = 60.8, over 4
        "hits": 5,
        **{"r0_2": 1, "r2_4": 1, "r4_6": 1, "r6_8": 0, "r8_10": 0, "r10_12": 1, "r12_20": 1},
    }


def test_only_what_is_asked_for_and_known_is_measured() -> None:
    assert record.measure(POINTS, ["hits", "r0_5", "lot", "r5_20", "r5"]) == {"hits": 5, "r0_5": 3, "r5_20": 2}


def test_rings_add_up_to_the_hits() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-RADIUS, RADIUS, (500, 2))
    found = record.measure(points[np.hypot(*points.T) <= RADIUS])
    assert sum(v for k, v in found.items() if k.startswith("r")) == found["hits"]


def test_round_trip(tmp_path: Path) -> None:
    record.write(tmp_path / "a.b.png", record.measure(POINTS))
    assert [f.name for f in tmp_path.iterdir()] == ["a.b.json"]
    assert record.read(tmp_path / "a.b.png") == record.measure(POINTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"a\.png: expected a sidecar .* beside it, got no a\.json"),
        ("{", r"a\.json: expected a sidecar"),
        ("\xff", r"a\.json: expected a sidecar"),
        ("[]", r"a\.json: expected a sidecar .* got no record"),
        ('{"vlm": "x"}', r"a\.json: expected a sidecar .* got no record"),
        ('{"record": 3}', r"a\.json: expected a sidecar .* got 3"),
        ('{"record": {"mu_x": "1"}}', r"a\.json mu_x: expected a finite number, got 1"),
        ('{"record": {"mu_x": NaN}}', r"a\.json mu_x: expected a finite number, got nan"),
        ('{"record": {"mu_x": true}}', r"a\.json mu_x: expected a finite number, got True"),
    ],
)
def test_a_bad_sidecar_is_named_in_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message) as caught:
        record.read(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
