"""The GASNet-style nets: they build, train, start as the YOLO they come from, cost little, export and explain."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils.loss import v8DetectionLoss

from ultra_dsmoe.edge.lint import lint
from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.explain.catalogue import applicable
from ultra_dsmoe.explain.record import recording
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import FGPEM, MFA, Allocate, BandSplit, ChannelSync, Record

NETS = ["gasnet-n", "gasnet-s", "yolov8n-gasnet", "yolov8s-gasnet", "yolo26n-gasnet", "yolo26s-gasnet"]
KEPT = [("yolov8n", "yolov8n-gasnet"), ("yolov8s", "yolov8s-gasnet"), ("yolo26n", "yolo26n-gasnet")]
# mean work of the added neck over the stock net's, at 640; the paper's own replaces the stock neck
COSTS = {"yolov8n": 1.08, "yolov8s": 1.08, "yolov8x": 1.08, "yolo26n": 1.08, "yolo26x": 1.08}
WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "weights" / "yolov8n_coco_from_int8.pt"
KNOCKOUTS = {
    "bands-merged", "low-zero", "high-zero", "fgpem-off", "channel-gate-constant", "spatial-gate-constant",
    "mfa-constant", "injection-constant", "allocation-gate-constant", "sync-off", "sync-constant", "lateral-constant",
}  # fmt: skip


def build(name: str, **section: object) -> DSMoEModel:
    cfg = yaml_model_load(f"{name}.yaml")
    cfg["dsmoe"].update(section)
    torch.manual_seed(0)
    net = DSMoEModel(cfg, nc=6, verbose=False)
    net.args = get_cfg()
    return net


def awake(net: DSMoEModel) -> DSMoEModel:
    """Give every part a share in what the net says: what starts at zero says nothing, and fresh norms fade maps out."""
    with torch.no_grad():
        for kind in (FGPEM, Allocate, ChannelSync):
            for block in net.blocks(kind):
                for p in block.parameters():
                    p.add_(0.3 * torch.randn_like(p))
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 0.5
        for _ in range(4):
            net.train()(torch.rand(4, 3, 64, 64))
    return net


def batch(size: int = 64, images: int = 2) -> dict[str, Tensor]:
    return {
        "img": torch.rand(images, 3, size, size),
        "cls": torch.arange(images).float().view(-1, 1),
        "bboxes": torch.tensor([[0.4, 0.5, 0.3, 0.4]]).repeat(images, 1),
        "batch_idx": torch.arange(images).float(),
    }


def raw(net: nn.Module, images: Tensor) -> Tensor:
    """Return the boxes and scores of all anchors, before the end-to-end head picks the best."""
    with torch.no_grad():
        out = net.eval()(images)
    boxes = out[1].get("one2one", out[1]) if isinstance(out[1], dict) else out[0]
    return torch.cat([boxes["boxes"], boxes["scores"]], 1) if isinstance(boxes, dict) else boxes


@pytest.mark.parametrize("name", NETS)
def test_builds_and_everything_gets_a_gradient(name: str) -> None:
    net = build(name)
    assert net.stride.tolist() == [8.0, 16.0, 32.0]
    assert [len(net.blocks(kind)) for kind in (MFA, Allocate, ChannelSync)] == [1, 3, 1]
    assert len(net.blocks(FGPEM)) == (2 if name.startswith("gasnet") else 1)
    loss, items = net.train()(batch())
    loss.sum().backward()
    assert len(items) == 3, "the host's own loss"
    frozen = {n for n, p in net.named_parameters() if p.requires_grad and p.grad is None}
    assert not frozen
    still = {n for n, p in net.named_parameters() if n.endswith(("inject.bn.weight", "lateral.0.bn.weight"))
             and not p.grad.any()}  # fmt: skip
    assert not still, "what starts at zero learns in the first step"


def test_the_criterion_is_the_hosts() -> None:
    assert type(build("yolov8n-gasnet").init_criterion()) is v8DetectionLoss


@pytest.mark.parametrize(("stock", "name"), KEPT)
def test_starts_as_the_yolo_it_comes_from_to_the_last_bit(stock: str, name: str) -> None:
    torch.manual_seed(3)
    source = DetectionModel(f"{stock}.yaml", nc=6, verbose=False)
    with torch.no_grad():
        for m in source.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5)
                m.running_mean.normal_(0, 0.1)
    net = build(name)
    images = torch.rand(2, 3, 96, 64)
    assert not torch.allclose(raw(net, images), raw(source, images), atol=1e-2)
    net.load(source)
    assert torch.equal(raw(net, images), raw(source, images))


@pytest.mark.realdata
def test_starts_as_yolov8n_with_coco_weights() -> None:
    if not WEIGHTS.is_file():
        pytest.skip("no COCO weights")
    stock, net = YOLO(WEIGHTS), YOLO("yolov8n-gasnet.yaml")
    net.load(WEIGHTS)
    images = torch.rand(1, 3, 160, 160)
    assert torch.equal(raw(net.model.float(), images), raw(stock.model.float(), images))


def test_the_paper_s_own_takes_encoder_and_head() -> None:
    torch.manual_seed(3)
    source, net = DetectionModel("yolov8n.yaml", nc=6, verbose=False), build("gasnet-n")
    net.load(source)
    mine, theirs = net.state_dict(), source.state_dict()
    for here, there in ((0, 0), (9, 9), (20, 22)):
        names = [k for k in theirs if k.startswith(f"model.{there}.")]
        assert names
        assert all(torch.equal(mine[k.replace(f"model.{there}.", f"model.{here}.", 1)], theirs[k]) for k in names)


@pytest.mark.parametrize("stock", COSTS)
def test_the_added_neck_costs_little(stock: str) -> None:
    added, alone = (YOLO(f"{n}.yaml").model.info()[3] for n in (f"{stock}-gasnet", stock))
    assert 1 < added / alone <= COSTS[stock]


def test_the_paper_s_own_neck_costs_what_a_pan_does() -> None:
    own, stock = (YOLO(f"{n}.yaml").model.info() for n in ("gasnet-n", "yolov8n"))
    assert own[1] <= 1.05 * stock[1]
    assert own[3] <= 1.05 * stock[3]


@pytest.mark.parametrize("split", ["overlap", "patch", "learned"])
@pytest.mark.parametrize("name", ["gasnet-n", "yolov8n-gasnet"])
def test_fused_it_computes_the_same(name: str, split: str) -> None:
    net, images = awake(build(name, split=split)).eval(), torch.rand(1, 3, 96, 128)
    wanted = raw(net, images)
    assert torch.allclose(raw(net.fuse(verbose=False), images), wanted, atol=1e-3, rtol=1e-4)


def test_the_section_reaches_the_blocks() -> None:
    section = {"split": "learned", "patch": 3, "tau": 1, "features": "low", "channel_gate": "none"}
    net = build("yolov8n-gasnet", **section, spatial_gate=False, allocation_gate=False)
    (bands,), (fgpem,) = net.blocks(BandSplit), net.blocks(FGPEM)
    assert (bands.split, bands.patch, fgpem.features) == ("learned", 3, "low")
    assert bands.shares.shape[1] == 9
    assert fgpem.channel_gate is fgpem.spatial_gate is None
    assert [a.gate for a in net.blocks(Allocate)] == [None] * 3


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"split": "dct"}, "dsmoe.split: expected one of overlap, patch, learned"),
        ({"patch": 1}, "dsmoe.patch: expected a whole number from 2 to 16"),
        ({"patch": 4, "tau": 7}, "dsmoe.tau: expected a whole number from 1 to 6 for patches of 4, got 7"),
        ({"tau": "low"}, "dsmoe.tau: expected a positive integer, got low"),
        ({"tau": 0}, "dsmoe.tau: expected a positive integer, got 0"),
        ({"features": "high"}, "dsmoe.features: expected one of both, low"),
        ({"channel_gate": "spectra"}, r"dsmoe.channel_gate: expected .*did you mean 'spectrum'"),
        ({"spatial_gate": "yes"}, "dsmoe.spatial_gate: expected true or false"),
        ({"chanel_gate": "none"}, "did you mean 'channel_gate'"),
    ],
)
def test_a_wrong_section_is_told_in_one_line(section: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("yolov8n-gasnet", **section)


def test_training_images_too_small_for_a_patch_are_told() -> None:
    said = r"FGPEM patch: expected at most the shorter side of the map, 2 \(dsmoe.patch in .*, got 4"
    with pytest.raises(ShapeError, match=said):
        build("yolov8n-gasnet").train()(torch.zeros(2, 3, 32, 64))


@pytest.mark.parametrize("split", ["overlap", "patch", "learned"])
def test_a_strip_narrower_than_a_patch_is_an_image_like_others(split: str) -> None:
    """Validation and prediction cut images to their shape: 640 x 64 at 128 px is 128 x 32."""
    net = awake(build("yolov8n-gasnet", split=split)).eval()
    out = raw(net, torch.rand(1, 3, 32, 128))
    assert torch.isfinite(out).all()
    assert out.shape[2] == 84


@pytest.fixture(scope="module")
def recorded() -> tuple[DSMoEModel, Record, Tensor]:
    net, images, record = awake(build("yolov8n-gasnet")).eval(), torch.rand(2, 3, 96, 96), Record()
    with recording(net, record):
        raw(net, images)
    return net, record, images


def test_every_part_can_be_switched_off(recorded: tuple[DSMoEModel, Record, Tensor]) -> None:
    net, _, _ = recorded
    fitting, _ = applicable(net)
    assert {entry.name for entry in fitting} == KNOCKOUTS | {"control"}


@pytest.mark.parametrize("name", sorted(KNOCKOUTS))
def test_a_switch_changes_what_the_net_says_and_gives_it_back(
    name: str, recorded: tuple[DSMoEModel, Record, Tensor]
) -> None:
    net, record, images = recorded
    (entry,), _ = applicable(net, [name])
    wanted = raw(net, images)
    with entry.switch(net, record, 0):
        assert (raw(net, images) - wanted).abs().max() > 1e-5
    assert torch.equal(raw(net, images), wanted)


def test_the_split_switch_gives_the_whole_map_as_low_band(recorded: tuple[DSMoEModel, Record, Tensor]) -> None:
    net, record, _ = recorded
    (bands,), x = net.blocks(BandSplit), torch.randn(1, 64, 8, 8)
    (entry,), _ = applicable(net, ["bands-merged"])
    with entry.switch(net, record, 0):
        low, high = bands(x)
    torch.testing.assert_close(low, x, atol=1e-6, rtol=0)
    assert not high.any()


@pytest.mark.parametrize("name", ["gasnet-n", "yolov8n-gasnet", "yolo26n-gasnet"])
def test_exported_graph_is_sound(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command checks by itself that file and net agree."""
    monkeypatch.chdir(tmp_path)
    path = Path(YOLO(f"{name}.yaml").export(format="onnx", imgsz=64))
    assert not lint(path)
    norms = [node.name for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization"]
    assert not norms, "every normalisation is folded"


def test_any_size_from_one_file_unless_patches_lie_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = YOLO("yolov8n-gasnet.yaml")
    awake(model.model)
    session = onnxruntime.InferenceSession(model.export(format="onnx", imgsz=160, dynamic=True))
    for size in ((96, 224), (160, 160), (320, 64), (32, 128), (32, 32)):
        images = torch.rand(1, 3, *size)
        got = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
        with torch.no_grad():
            wanted = model.model.eval()(images)[0]
        torch.testing.assert_close(torch.from_numpy(got), wanted, atol=1e-2, rtol=1e-4)
    cfg = yaml_model_load("yolov8n-gasnet.yaml")
    cfg["dsmoe"]["split"] = "patch"
    model.model = DSMoEModel(cfg, verbose=False)
    model.model.args, model.model.task = vars(get_cfg()), "detect"
    with pytest.raises(ConfigError, match="dynamic"):
        model.export(format="onnx", imgsz=160, dynamic=True)
