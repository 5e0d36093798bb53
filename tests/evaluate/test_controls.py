"""Controls: what numbers of the images alone tell of the classes, learned from the training half."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hit_pictures import make_set
from scipy.stats import multivariate_normal

from ultra_dsmoe.errors import DataError, WeightsError
from ultra_dsmoe.evaluate import controls
from ultra_dsmoe.evaluate.class_stats import scores


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("hits") / "set", train=10, val=6)


@pytest.mark.parametrize(("inputs", "fit"), [(["record"], "qda"), (["measures"], "forest"), (["texts"], "logistic")])
def test_easy_classes_are_told_by_each_input(hits: Path, inputs: list[str], fit: str) -> None:
    if fit != "qda":
        pytest.importorskip("sklearn")
    stats = controls.evaluate(hits, "val", inputs, fit, dsmoe_text="hash")
    assert stats.names == ["left", "wide"]
    assert [Path(f).parent.name for f in stats.files] == [stats.names[i] for i in stats.target]
    assert scores(stats)[0] > 0.8
    assert stats.probabilities.sum(1) == pytest.approx(1)


def test_classes_of_the_test_half_change_nothing(hits: Path, tmp_path: Path) -> None:
    """An image in another class's folder is named as before."""
    first = controls.evaluate(hits, "val", ["record", "measures"], "qda")
    copy = shutil.copytree(hits, tmp_path / "copy")
    for file in sorted((copy / "val" / "left").iterdir()):
        file.rename(copy / "val" / "wide" / file.name)
    second = controls.evaluate(copy, "val", ["record", "measures"], "qda")
    said = [{Path(f).name: p for f, p in zip(s.files, s.probabilities, strict=True)} for s in (first, second)]
    assert said[0].keys() == said[1].keys()
    assert all(np.allclose(said[0][name], said[1][name]) for name in said[0])


def test_what_an_image_lacks_is_at_the_training_halfs_mean() -> None:
    numbers = np.array([[1.0, np.nan, 5.0], [3.0, np.nan, 5.0], [np.nan, 2.0, 7.0]])
    # No training image has the second number; the third does not vary among them.
    assert controls.standardised(numbers, 2) == pytest.approx(np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))


def test_the_quadratic_discriminant_is_the_known_one() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 3)), np.arange(90) % 3
    x[y == 1] *= [2.0, 0.5, 1.0]
    density = []
    for c in range(3):
        cov = (1 - controls.SHRINKAGE) * np.cov(x[y == c].T) + controls.SHRINKAGE * np.eye(3)
        density.append(np.mean(y == c) * multivariate_normal(x[y == c].mean(0), cov).pdf(x))
    expected = np.stack(density, 1) / np.sum(density, 0)[:, None]
    assert controls.Quadratic().fit(x, y).predict_proba(x) == pytest.approx(expected)
    # With fewer images of a class than numbers, too.
    few = (
        controls.Quadratic().fit(rng.normal(size=(4, 9)), np.array([0, 0, 1, 1])).predict_proba(rng.normal(size=(5, 9)))
    )
    assert np.isfinite(few).all()


def test_features_are_the_mean_of_the_backbones_last_map(hits: Path, tmp_path: Path) -> None:
    from ultralytics import YOLO

    model = YOLO("yolov8n.yaml")
    model.save(tmp_path / "net.pt")
    images = sorted((hits / "val").rglob("*.png"))[:2]
    found = controls._features(images, [], str(tmp_path / "net.pt"), 64)
    assert found.shape == (2, 256)
    seen: list[torch.Tensor] = []
    model.model.model[9].register_forward_hook(lambda m, args, out: seen.append(out.mean((2, 3))))
    model.predict([str(f) for f in images], imgsz=64, verbose=False)
    assert np.ptp(found, axis=0).max() > 0
    with pytest.raises(WeightsError, match="a readable checkpoint"):
        controls.backbone(str(tmp_path / "none.pt"))


def test_records_must_be_there(hits: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(hits, tmp_path / "copy")
    for file in copy.rglob("*.json"):
        file.write_text(json.dumps({"vlm": "a part", "llm": "nothing"}))
    with pytest.raises(DataError, match="expected a number that every image has"):
        controls.evaluate(copy, "val", ["record"], "qda")
    with pytest.raises(DataError, match="expected a folder per class with images"):
        controls.evaluate(tmp_path, "val", ["record"], "qda")
