"""Validation of one cell: what is kept of it gives the host's numbers again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.evaluate.bootstrap import mean_ap
from ultra_dsmoe.study import cell, store
from ultra_dsmoe.study.variant import as_file


def test_training_seconds(tmp_path: Path) -> None:
    """The host's clock starts anew when a training is resumed."""
    file = tmp_path / "results.csv"
    file.write_text("epoch, time\n1, 10\n2, 20\n3, 4\n4, 9.5\n")
    assert cell.training_seconds(file) == pytest.approx(29.5)


def test_kept_matches_give_the_hosts_map(
    boards: Path, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's validator on a net that half knows the labels: mAP from the kept matches is the host's to 1e-3."""
    rng = np.random.default_rng(0)

    class Knowing(cell.Collector):  # type: ignore[name-defined]  # loaded by its path
        """Replaces what the net finds by most of the labels, a little beside their places, and some nonsense."""

        def preprocess(self, batch: Any) -> Any:
            self.batch = super().preprocess(batch)
            return self.batch

        def postprocess(self, preds: Any) -> Any:
            found = []
            for i in range(len(self.batch["img"])):
                boxes = self._prepare_batch(i, self.batch)
                kept = torch.from_numpy(rng.random(len(boxes["cls"])) < 0.7)
                xyxy = boxes["bboxes" if "bboxes" in boxes else "bbox"][kept]
                shift = torch.from_numpy(rng.normal(0, 1.2, xyxy.shape)).float()
                cls = boxes["cls"][kept].float()
                cls = torch.where(torch.from_numpy(rng.random(len(cls)) < 0.2), (cls + 1) % 6, cls)
                found.append({"bboxes": xyxy + shift, "conf": torch.from_numpy(rng.random(len(cls))).float(),
                              "cls": cls, "extra": torch.zeros(len(cls), 0)})  # fmt: skip
            return found

    monkeypatch.setattr(cell, "Collector", Knowing)
    model = YOLO("yolov8n.yaml")
    model.model.names = dict(enumerate("abcdef"))
    model.save(tmp_path / "best.pt")
    stats, result = cell.validate(tmp_path / "best.pt", {"data": str(boards), "imgsz": 96, "batch": 4, "workers": 0,
                                                         "device": "cpu"})  # fmt: skip
    np.savez(tmp_path / "m.npz", **store.pack(stats))
    own = mean_ap(store.unpack(tmp_path / "m.npz"))
    assert own == pytest.approx([result["mAP50"], result["mAP50-95"]], abs=1e-3)
    assert 0.1 < result["mAP50-95"] < result["mAP50"] < 0.9
    assert len(stats.files) == images
    assert np.mean(list(result["per_class_AP"].values())) == pytest.approx(result["mAP50-95"])


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_knockouts_are_on_the_images_that_are_judged(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the half that the study names, and where a net was trained on another set, on the study's."""
    cfg = yaml_model_load("yolov8n-pfa-cls.yaml" if task == "classify" else "dsmoe-n.yaml")
    if task == "classify":
        cfg["dsmoe"]["text_mode"] = "always"
    (file := tmp_path / "yolov8n-net.yaml").write_text(as_file(cfg))
    YOLO(file).save(tmp_path / "best.pt")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(cell.class_evaluation, "evaluation_of", seen.update)
    monkeypatch.setattr(cell.knockout, "evaluate", lambda evaluation, progress: None)
    monkeypatch.setattr(cell.knockout, "as_csv", lambda report: "table")
    more = {"task": "classify", "tested": str(tmp_path)} if task == "classify" else {}
    settings = {"data": "trained", "split": "test", "imgsz": 64, "seed": 3, **more}
    assert cell.knockouts(tmp_path / "best.pt", settings) == "table"
    wanted = tmp_path if more else "trained"
    assert seen == {"model": tmp_path / "best.pt", "data": wanted, "imgsz": 64, "split": "test"}
