"""`yolo classify` with a net that texts teach: train, phases, resume, validate, predict, export, reload."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics import YOLO

from ultra_dsmoe.data.hits import demo
from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.evaluate.pair_validator import PairValidator
from ultra_dsmoe.export.parity_verdict import ParityError
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.nn.head.pair_classify import ALIGNMENT, FUSION
from ultra_dsmoe.train.pair_trainer import PairTrainer

EPOCHS, SIZE = 6, 64
QUICK: dict[str, Any] = {
    "imgsz": SIZE,
    "epochs": EPOCHS,
    "batch": 5,
    "nbs": 5,
    "workers": 0,
    "plots": False,
    "device": "cpu",
    "exist_ok": True,
    "verbose": False,
    "dsmoe_text": "hash:64",
    "pretrained": False,
}
ALWAYS = "text_mode: always\n  passes: sequential\n  numbers: true\n  rerank: true"


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small set of hits."""
    return demo.generate(tmp_path_factory.mktemp("data") / "hits", train=25, val=10, test=10, size=96)


@pytest.fixture(scope="module")
def yamls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return a model YAML for each way to use texts."""
    from ultra_dsmoe.plugin.lookup import packaged

    found = packaged("yolov8-pfa-cls.yaml")
    assert found is not None
    stock = Path(found).read_text()
    always = tmp_path_factory.mktemp("yamls") / "yolov8n-always-cls.yaml"
    always.write_text(stock.replace("text_mode: train", ALWAYS))
    return {"train": "yolov8n-pfa-cls.yaml", "always": str(always)}


@pytest.fixture(scope="module")
def runs(hits: Path, yamls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the run folder of a training of each kind."""
    project = tmp_path_factory.mktemp("runs")
    for name, file in yamls.items():
        YOLO(file).train(data=str(hits), project=str(project), name=name, **QUICK)
    return {name: project / name for name in yamls}


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as f:
        return list(csv.DictReader(f, skipinitialspace=True))


@pytest.mark.parametrize("name", ["train", "always"])
def test_a_training_goes_through_its_phases(name: str, runs: dict[str, Path]) -> None:
    table = rows(runs[name])
    assert [row["pfa/phase"] for row in table] == ["1", "2", "2", "2", "3", "3"]
    assert [int(row["pfa/stage"]) for row in table] == [0, 2, 4, 5, 0, 0]
    assert [int(row["pfa/images"]) for row in table] == [25, 10, 20, 25, 25, 25]
    aligned = [float(row["train/align_llm"]) > 0 for row in table]
    assert aligned == [False, True, True, True, False, False]
    assert all(float(row["metrics/macro_f1"]) >= 0 for row in table)
    best = YOLO(runs[name] / "weights" / "best.pt").model
    assert isinstance(best, PairModel)
    assert best.head.phase == FUSION
    assert best.pair_order is not None
    assert sorted(best.pair_order) == list(range(25))


@pytest.mark.parametrize("name", ["train", "always"])
@pytest.mark.parametrize("fmt", ["onnx", "torchscript", "openvino"])
def test_an_exported_file_does_what_the_net_does(
    name: str, fmt: str, runs: dict[str, Path], hits: Path, tmp_path: Path
) -> None:
    best = YOLO(runs[name] / "weights" / "best.pt")
    file = best.export(format=fmt, imgsz=SIZE, device="cpu")
    settings: dict[str, Any] = {"data": str(hits), "split": "test", "imgsz": SIZE, "plots": False, "device": "cpu"}
    before = best.val(**settings, project=str(tmp_path), name="a")
    after = YOLO(file, task="classify").val(**settings, project=str(tmp_path), name="b")
    assert type(after).__name__ == "PairMetrics"
    assert after.macro_f1 == pytest.approx(before.macro_f1, abs=0.12)  # of ten images; rounding may turn one
    if fmt != "onnx":
        return
    places = sorted((hits / "test").glob("*/*.png"))[:3]
    for place in places:
        kw: dict[str, Any] = {"imgsz": SIZE, "verbose": False, "save": False, "device": "cpu"}
        (net,), (exported,) = best.predict(place, **kw), YOLO(file, task="classify").predict(place, **kw)
        assert exported.probs.data.numpy() == pytest.approx(net.probs.data.numpy(), abs=1e-4)


def test_texts_at_inference_come_from_the_sidecar_or_the_picture(runs: dict[str, Path], hits: Path) -> None:
    model = YOLO(runs["always"] / "weights" / "best.pt")
    place = sorted((hits / "test").glob("*/*.png"))[0]
    kw: dict[str, Any] = {"imgsz": SIZE, "verbose": False, "save": False, "device": "cpu"}
    (file,) = model.predict(place, **kw)
    (again,) = model.predict(str(place), **kw)
    assert torch.equal(file.probs.data, again.probs.data)
    with pytest.raises(DSMoEError, match=r"record of the image: expected the number"):
        model.predict(np.zeros((96, 96, 3), np.uint8), **kw)  # its numbers go along, and an array has none


def test_the_encoder_may_be_named_but_is_the_one_of_the_training(runs: dict[str, Path], hits: Path) -> None:
    model = YOLO(runs["always"] / "weights" / "best.pt")
    kw: dict[str, Any] = {"data": str(hits), "imgsz": SIZE, "plots": False, "verbose": False, "device": "cpu"}
    assert model.val(**kw, dsmoe_text="hash:64").fitness == model.val(**kw).fitness
    with pytest.raises(DSMoEError, match=r"^dsmoe_text: expected the encoder that the model was trained on, hash"):
        model.val(**kw, dsmoe_text="hash:96")


def test_a_picture_needs_no_text_where_texts_only_taught(runs: dict[str, Path], tmp_path: Path) -> None:
    model = YOLO(runs["train"] / "weights" / "best.pt")
    kw: dict[str, Any] = {"imgsz": SIZE, "verbose": False, "save": False, "device": "cpu"}
    (found,) = model.predict(np.zeros((96, 96, 3), np.uint8), **kw)
    assert float(found.probs.data.sum()) == pytest.approx(1, abs=1e-5)


def test_arrays_of_any_channels_are_pictures(hits: Path, yamls: dict[str, str], tmp_path: Path) -> None:
    plain = tmp_path / "yolov8n-plain-cls.yaml"  # an array has no record
    plain.write_text(Path(yamls["always"]).read_text().replace("numbers: true", "numbers: false"))
    model = YOLO(plain)
    model.train(data=str(hits), project=str(tmp_path), name="r", **{**QUICK, "epochs": 1})
    color = np.repeat(np.random.default_rng(0).integers(0, 255, (96, 96, 1), np.uint8), 3, axis=2)
    kw: dict[str, Any] = {"imgsz": SIZE, "verbose": False, "save": False, "device": "cpu"}
    (wanted,) = model.predict(color, **kw)
    for array in (color[..., 0], color[..., :1], np.dstack([color, color[..., :1]])):
        (found,) = model.predict(np.ascontiguousarray(array), **kw)
        assert torch.equal(found.probs.data, wanted.probs.data)


@pytest.mark.parametrize("last_epoch", [2, 3], ids=["within alignment", "before fusion"])
def test_a_killed_training_goes_on_in_its_stage(
    last_epoch: int,
    hits: Path,
    yamls: dict[str, str],
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anew: list[int] = []  # epochs that begin with a new average of the weights
    restart = PairTrainer._restart_average
    monkeypatch.setattr(PairTrainer, "_restart_average", lambda self: (anew.append(self.epoch), restart(self)))

    class Stop(Exception):
        """Ends a training from within."""

    def stop(trainer: Any) -> None:
        if trainer.epoch == last_epoch:
            raise Stop

    model = YOLO(yamls["train"])
    model.add_callback("on_fit_epoch_end", stop)
    with pytest.raises(Stop):
        model.train(data=str(hits), project=str(tmp_path), name="r", **QUICK)
    last = tmp_path / "r" / "weights" / "last.pt"
    net = torch.load(last, weights_only=False)["ema"]
    assert net.head.phase == ALIGNMENT
    order = net.pair_order
    resumed = YOLO(last)
    resumed.train(resume=True)
    assert [row["epoch"] for row in rows(tmp_path / "r")] == [str(i + 1) for i in range(EPOCHS)]
    assert YOLO(last).model.pair_order == order
    assert anew == [1, 4]
    whole = rows(runs["train"])
    assert [row["pfa/stage"] for row in rows(tmp_path / "r")] == [row["pfa/stage"] for row in whole]


def test_a_wrong_file_is_refused(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from ultra_dsmoe.export import pair_parity

    best = tmp_path / "best.pt"
    shutil.copy(runs["train"] / "weights" / "best.pt", best)
    run = pair_parity.exported_runner

    def exchanged(path: Path) -> Any:
        stock = run(path)
        return lambda images: (stock(images)[0][:, [1, 0, 2, 3, 4]], [])

    monkeypatch.setattr(pair_parity, "exported_runner", exchanged)
    with pytest.raises(ParityError, match="class divergent of the file is the net's normal"):
        YOLO(best).export(format="onnx", imgsz=SIZE, device="cpu")
    assert not best.with_suffix(".onnx").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dsmoe_topk": 3}, "dsmoe_topk: expected a key of a classifier of ours"),
        ({"dsmoe_provider": "rulez"}, r"dsmoe_provider: expected .*did you mean 'rules'\?"),
        ({"imgsz": 32, "dsmoe_text": "hash:1024"}, "imgsz: expected at least 46"),
        ({"time": 1}, "time: expected epochs="),
        ({"single_cls": True}, "single_cls: expected False"),
        ({"cache": "lmdb"}, "cache: expected ram or disk"),
        ({"pretrained": "none.pt"}, "pretrained: expected"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    change: dict[str, Any], message: str, hits: Path, tmp_path: Path
) -> None:
    with pytest.raises(DSMoEError, match=message) as error:
        YOLO("yolov8n-pfa-cls.yaml").train(data=str(hits), project=str(tmp_path), name="r", **{**QUICK, **change})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r").exists()


def test_torchvisions_weights_go_to_an_encoder_of_theirs(hits: Path, yamls: dict[str, str], tmp_path: Path) -> None:
    from torchvision.models import resnet18

    source = resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    from ultra_dsmoe.plugin.lookup import packaged

    found = packaged("pfa-cls.yaml")
    assert found is not None
    file = tmp_path / "small-cls.yaml"
    file.write_text(Path(found).read_text().replace("[2048, resnet50,", "[512, resnet18,"))
    seen: list[torch.Tensor] = []
    model = YOLO(file)
    model.add_callback("on_train_start", lambda t: seen.append(t.model.model[2].m[0].weight.detach().clone()))
    settings = {**QUICK, "epochs": 1, "pretrained": str(tmp_path / "resnet18.pth")}
    model.train(data=str(hits), project=str(tmp_path), name="r", **settings)
    assert torch.equal(seen[0], source.conv1.weight)
    with pytest.raises(DSMoEError, match="expected a model with a TorchVision row"):
        YOLO(yamls["train"]).train(data=str(hits), project=str(tmp_path), name="s", **settings)
    assert not (tmp_path / "s").exists()


def test_classes_with_too_few_images_are_named(
    hits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(hits, data)
    for file in sorted((data / "train" / "stretched").glob("*.png"))[1:]:
        file.unlink()
    for file in (data / "val" / "divergent").glob("*.png"):
        file.unlink()
    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    settings = {**QUICK, "epochs": 1, "batch": 4}
    YOLO("yolov8n-pfa-cls.yaml").train(data=str(data), project=str(tmp_path), name="r", **settings)
    assert "train: fewer than 2 images of stretched (1), too few to learn it from" in caplog.text
    assert "val: fewer than 1 image of divergent (0), so that macro F1 counts it as 0" in caplog.text


def test_a_set_without_pictures_to_validate_on_is_one_line(hits: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(hits / "train", data / "train")
    kw: dict[str, Any] = {"data": str(data), "project": str(tmp_path), "name": "r"}
    message = "^data: expected a folder with images in val/<class>/, got no such folder$"
    with pytest.raises(DSMoEError, match=message):
        YOLO("yolov8n-pfa-cls.yaml").train(**kw, **QUICK)
    assert not (tmp_path / "r").exists()
    with pytest.raises(DSMoEError, match=message):
        YOLO(runs["train"] / "weights" / "best.pt").val(**kw, imgsz=SIZE, plots=False)


def test_eight_bits_are_refused_where_texts_travel_with_the_image(runs: dict[str, Path]) -> None:
    with pytest.raises(DSMoEError, match=r"expected 16 or 32 for a net with text_mode: always"):
        YOLO(runs["always"] / "weights" / "best.pt").export(format="onnx", imgsz=SIZE, quantize=8)


def test_the_training_images_are_read_once(hits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.models.yolo.classify import train

    read: list[str] = []
    stock = train.ClassificationDataset
    monkeypatch.setattr(
        train, "ClassificationDataset", lambda root, *a, **kw: (read.append(Path(root).name), stock(root, *a, **kw))[1]
    )
    YOLO("yolov8n-pfa-cls.yaml").train(data=str(hits), project=str(tmp_path), name="r", **{**QUICK, "epochs": 1})
    assert read.count("train") == 1


def test_a_trainer_of_ones_own_stands_before_ours(hits: Path, tmp_path: Path) -> None:
    from ultralytics.models.yolo.classify import ClassificationTrainer

    class Own(ClassificationTrainer):
        """Says that it was here."""

        def set_model_attributes(self) -> None:
            super().set_model_attributes()
            self.was_here = isinstance(self, PairTrainer)

    model = YOLO("yolov8n-pfa-cls.yaml")
    model.train(trainer=Own, data=str(hits), project=str(tmp_path), name="r", **{**QUICK, "epochs": 1})
    assert model.trainer.was_here
    assert isinstance(model.trainer.validator, PairValidator)
