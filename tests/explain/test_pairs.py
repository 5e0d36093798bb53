"""Pictures of a classifier that texts teach: what is drawn is what the net says of these images."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hit_pictures import make_set

from ultra_dsmoe.commands import run
from ultra_dsmoe.errors import ConfigError, TextError
from ultra_dsmoe.evaluate.controls import images_of
from ultra_dsmoe.explain import pairs
from ultra_dsmoe.explain.pair_pictures import pair_files
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_text import PairText

SIZE = 64


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("hits") / "set", train=4, val=7)


def build(hits: Path, mode: str) -> PairModel:
    torch.manual_seed(0)
    text = PairText.fit(images_of(hits, "train")[0], "rules", "hash")
    plan = PairModel("yolov8n-pfa-cls.yaml", verbose=False)
    section = {**plan.options, "text_mode": mode, "text_width": text.width}
    net = PairModel({**plan.yaml, "dsmoe": section}, nc=2, verbose=False)
    net.pair_text, net.names = text.state(), {0: "left", 1: "wide"}
    return net


def test_what_is_seen_of_the_pairs(hits: Path) -> None:
    net = build(hits, "always")
    torch.nn.init.normal_(net.model[14].gate.weight)  # an untrained gate weighs all by a half
    seen = pairs.look(net, pairs.text_of(net), *images_of(hits, "val"), SIZE)
    assert seen.vectors.shape == (3, 14, 256)
    assert np.linalg.norm(seen.vectors, axis=2) == pytest.approx(1, abs=1e-5)
    assert seen.weights is not None
    assert seen.weights.shape == (14, 3)
    assert (seen.weights > 0).all()
    assert seen.weights.std(0).min() > 1e-4
    assert all("ecorded" in text.llm for text in seen.texts)
    by_hand = [np.mean([p @ v, p @ w]) for p, v, w in zip(*seen.vectors, strict=True)]
    assert seen.likeness == pytest.approx(by_hand, abs=1e-6)
    left, wide = seen.target == 0, seen.target == 1
    across = [np.concatenate([(seen.vectors[0][a] @ t[b].T).ravel() for a, b in ((left, wide), (wide, left))])
              for t in seen.vectors[1:]]  # fmt: skip
    assert seen.likeness_of_others() == pytest.approx(np.mean(across), abs=1e-6)
    # Nothing of the looking stays on the net.
    assert not net.head.whole
    assert not net.model[14].record_weights


def test_classes_take_turns() -> None:
    target = np.array([0] * 10 + [1] * 2 + [2] * 4)
    chosen = pairs.in_turn(target, 8, seed=0)
    assert target[chosen].tolist() == [0, 1, 2, 0, 1, 2, 0, 2]
    assert len(set(pairs.in_turn(target, 99, seed=0).tolist())) == 16


def test_main_axes_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.zeros((3, 4, 5))
    vectors[..., 2] = np.arange(12).reshape(3, 4)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    points, method = pairs.flat(vectors, 0)
    assert method == "main axes"
    assert np.abs(np.diff(points[..., 0].ravel())) == pytest.approx(1)
    assert points[..., 1] == pytest.approx(0)


def test_files(hits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)  # t-SNE takes seconds
    images = images_of(hits, "val")
    made, notes = pair_files(build(hits, "always"), None, images, SIZE, "best.pt", 0)
    assert set(made) == {"pair_vectors.png", "pair_vectors.csv", "pairs.png", "pair_weights.png", "pair_weights.csv"}
    rows = list(csv.DictReader(io.StringIO(made["pair_weights.csv"].decode())))
    assert [(r["class"], r["images"], r["part"]) for r in rows[:3]] == [("left", "7", p) for p in pairs.PARTS]
    assert {r["mean"] for r in rows} == {"0.50000"}  # of an untrained gate
    places = list(csv.DictReader(io.StringIO(made["pair_vectors.csv"].decode())))
    assert len(places) == 2 * 3 * 14
    assert {r["net"] for r in places} == {"untrained", "as trained"}
    assert "weights: first text 0.50 (+- 0.00)" in notes[1]
    for name in (n for n in made if n.endswith(".png")):
        pixels = cv2.imdecode(np.frombuffer(made[name], np.uint8), cv2.IMREAD_COLOR)
        assert (np.ptp(pixels, axis=2) > 60).mean() > 5e-4, name  # colours: not its title alone
    without, notes = pair_files(build(hits, "train"), build(hits, "train"), images, SIZE, "best.pt", 0)
    assert set(without) == {"pair_vectors.png", "pair_vectors.csv", "pairs.png"}
    assert notes[1] == "weights: left out, the model weighs no texts"


def test_command(
    hits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ultralytics import YOLO

    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    yolo = YOLO("yolov8n-pfa-cls.yaml")
    yolo.model = build(hits, "train")
    yolo.save(tmp_path / "net.pt")
    place = [str(tmp_path / "net.pt"), f"data={hits}", f"imgsz={SIZE}"]
    assert run(["pictures", *place, f"before={tmp_path / 'net.pt'}"]) == 0
    assert "before alignment" in capsys.readouterr().out
    assert (tmp_path / "pictures" / "pairs.png").is_file()
    with pytest.raises(ConfigError, match="data: expected the folder of the classification set"):
        run(["pictures", place[0]])
    yolo.model.pair_text = None
    yolo.save(tmp_path / "new.pt")
    with pytest.raises(TextError, match="expected one that was trained"):
        run(["pictures", str(tmp_path / "new.pt"), *place[1:]])
