"""Weights that a training starts with: the MobileSAM encoder's from wherever the host keeps weights, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOGGER, SETTINGS

from ultra_dsmoe.errors import DSMoEError, WeightsError
from ultra_dsmoe.model import pretrained
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.backbone.mobile_sam import MobileSAM
from ultra_dsmoe.train.trainer import DSMoETrainer

QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "verbose": False, "epochs": 1}
HASH = {"dsmoe_text": "hash"}
MOBILE_SAM = {"embed_dims": (64, 128, 160, 320), "depths": (2, 2, 6, 2), "num_heads": (2, 4, 5, 10)}
STEM, STEM_THERE = "patch_embed.conv1.conv.weight", "image_encoder.patch_embed.seq.0.c.weight"


class Begun(BaseException):  # no error, after which no run folder would remain
    """Stops a training where its first epoch would begin."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file in the layout of the released ``mobile_sam.pt``."""
    from ultralytics.models.sam.modules.tiny_encoder import TinyViT

    torch.manual_seed(0)
    net = TinyViT(img_size=224, num_classes=1, window_sizes=(7, 7, 14, 7), **MOBILE_SAM)
    state = {f"image_encoder.{k}": v for k, v in net.state_dict().items()}
    path = tmp_path_factory.mktemp("released") / "mobile_sam.pt"
    torch.save({**state, "mask_decoder.iou_token.weight": torch.ones(1)}, path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with the host's folder of weights below it and no way to fetch any."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    monkeypatch.setitem(SETTINGS, "weights_dir", str(tmp_path / "kept"))

    def fetch(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("a download was tried")

    monkeypatch.setattr("ultralytics.utils.downloads.safe_download", fetch)
    monkeypatch.setattr("ultralytics.utils.downloads.get_github_assets", fetch)
    return tmp_path


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return a function that gives what was said of the encoder."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level("INFO", LOGGER.name)
    return lambda: [m for m in caplog.messages if m.startswith("MobileSAM encoder")]


def begin(yolo: YOLO, **arguments: Any) -> DSMoEModel:
    """Train until the first epoch would begin and return the net of that moment."""
    nets = []

    def stop(trainer: Any) -> None:
        nets.append(trainer.model)
        raise Begun

    yolo.add_callback("on_train_start", stop)
    with pytest.raises(Begun):
        yolo.train(**arguments)
    return nets[0]


@pytest.mark.parametrize("folder", [".", "kept"])
def test_the_encoders_weights_are_found(
    folder: str, here: Path, released: Path, tiny_boards: Path, lines: Callable[[], list[str]]
) -> None:
    place = here / folder / "mobile_sam.pt"
    place.write_bytes(released.read_bytes())
    run = {**QUICK, **HASH, "data": tiny_boards, "project": str(here), "name": "run"}
    net = begin(YOLO("dsmoe.yaml"), pretrained="mobile_sam.pt", **run)
    (encoder,) = net.blocks(MobileSAM)
    assert torch.equal(encoder.state_dict()[STEM], torch.load(released, weights_only=True)[STEM_THERE])
    total = len(encoder.state_dict())
    said = lines()
    assert len(said) == 1, said
    assert said[0].startswith(f"MobileSAM encoder: {total} of {total} tensors fit from")
    assert place.samefile(yaml.safe_load((here / "run" / "args.yaml").read_text())["pretrained"])


def test_the_released_encoder_is_fetched_by_name(
    here: Path, released: Path, tiny_boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(url: str, file: str | Path, **_kwargs: Any) -> None:
        fetched.append(url.rsplit("/", 1)[1])
        Path(file).write_bytes(released.read_bytes())

    monkeypatch.setattr("ultralytics.utils.downloads.safe_download", fetch)
    run = {**QUICK, **HASH, "data": tiny_boards, "project": str(here), "name": "run"}
    (encoder,) = begin(YOLO("dsmoe.yaml"), pretrained="mobile_sam.pt", **run).blocks(MobileSAM)
    assert torch.equal(encoder.state_dict()[STEM], torch.load(released, weights_only=True)[STEM_THERE])
    assert fetched == ["mobile_sam.pt"]


def test_a_fetch_that_fails_is_one_line(here: Path, tiny_boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_args: Any, **_kwargs: Any) -> None:
        raise ConnectionError("Environment is not online.\nTry again.")

    monkeypatch.setattr("ultralytics.utils.downloads.safe_download", fetch)
    with pytest.raises(
        WeightsError, match=r"got mobile_sam.pt, which cannot be fetched \(Environment is not online"
    ) as e:
        YOLO("dsmoe.yaml").train(
            pretrained="mobile_sam.pt", data=tiny_boards, project=str(here / "new"), **QUICK, **HASH
        )
    assert "\n" not in str(e.value)
    assert not (here / "new").exists()


def test_a_whole_training_from_the_encoders_weights(here: Path, released: Path, tiny_boards: Path) -> None:
    run = {**QUICK, **HASH, "data": tiny_boards, "project": str(here), "name": "run", "val": False}
    frozen = {"lr0": 0.0, "warmup_bias_lr": 0.0, "optimizer": "SGD"}
    YOLO("dsmoe.yaml").train(pretrained=released, **run, **frozen)
    (encoder,) = YOLO(here / "run" / "weights" / "last.pt").model.blocks(MobileSAM)
    expected = torch.load(released, weights_only=True)[STEM_THERE]
    torch.testing.assert_close(encoder.state_dict()[STEM], expected, rtol=1e-3, atol=1e-3)  # saved in half precision


def test_a_net_that_was_trained_before_gets_them_too(here: Path, released: Path, tiny_boards: Path) -> None:
    """Some hosts load ``pretrained`` themselves where the model is a checkpoint."""
    net = DSMoEModel("dsmoe.yaml", nc=6, verbose=False)
    torch.save({"model": net, "train_args": {"task": "detect"}, "epoch": -1}, here / "before.pt")
    run = {**QUICK, **HASH, "data": tiny_boards, "project": str(here), "name": "run"}
    (encoder,) = begin(YOLO(here / "before.pt"), pretrained=str(released), **run).blocks(MobileSAM)
    assert torch.equal(encoder.state_dict()[STEM], torch.load(released, weights_only=True)[STEM_THERE])


def test_a_resumed_run_keeps_its_encoder(
    here: Path, released: Path, tiny_boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {**QUICK, **HASH, "data": str(tiny_boards), "project": str(here), "name": "run", "model": "dsmoe.yaml"}
    trainer = DSMoETrainer(overrides={**run, "pretrained": str(released)})
    net = DSMoEModel("dsmoe.yaml", nc=6, verbose=False)
    before = net.blocks(MobileSAM)[0].state_dict()[STEM].clone()
    monkeypatch.setattr(DetectionTrainer, "setup_model", lambda self: setattr(self, "model", net))
    for trainer.resume in (True, False):
        trainer.setup_model()
        assert torch.equal(net.blocks(MobileSAM)[0].state_dict()[STEM], before) is trainer.resume


def test_yolo_weights_are_left_to_the_host(here: Path) -> None:
    assert pretrained.find("yolov8n.pt") == "yolov8n.pt"  # which fetches them
    (here / "kept" / "yolov8n.pt").touch()
    assert pretrained.find(" yolov8n.pt ") == str(here / "kept" / "yolov8n.pt")
    (here / "yolov8n.pt").touch()
    assert pretrained.find(Path("yolov8n.pt")) == "yolov8n.pt"


def unsuitable(case: str, released: Path, folder: Path) -> str:
    """Write a file that cannot be used and return its name."""
    path = folder / "bad.pt"
    if case == "missing":
        return "sam.pt"
    if case == "no row for it":
        return str(released)
    if case == "no row, to be fetched":
        return "mobile_sam.pt"
    if case == "half an encoder":
        state = torch.load(released, weights_only=True)
        torch.save({k: state[k] for k in list(state)[:50]}, path)
    elif case == "tensors of another net":
        torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    elif case == "a module":
        torch.save({"model": nn.Linear(2, 2)}, path)
    else:
        path.write_bytes(released.read_bytes()[:50_000])
    return str(path)


@pytest.mark.parametrize(
    ("case", "model", "part"),
    [
        ("missing", "dsmoe.yaml", "pretrained: expected an existing checkpoint, here or in"),
        ("missing", "dsmoe-n.yaml", "sam.pt, which is not a file"),
        ("no row, to be fetched", "dsmoe-n.yaml", "a model with a MobileSAM row for these weights"),
        ("no row for it", "dsmoe-n.yaml", "a model with a MobileSAM row for these weights"),
        ("half an encoder", "dsmoe.yaml", "at least 90% fit"),
        ("tensors of another net", "dsmoe-n.yaml", "pretrained: expected a readable checkpoint"),
        ("a module", "dsmoe-n.yaml", "pretrained"),
        ("damaged", "dsmoe-n.yaml", "pretrained: expected a readable checkpoint"),
    ],
)
def test_unsuitable_weights_are_one_line_and_leave_nothing(
    case: str, model: str, part: str, here: Path, released: Path, tiny_boards: Path
) -> None:
    given = unsuitable(case, released, here)
    run = {**QUICK, **HASH, "data": tiny_boards, "project": str(here / "new" / "runs"), "name": "run"}
    with pytest.raises(DSMoEError) as e:
        YOLO(model).train(pretrained=given, **run)
    assert part in str(e.value)
    assert "\n" not in str(e.value)
    assert not (here / "new").exists()


@pytest.mark.parametrize(("case", "model"), [("missing", "dsmoe.yaml"), ("no row for it", "dsmoe-n.yaml")])
def test_a_trainer_of_its_own_leaves_nothing_either(
    case: str, model: str, here: Path, released: Path, tiny_boards: Path
) -> None:
    run = {**QUICK, **HASH, "data": str(tiny_boards), "project": str(here / "new"), "name": "run", "model": model}
    trainer = DSMoETrainer(overrides={**run, "pretrained": unsuitable(case, released, here)})
    assert (here / "new" / "run" / "args.yaml").exists()
    with pytest.raises(WeightsError, match="pretrained: expected"):
        trainer.setup_model()
    assert not (here / "new").exists()
