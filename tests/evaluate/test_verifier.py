"""Boxes of a batch meet the classifier: the crops it gets, once for all images, and whose boxes go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics.engine.results import Results

from ultra_dsmoe.data.crops import crop_set
from ultra_dsmoe.evaluate.second_look import Rule
from ultra_dsmoe.evaluate.verifier import Found, Verifier, cut

NAMES = {0: "scratch", 1: "dent"}
H, W = 60, 90


class Spy:
    """A classifier that calls dark crops background, and keeps what it was shown."""

    def __init__(self) -> None:
        self.names = {0: "background", 1: "scratch"}
        self.calls: list[list[np.ndarray]] = []

    def probabilities(self, crops: list[np.ndarray], device: Any) -> np.ndarray:
        self.calls.append(crops)
        bright = np.array([crop.mean() / 255 for crop in crops])
        return np.stack([1 - bright, bright], 1)


def pixels(value: int, channels: int = 3) -> np.ndarray:
    return np.full((H, W, channels), value, np.uint8)


def found(picture: Callable[[], np.ndarray], *boxes: tuple[float, int]) -> Found:
    corners = np.array([[10.0 * i, 5, 10.0 * i + 8, 25] for i in range(len(boxes))]).reshape(-1, 4)
    return Found(
        picture, corners, np.array([score for score, _ in boxes]), np.array([float(kind) for _, kind in boxes])
    )


def unread() -> np.ndarray:
    raise AssertionError("an image without a doubtful box is not read")


def test_a_batch_is_asked_once_and_each_image_gets_its_own() -> None:
    spy = Spy()
    verifier = Verifier(spy, NAMES, Rule(0.1, 0.5, 0.5))
    batch = [
        found(lambda: pixels(0), (0.9, 0), (0.3, 0), (0.3, 1)),
        found(unread, (0.9, 0), (0.05, 0)),
        found(unread),
        found(lambda: pixels(255), (0.2, 0), (0.4, 0)),
        found(lambda: pixels(0), (0.2, 0)),
    ]
    stays = [rows.tolist() for rows in verifier.stays(batch, "cpu")]
    assert stays == [[True, False, True], [True, True], [], [True, True], [False]]
    assert [[int(crop.mean()) for crop in call] for call in spy.calls] == [[0, 255, 255, 0]]
    assert (verifier.asked, verifier.dropped) == (4, 2)
    assert verifier.summary() == "Second look: 2 of 4 doubtful boxes dropped (scores from 0.1 to 0.5)"


@pytest.mark.parametrize("batch", [[], [found(unread)]])
def test_nothing_found_is_nothing_to_do(batch: list[Found]) -> None:
    verifier = Verifier(Spy(), NAMES, Rule())
    assert [rows.tolist() for rows in verifier.stays(batch, "cpu")] == [[]] * len(batch)


def test_crops_are_those_of_a_set_made_of_crops(tmp_path: Path) -> None:
    """What the classifier was trained on, pixel by pixel."""
    boxes = np.array([[3, 4, 33, 14], [70, 20, 90, 60], [40, 30, 43, 32]], float)
    picture = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)
    for place in ("images/train", "labels/train"):
        (tmp_path / place).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images/train/a.png"), picture)
    shares = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]]) / [W, H, W, H]
    lines = ["0 " + " ".join(f"{value:.6f}" for value in row) for row in shares]
    (tmp_path / "labels/train/a.txt").write_text("\n".join(lines))
    data = {"path": str(tmp_path), "train": "images/train", "val": None, "names": NAMES}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    crop_set(tmp_path / "data.yaml", tmp_path / "crops", background=0)
    for i, crop in enumerate(cut(picture, boxes + 0.2)):
        np.testing.assert_array_equal(crop, cv2.imread(str(tmp_path / f"crops/train/scratch/a_{i}.png")))


def test_gray_pictures_become_coloured_and_boxes_beyond_the_edge_are_cut() -> None:
    crops = cut(pixels(7, channels=1), np.array([[-20.0, -20, 10, 10], [85, 55, 200, 200], [-9, -9, -5, -5]]))
    assert [crop.shape for crop in crops] == [(14, 14, 3), (9, 9, 3), (5, 5, 3)]
    assert all((crop == 7).all() and crop.flags.c_contiguous for crop in crops)


def test_results_lose_what_is_not_confirmed_with_its_features() -> None:
    rows = torch.tensor([[0, 0, 20, 20, 0.9, 0], [5, 5, 25, 25, 0.3, 0], [5, 5, 25, 25, 0.3, 1.0]])
    results = [Results(pixels(value), path=f"{value}.png", names=NAMES, boxes=rows.clone()) for value in (0, 255)]
    for result in results:
        result.feats = torch.arange(3)
    kept = results[1]
    predictor = SimpleNamespace(results=results, device=torch.device("cpu"))
    Verifier(Spy(), NAMES, Rule(0.1, 0.5, 0.5)).on_predict_postprocess_end(predictor)
    torch.testing.assert_close(results[0].boxes.data, rows[[0, 2]])
    assert results[0].feats.tolist() == [0, 2]
    assert (results[0].path, results[0].names) == ("0.png", NAMES)
    assert results[1] is kept
    torch.testing.assert_close(kept.boxes.data, rows)
