"""What is kept of a classifier's validation belongs to the images it is kept with."""

from __future__ import annotations

from pathlib import Path

import torch
from hit_pictures import make_set

from ultra_dsmoe.evaluate.class_evaluation import evaluate


def test_every_image_has_its_own_probabilities(tmp_path: Path) -> None:
    """The host shuffles the images it validates on: what is kept is what the net says of each file alone."""
    from PIL import Image
    from ultralytics import YOLO
    from ultralytics.data.augment import classify_transforms

    def picture(file: str | Path) -> torch.Tensor:
        return classify_transforms(size=64)(Image.open(file).convert("RGB"))

    root = make_set(tmp_path / "set", train=2, val=9)
    torch.manual_seed(0)
    model = YOLO("yolov8n-cls.yaml")
    net = model.model
    net.model[-1].linear = torch.nn.Linear(net.model[-1].linear.in_features, 2)
    torch.nn.init.normal_(net.model[-1].linear.weight)
    for m in net.modules():  # an untrained net says the same of all pictures; one with their statistics does not
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = 1.0
    net.train()(torch.stack([picture(f) for f in sorted((root / "train").rglob("*.png"))]))
    net.names = {0: "left", 1: "wide"}
    args = {"model": "yolov8n-cls.yaml", "data": str(root), "split": "val", "imgsz": 64, "batch": 4, "workers": 0}
    stats = evaluate(net, {**args, "device": "cpu"})
    assert [Path(f).parent.name for f in stats.files] == [stats.names[i] for i in stats.target]
    assert len(stats.files) == 18
    with torch.no_grad():
        alone = net(torch.stack([picture(f) for f in stats.files]))[0]
    assert torch.allclose(alone, torch.from_numpy(stats.probabilities), atol=1e-4)
    assert (stats.found == stats.probabilities.argmax(1)).all()
    assert stats.probabilities.std(0).max() > 1e-3  # else any order would do
