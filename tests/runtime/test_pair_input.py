"""Files that compare, without torch: the host's boxes, and what is refused; also in an environment without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from reference_fixtures import HEIGHT, PAIR_NAMES, SIZE, WIDTH, faulty_picture, golden_picture
from ultralytics import YOLO

from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, WeightsError
from ultra_dsmoe.runtime import registration
from ultra_dsmoe.runtime.detector import Runtime
from ultra_dsmoe.runtime.pair_input import paired
from ultra_dsmoe.runtime.pairing import halves
from ultra_dsmoe.runtime.reference_entry import ReferenceEntry, read_entry
from ultra_dsmoe.runtime.registration import MISMATCH_LIMIT

ROOT = Path(__file__).resolve().parents[2]
SaveNet = Callable[..., Path]
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "ultralytics", "yaml", "onnx", "PIL"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def exported_pairs(save_reference_net: SaveNet) -> Callable[..., Path]:
    def make(batch: int = 1, dynamic: bool = False, **options: Any) -> Path:
        path = save_reference_net(**options)
        return Path(
            YOLO(path).export(format="onnx", imgsz=SIZE, device="cpu", verbose=False, batch=batch, dynamic=dynamic)
        )

    return make


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("dynamic", [False, True])
def test_same_boxes_as_the_host(channels: int, dynamic: bool, exported_pairs: Callable[..., Path]) -> None:
    file = exported_pairs(channels=channels, dynamic=dynamic)
    ours, host = Runtime(file, threads=1), YOLO(file, task="detect")
    found_any = 0
    for picture, golden in (
        (faulty_picture(channels), golden_picture(channels)),
        (faulty_picture(channels, 2)[:, :50], golden_picture(channels, 3)[:, :50]),
        (faulty_picture(channels), np.repeat(np.repeat(golden_picture(channels), 2, 0), 2, 1)),
    ):
        (result,) = host.predict(picture, dsmoe_reference=golden, imgsz=SIZE, conf=0.05, device="cpu", verbose=False)
        found = ours.predict(picture, reference=golden, conf=0.05)
        assert len(found) == len(result)
        assert found.reference.mismatch == pytest.approx(result.reference.mismatch)
        for d, box, score in zip(found, result.boxes.xyxy.numpy(), result.boxes.conf.tolist(), strict=True):
            assert d.name in PAIR_NAMES.values()
            assert d.score == pytest.approx(score, abs=1e-4)
            np.testing.assert_allclose(d.box_xyxy_px, box, atol=1.0)
        found_any += len(found)
    assert found_any


def test_reference_changes_what_is_found_and_a_wrong_one_is_told(exported_pairs: Callable[..., Path]) -> None:
    runtime = Runtime(exported_pairs(limit=0.3), threads=1)
    right = runtime.predict(faulty_picture(), reference=golden_picture(), conf=0.01)
    wrong = runtime.predict(faulty_picture(), reference=golden_picture(seed=9), conf=0.01)
    assert [d.score for d in right] != [d.score for d in wrong]
    assert runtime.limit == 0.3
    assert (right.other_product, wrong.other_product) == (False, True)
    assert right.reference.mismatch < 0.3 < wrong.reference.mismatch


def test_batch_with_a_reference_each_or_one_for_all(exported_pairs: Callable[..., Path], tmp_path: Path) -> None:
    runtime = Runtime(exported_pairs(batch=2, missing="blank"), threads=1)
    pictures = [faulty_picture(), faulty_picture(seed=1)]
    golden = tmp_path / "golden.png"
    cv2.imwrite(str(golden), golden_picture())
    first, second = runtime.predict_batch(pictures, [golden, golden_picture(seed=1)], conf=0.01)
    alone = runtime.predict(pictures[1], reference=golden_picture(seed=1), conf=0.01)
    np.testing.assert_allclose([d.score for d in second], [d.score for d in alone], atol=1e-5)
    assert first.reference.file == str(golden)
    shared, other = runtime.predict_batch(pictures, golden)
    assert (shared.reference.file, other.reference.file) == (str(golden), str(golden))
    known, blank = runtime.predict_batch(pictures, [golden, None])
    assert (known.reference.state, blank.reference.state) == ("ok", "missing")
    with pytest.raises(ConfigError, match="references: expected one for each of 2 images, got 3"):
        runtime.predict_batch(pictures, [golden] * 3)


def test_shifted_reference_is_laid_on_the_image() -> None:
    entry = ReferenceEntry(align="shift")
    large = cv2.resize(golden_picture(), (320, 240), interpolation=cv2.INTER_NEAREST)
    moved = np.roll(large, (3, 2), (0, 1))
    pair, known = paired(large, moved, entry)
    image, reference = halves(pair)
    assert np.array_equal(image, large)
    inner = np.s_[8:-8, 8:-8]
    before = np.abs(large[inner].astype(int) - moved[inner]).mean()
    after = np.abs(large[inner].astype(int) - reference[inner]).mean()
    assert after < before / 4
    assert known.state == "ok"
    noise = np.random.default_rng(0).integers(0, 255, large.shape, np.uint8)
    pair, known = paired(large, noise, entry)
    assert known.state == "unregistered"
    assert not halves(pair)[1].any()


@pytest.mark.parametrize(
    ("reference", "error", "part"),
    [
        (None, ConfigError, "reference: expected the known-good picture of the part"),
        ("nowhere.png", DataError, "nowhere.png"),
        (golden_picture()[:20], DataError, f"product size of the image, {WIDTH}x{HEIGHT}"),
        (np.zeros((HEIGHT, WIDTH, 3)), DSMoEError, "reference: expected uint8"),
    ],
)
def test_wrong_references_are_one_line(
    reference: Any, error: type[DSMoEError], part: str, exported_pairs: Callable[..., Path]
) -> None:
    with pytest.raises(error) as caught:
        Runtime(exported_pairs()).predict(faulty_picture(), reference=reference)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_without_the_row_takes_no_reference(exported_pairs: Callable[..., Path]) -> None:
    file = exported_pairs()
    model = onnx.load(file)
    table = {p.key: p.value for p in model.metadata_props if p.key != "dsmoe_reference"}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, table)
    onnx.save(model, file)
    with pytest.raises(ConfigError, match="reference: expected a file that compares"):
        Runtime(file).predict(faulty_picture(), reference=golden_picture())


@pytest.mark.parametrize("text", ["{", "[]", '{"channels": 3}', 7, '{"channels": true}'])
def test_damaged_entries_are_refused(text: Any) -> None:
    with pytest.raises(WeightsError, match=r"dsmoe_reference of best\.onnx: expected what this package's export wrote"):
        read_entry({"dsmoe_reference": text}, "best.onnx")
    good = ReferenceEntry(1, "blank", "affine", 0.4, "conv")
    assert read_entry({"dsmoe_reference": good.as_text()}, "best.onnx") == good
    assert read_entry({"dsmoe_reference": json.loads(good.as_text())}, "best.onnx") == good
    assert read_entry({}, "best.onnx") is None


def edited_entry(file: Path, **changed: Any) -> Path:
    """Write a copy of a file whose entry about references says something else."""
    model, target = onnx.load(file), file.with_name(f"edited-{file.name}")
    for p in model.metadata_props:
        if p.key == "dsmoe_reference":
            p.value = json.dumps({**json.loads(p.value), **changed})
    onnx.save(model, target)
    return target


def test_limit_is_the_usual_one_where_none_was_measured() -> None:
    assert ReferenceEntry(limit=0.2).mismatch_limit == 0.2
    assert ReferenceEntry(limit=0.0).mismatch_limit == 0.0
    assert ReferenceEntry().mismatch_limit == MISMATCH_LIMIT


def test_nothing_is_registered_where_references_are_not_laid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "register", None)
    pair, known = paired(faulty_picture(), golden_picture(), ReferenceEntry())
    assert np.array_equal(halves(pair)[1], golden_picture())
    assert (known.state, known.quality) == ("ok", None)


def test_example_runs_where_torch_and_the_host_are_blocked(exported_pairs: Callable[..., Path], tmp_path: Path) -> None:
    file = exported_pairs(limit=0.3)
    for name, picture in (("good", golden_picture()), ("board", faulty_picture()), ("other", faulty_picture(seed=9))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_",))}

    def run(*pictures: str, file: Path = file) -> subprocess.CompletedProcess[str]:
        words = [str(ROOT / "examples" / "03_reference.py"), str(file), "good.png", *pictures]
        return subprocess.run(
            [sys.executable, "-c", BLOCK, *words], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )

    done = run("board.png")
    assert done.returncode == 0, done.stderr[-2000:]
    expected = Runtime(file).predict(tmp_path / "board.png", reference=tmp_path / "good.png", conf=0.25)
    assert len(done.stdout.splitlines()) == len(expected) > 0
    assert f"board.png: {expected[0].name} {expected[0].score:.2f} at" in done.stdout
    done = run("board.png", "other.png")
    assert done.returncode == 2
    assert "other.png: not the part of good.png? mismatch" in done.stdout
    blank = edited_entry(file, align="shift", limit=1.0)
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "good.png"), noise)
    assert "board.png: reference unregistered, looked at alone" in run("board.png", file=blank).stdout
