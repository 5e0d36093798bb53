"""Nets that compare an image with a reference: they build, train, start as stated, cost little, export and explain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from net_checks import fake_batch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import YAML

from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.explain.catalogue import applicable
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.reference_row import has_reference, reference_channels, with_reference
from ultra_dsmoe.nn import FeatureDifference, Record, Reference
from ultra_dsmoe.train.optimizer import regroup

ROOT = Path(__file__).resolve().parents[2]
FEATURES = ROOT / "benchmarks" / "studies" / "nets" / "yolov8n-ref-features.yaml"  # at that scale
WEIGHTS = ROOT.parent / "shared" / "weights"
STOCK = {"yolov8n-ref": "yolov8n", "yolo11n-ref": "yolo11n", "yolo26n-ref": "yolo26n"}
NETS = [*STOCK, "dsmoe-n-ref", str(FEATURES.with_suffix(""))]
FILES = {"yolov8-ref": "yolov8", "yolo11-ref": "yolo11", "yolo26-ref": "yolo26", "dsmoe-ref": "dsmoe-conv"}


def build(name: str, nc: int = 6) -> DSMoEModel:
    torch.manual_seed(0)
    net = DSMoEModel(f"{name}.yaml", nc=nc, verbose=False)
    net.args = get_cfg()
    return net


def stock(name: str) -> Any:
    torch.manual_seed(3)
    return marked(DetectionModel(f"{STOCK.get(name, 'yolov8n')}.yaml", nc=6, verbose=False))


def marked(net: Any) -> Any:
    """Give every normalisation weights and statistics of its own: fresh ones look alike."""
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5)
                m.running_mean.normal_(0, 0.1)
    return net


def awake(net: DSMoEModel) -> DSMoEModel:
    """Let normalisations know what they see, and the share of the features be heard: fresh ones fade maps out."""
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, FeatureDifference):
                m.project.bn.weight.fill_(1)
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 0.5
        for _ in range(4):
            net.train()(torch.rand(4, 6, 64, 64))
    return net.eval()


def work(net: Any, channels: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.zeros(1, channels, 320, 320))
    return counter.get_total_flops()


def batch(size: int = 64) -> dict[str, Tensor]:
    return {**fake_batch(2, size, 6), "img": torch.rand(2, 6, size, size)}


def raw(net: Any, images: Tensor) -> Tensor:
    """Return the boxes and scores of all anchors, before the end-to-end head picks the best."""
    with torch.no_grad():
        out = net.eval()(images)
    boxes = out[1].get("one2one", out[1]) if isinstance(out[1], dict) else out[0]
    return torch.cat([boxes["boxes"], boxes["scores"]], 1) if isinstance(boxes, dict) else boxes


@pytest.mark.parametrize(("file", "source"), FILES.items())
def test_the_packaged_files_are_those_that_the_function_writes(file: str, source: str) -> None:
    ours, made = YAML.load(ROOT / "cfg" / "models" / f"{file}.yaml"), with_reference(f"{source}.yaml")
    assert made.pop("yaml_file") == f"{source}-ref.yaml"
    assert made.pop("scale") == ""
    assert ours == made


@pytest.mark.parametrize("name", NETS)
def test_builds_with_six_channels_and_everything_gets_a_gradient(name: str) -> None:
    net = build(name)
    assert has_reference(net)
    assert (reference_channels(net), net.yaml["channels"]) == (3, 6)
    assert net.stride.tolist() == [8.0, 16.0, 32.0]
    if name.startswith("dsmoe"):
        net.set_topk(32)  # an expert that no image chose has no gradient
    loss, _ = net.train()(batch())
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert not {n for n, p in net.named_parameters() if p.requires_grad and p.numel() and p.grad is None}


@pytest.mark.parametrize("size", "nslmx")
@pytest.mark.parametrize("family", ["yolov8", "yolo11", "yolo26", "dsmoe"])
def test_every_size_has_the_sources_widths(family: str, size: str) -> None:
    if family == "dsmoe" and size in "lx":
        pytest.skip("no such size")
    name, other = (
        (f"dsmoe-{size}-ref", f"dsmoe-{size}") if family == "dsmoe" else (f"{family}{size}-ref", family + size)
    )
    ours, source = (yaml_model_load(f"{n}.yaml") for n in (name, other))
    assert ours["scale"] == source["scale"] == size
    assert ours["scales"] == source["scales"]


def test_the_host_builds_one_by_name_with_the_channels_of_its_file() -> None:
    net: Any = YOLO("yolov8n-ref.yaml").model
    assert type(net) is DSMoEModel
    assert net.yaml["channels"] == 6
    assert net.eval()(torch.rand(1, 6, 64, 64))[0].shape == (1, 84, 84)


@pytest.mark.parametrize("name", STOCK)
def test_the_criterion_is_the_hosts(name: str) -> None:
    source = stock(name)
    source.args = get_cfg()
    assert type(build(name).init_criterion()) is type(source.init_criterion())


@pytest.mark.parametrize("name", STOCK)
def test_pretrained_weights_transfer_in_full(name: str) -> None:
    """Before training, the net computes what theirs does on gray, reference and difference as its three colours."""
    source, net = stock(name), build(name)
    net.load(source)
    pairs = torch.rand(2, 6, 96, 64)
    assert torch.equal(raw(net, pairs), raw(source, net.model[0](pairs)))
    mine, theirs = net.state_dict(), source.state_dict()
    assert len(mine) == len(theirs)
    assert all(torch.equal(a, b) for a, b in zip(mine.values(), theirs.values(), strict=True))


def test_dsmoe_with_its_text_transfers_in_full() -> None:
    torch.manual_seed(3)
    source, net = marked(build("dsmoe-n")), build("dsmoe-n-ref")
    source.names = net.names = {i: f"kind {i}" for i in range(6)}
    source.set_prompts({"kind 0": "a scratch"}, "hash")
    net.load(source)
    pairs = torch.rand(2, 6, 64, 64)
    assert torch.equal(raw(net, pairs), raw(source, net.model[0](pairs)))
    assert net.text_info == source.text_info


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "file"), [("yolov8n-ref", "yolov8n"), ("yolo11n-ref", "yolo11n")])
def test_starts_as_stated_with_coco_weights(name: str, file: str) -> None:
    weights = WEIGHTS / f"{file}_coco_from_int8.pt"
    if not weights.is_file():
        pytest.skip("no COCO weights")
    source, net = YOLO(weights).model.float(), YOLO(f"{name}.yaml")
    net.load(weights)
    pairs = torch.rand(1, 6, 160, 160)
    assert torch.equal(raw(net.model.float(), pairs), raw(source, net.model.model[0](pairs)))


def test_the_net_of_features_starts_as_the_yolo_on_the_image_to_the_last_bit() -> None:
    source, net = stock("yolov8n-ref"), build(NETS[-1])
    net.load(source)
    pairs = torch.rand(2, 6, 96, 64)
    assert torch.equal(raw(net, pairs), raw(source, pairs[:, :3]))


@pytest.mark.parametrize("name", NETS)
def test_cost(name: str) -> None:
    """Two thousandths of the work at most, but for the rows that the features have twice."""
    added = work(build(name), 6) / work(build(name.replace("-ref", "")) if name in NETS[3:4] else stock(name), 3) - 1
    assert 0 < added < (0.25 if name == NETS[-1] else 0.002)


def test_the_zero_start_gets_the_faster_pace() -> None:
    net = DSMoEModel(with_reference("yolov8n.yaml", "conv"), nc=6, verbose=False)
    optimizer = regroup(torch.optim.SGD(net.parameters(), lr=0.01), net)
    (group,) = (g for g in optimizer.param_groups if any(p is net.model[0].mix for p in g["params"]))
    assert (group["lr"], group["weight_decay"]) == (0.1, 0)


@pytest.mark.parametrize("name", ["yolov8n-ref", NETS[-1]])
def test_every_switch_changes_what_the_net_says_and_gives_it_back(name: str) -> None:
    net, pairs, record = awake(build(name)), torch.rand(3, 6, 64, 64), Record()
    wanted = raw(net, pairs)
    names = ["reference-blank", "reference-same", "reference-shuffled"]
    entries, _ = applicable(net, names)
    assert [entry.name for entry in entries] == names
    for entry in entries:
        with entry.switch(net, record, 0):
            assert (raw(net, pairs) - wanted).abs().max() > 1e-5, entry.name
        assert torch.equal(raw(net, pairs), wanted)


@pytest.mark.parametrize("name", [*STOCK, NETS[-1]])
def test_exported_graph_is_sound_and_agrees(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = YOLO(f"{name}.yaml")
    marked(model.model)
    path = Path(model.export(format="onnx", imgsz=64, dsmoe_parity=False))
    assert not lint(path)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == [1, 6, 64, 64]
    pairs = torch.rand(1, 6, 64, 64)
    got = torch.from_numpy(session.run(None, {"images": pairs.numpy()})[0])
    with torch.no_grad():
        torch.testing.assert_close(got, model.model.eval()(pairs)[0], atol=1e-4, rtol=1e-4)
    assert not [n for n in onnx.load(path).graph.node if n.op_type == "BatchNormalization"]


@pytest.mark.parametrize("name", ["yolov8n-ref", NETS[-1]])
def test_any_size_and_batch_from_one_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = YOLO(f"{name}.yaml")
    path = model.export(format="onnx", imgsz=64, dynamic=True, dsmoe_parity=False)
    assert not lint(path, dynamic=True)
    session = onnxruntime.InferenceSession(path)
    for size in ((1, 6, 32, 96), (3, 6, 128, 64)):
        pairs = torch.rand(size)
        got = torch.from_numpy(session.run(None, {"images": pairs.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(got, model.model.eval()(pairs)[0], atol=1e-3, rtol=1e-4)


def test_images_without_a_reference_are_told_in_one_line() -> None:
    said = r"model YAML row 0 \(Reference\): expected an image and its reference, an even number of channels, got 3"
    with pytest.raises(ConfigError, match=said):
        DSMoEModel("yolov8n-ref.yaml", ch=3, verbose=False)


def test_gray_pairs_fit_the_same_file() -> None:
    net = DSMoEModel("yolov8n-ref.yaml", ch=2, nc=6, verbose=False)
    assert reference_channels(net) == 1
    assert isinstance(net.model[0], Reference)
    net.load(source := stock("yolov8n-ref"))
    pairs = torch.rand(1, 2, 64, 64)
    assert torch.equal(raw(net, pairs), raw(source, net.model[0](pairs)))
