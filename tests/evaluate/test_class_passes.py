"""A classifier and a set, ready for passes: what is refused, what is in force when, and knock-outs of all inputs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hit_pictures import images_of, make_set
from PIL import Image
from torch import nn
from ultralytics import YOLO
from ultralytics.data.augment import classify_transforms
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.commands.knockout import COMMAND
from ultra_dsmoe.data.pairs import with_plane
from ultra_dsmoe.errors import ConfigError, DataError, WeightsError
from ultra_dsmoe.evaluate.class_evaluation import ClassEvaluation, evaluation_of
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_text import PairText
from ultra_dsmoe.nn.knockout import hooked

SIZE, WIDTH = 64, 32


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "hits", train=6, val=7)


def saved(path: Path, hits: Path, **section: Any) -> Path:
    """Save an untrained classifier that tells images apart, as after some training."""
    text = PairText.fit(images_of(hits, "train"), encoder=f"hash:{WIDTH}")
    cfg = yaml_model_load("yolov8n-pfa-cls.yaml")
    cfg["dsmoe"] = {**cfg["dsmoe"], "text_width": WIDTH, **section}
    torch.manual_seed(0)
    net = PairModel(cfg, nc=2, verbose=False)
    net.pair_text, net.names, net.task = text.state(), {0: "left", 1: "wide"}, "classify"
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    net.train()(torch.rand(4, cfg.get("channels", net.yaml["channels"]), SIZE, SIZE))
    for linear in (net.head.mlp[0], net.head.linear):
        nn.init.normal_(linear.weight, std=1.0)
    torch.save({"model": net.eval(), "train_args": {"task": "classify", "imgsz": SIZE, "data": str(hits)}}, path)
    return path


@pytest.fixture(scope="module")
def fusing(tmp_path_factory: pytest.TempPathFactory, hits: Path) -> Path:
    return saved(tmp_path_factory.mktemp("run") / "weights.pt", hits, text_mode="always")


def test_each_input_of_the_fusion_is_switched_off(fusing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, on the set of the training: in macro F1 and accuracy, and the control gives all back."""
    before = fusing.read_bytes()
    assert COMMAND.main([str(fusing), "device=cpu", "batch=4", "boot=100"]) == 0
    rows = {r["knockout"]: r for r in csv.DictReader((fusing.parent / "knockout" / "knockout.csv").open())}
    inputs = [f"fusion-{name}-constant" for name in ("picture", "vlm", "llm", "texts")]
    assert [*rows] == ["as-trained", *inputs, "fusion-weights-constant", "fusion-attention-uniform", "control"]
    assert {float(rows["control"][f"{m}_{part}"]) for m in ("macro_f1", "top1") for part in ("change", "low", "high")} \
        == {0}  # fmt: skip
    page = (fusing.parent / "knockout" / "knockout.md").read_text()
    assert "100 paired bootstrap resamples of the 14 images (seed 0)" in page
    assert "change: macro F1 or accuracy with it off" in page
    assert "does not apply" not in page, "of what only detectors have nothing is said"
    assert "fusion-vlm-constant" in capsys.readouterr().out
    assert fusing.read_bytes() == before


def test_passes_are_of_the_same_images_with_their_texts(
    fusing: Path, hits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = evaluation_of({"model": str(fusing), "device": "cpu", "batch": 4})
    assert isinstance(evaluation, ClassEvaluation)
    encoded: list[int] = []
    encode = PairText.encode
    monkeypatch.setattr(PairText, "encode", lambda self, images: (encoded.append(1), encode(self, images))[1])
    shapes: list[Any] = []
    stats = evaluation.run(hooked([evaluation.net], lambda m, args, out: shapes.append(tuple(args[0].shape))))
    assert shapes == [(4, 4, SIZE, SIZE)] * 3 + [(2, 4, SIZE, SIZE)], "warm-up images were seen, or batches missed"
    again = evaluation.run()
    assert len(encoded) == 1, "texts are encoded once for all passes"
    assert again.files == stats.files
    assert np.array_equal(again.probabilities, stats.probabilities)
    text = PairText.from_state(evaluation.net.pair_text or {})
    numbers = text.encode([Path(f) for f in stats.files]).numbers
    pictures = [classify_transforms(size=SIZE)(Image.open(f).convert("RGB")) for f in stats.files]
    with torch.no_grad():
        alone = evaluation.net(torch.stack([with_plane(p, n) for p, n in zip(pictures, numbers, strict=True)]))[0]
    assert torch.allclose(alone, torch.from_numpy(stats.probabilities), atol=1e-4)


def test_nothing_is_left_of_a_switch_behind_an_error(fusing: Path) -> None:
    evaluation = evaluation_of({"model": str(fusing), "device": "cpu"})

    def fail(m: Any, args: Any, out: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluation.run(hooked([evaluation.net], fail))
    assert not evaluation.net._forward_hooks


def refused(error: type[Exception], message: str, *words: str) -> None:
    with pytest.raises(error, match=message) as e:
        COMMAND.main([*words, "device=cpu"])
    assert "\n" not in str(e.value)


def test_nets_without_texts_are_refused(hits: Path, tmp_path: Path) -> None:
    out, data = f"out={tmp_path / 'out'}", f"data={hits}"
    stock = YOLO("yolov8n-cls.yaml")
    stock.save(tmp_path / "stock.pt")
    message = r"^model: expected a classifier with layers of ultra-dsmoe, .* got .*stock.pt, a ClassificationModel of"
    refused(WeightsError, message, str(tmp_path / "stock.pt"), data, out)
    message = r"^model: expected a network with something to switch off, got .* without a CMAF row that reads texts \("
    refused(ConfigError, message, str(saved(tmp_path / "alone.pt", hits)), data, out)
    assert not (tmp_path / "out").exists()


def test_bad_sets_are_one_line(fusing: Path, hits: Path, tmp_path: Path) -> None:
    import shutil

    out = f"out={tmp_path / 'out'}"
    refused(DataError, "expected a folder per class with images", str(fusing), "split=test", out)
    refused(DataError, "^data: expected a folder with images in train/<class>/", str(fusing), f"data={tmp_path}", out)
    other = shutil.copytree(hits, tmp_path / "other")
    (other / "val" / "wide").rename(other / "val" / "zebra")
    message = r"^data: expected the classes of the model in val/ \(left, wide\), got left, zebra$"
    refused(DataError, message, str(fusing), f"data={other}", out)
    gone = saved(tmp_path / "gone.pt", other, text_mode="always")
    shutil.rmtree(other)
    refused(ConfigError, r"^data: expected the folder of a classification set \(that of the training", str(gone), out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gone.pt"], "nothing is left behind"
