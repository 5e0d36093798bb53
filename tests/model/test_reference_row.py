"""Any detector with the reference row in front: what it computes, what it keeps, what is refused, round trips."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import (
    ClassificationModel,
    DetectionModel,
    OBBModel,
    PoseModel,
    RTDETRDetectionModel,
    SegmentationModel,
)

from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.options import check_options
from ultra_dsmoe.model.reference_row import converted, has_reference, reference_channels, with_reference

NAMES = {0: "open", 1: "short", 2: "spur"}
STOCK = ["yolov5n", "yolov8n", "yolov8n-p2", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n"]
FORMS = ["pack", "local", "conv", "conv-local"]
INFO = {"spec": {"folder": "golden"}, "limit": 0.4, "channels": 3, "form": "pack"}


def stock(name: str = "yolov8n", ch: int = 3) -> Any:
    torch.manual_seed(0)
    return ready(DetectionModel(f"{name}.yaml", ch=ch, nc=3, verbose=False))


def ready(net: Any) -> Any:
    """Give a net what a checkpoint has, and every normalisation values of its own."""
    net.names, net.args, net.task = dict(NAMES), vars(get_cfg()), "detect"
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5)
                m.running_mean.normal_(0, 0.1)
    return net.eval()


def raw(net: Any, images: Tensor) -> Tensor:
    """Return the boxes and scores of all anchors, before the end-to-end head picks the best."""
    with torch.no_grad():
        out = net.eval()(images)
    boxes = out[1].get("one2one", out[1]) if isinstance(out[1], dict) else out[0]
    return torch.cat([boxes["boxes"], boxes["scores"]], 1) if isinstance(boxes, dict) else boxes


@pytest.mark.parametrize("name", STOCK)
def test_any_stock_detector(name: str) -> None:
    source = stock(name)
    before = {k: v.clone() for k, v in source.state_dict().items()}
    net, pairs = converted(source, 3), torch.rand(2, 6, 64, 96)
    assert type(net) is DSMoEModel
    assert torch.equal(raw(net, pairs), raw(source, net.model[0](pairs)))
    assert [torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True)].count(
        False
    ) == 0
    assert (net.names, net.args, net.task) == (source.names, source.args, "detect")
    assert torch.equal(net.stride, source.stride)
    assert (net.yaml["nc"], net.yaml["channels"], net.yaml["yaml_file"]) == (3, 6, f"{name}-ref.yaml")
    assert [row.i for row in net.model] == list(range(len(source.model) + 1))
    rest = {k: v for k, v in source.state_dict().items() if not torch.equal(v, before[k])}
    assert not rest, "the source is left alone"
    assert source.model[0].i == 0


@pytest.mark.parametrize("form", FORMS[2:])
@pytest.mark.parametrize("name", ["yolov8n", "yolo26n"])
def test_the_mixed_forms_start_as_the_net_on_the_image_to_the_last_bit(name: str, form: str) -> None:
    source, pairs = stock(name), torch.rand(2, 6, 64, 64)
    assert torch.equal(raw(converted(source, 3, form), pairs), raw(source, pairs[:, :3]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 4])
def test_a_net_of_other_channels_reads_the_image_as_it_did(channels: int, form: str) -> None:
    source, pairs = stock(ch=channels), torch.rand(2, 2 * channels, 64, 64)
    net = converted(source, channels, form)
    image = pairs[:, :channels]
    if channels > 1 and form in FORMS[:2]:  # of which pack hands on the mean
        image = image.mean(1, keepdim=True).expand_as(image)
    torch.testing.assert_close(raw(net, pairs), raw(source, image), atol=1e-3, rtol=1e-4)
    if channels == 1 or form in FORMS[:2]:
        assert net.model[1].conv.weight[:, 1:].count_nonzero() == 0
    assert reference_channels(net) == channels


def test_gray_pairs_before_a_net_of_colours() -> None:
    source, pairs = stock(), torch.rand(1, 2, 64, 64)
    net = converted(source, 1)
    assert torch.equal(raw(net, pairs), raw(source, net.model[0](pairs)))


def test_a_net_of_ours_with_its_text() -> None:
    source = ready(DSMoEModel("dsmoe-n.yaml", nc=3, verbose=False))
    source.set_prompts({"open": "a broken track"}, "hash")
    source.set_topk(2)
    source.set_gamma(1.5)
    net, pairs = converted(source, 3), torch.rand(2, 6, 64, 64)
    grayed = net.model[0](pairs**1.5) ** (1 / 1.5)  # the gray transform stands before the row
    torch.testing.assert_close(raw(net, pairs), raw(source, grayed), atol=1e-4, rtol=1e-4)
    assert net.text_info == source.text_info
    assert torch.equal(net.text_state().vectors, source.text_state().vectors)
    assert net.options["topk"] == 2
    assert net.yaml["yaml_file"] == "dsmoe-n-ref.yaml"
    parts = {id(m) for m in net.modules()}
    assert not parts & {id(m) for m in source.modules()}
    gates = [m.router for m in net.modules() if getattr(m, "router", None) is not None]
    assert gates
    assert all(id(gate) in parts for gate in gates), "a mixture follows the gate of its own net"


@pytest.mark.parametrize("name", ["yolov8n-dsmoe", "yolo26n-gasnet", "dsmoe"])
def test_every_net_of_ours_converts_and_takes_its_own_weights_again(name: str) -> None:
    source = ready(DSMoEModel(f"{name}.yaml", nc=3, verbose=False))
    net, pairs = converted(source, 3), torch.rand(1, 6, 64, 64)
    assert torch.equal(raw(net, pairs), raw(source, net.model[0](pairs)))
    again = ready(DSMoEModel(with_reference(source), verbose=False))
    again.load(source)
    assert torch.equal(raw(again, pairs), raw(net, pairs))
    check_options(net.options)


@pytest.mark.parametrize(("name", "other"), [("yolov8n-dsmoe", "yolov8n"), ("yolo26n-gasnet", "yolo26n")])
def test_the_weights_that_a_net_of_ours_goes_around_find_their_places(name: str, other: str) -> None:
    plain, net = (DSMoEModel(c, nc=3, verbose=False) for c in (f"{name}.yaml", with_reference(f"{name}.yaml")))
    source = stock(other)
    for ours in (plain, net):
        ours.load(source)
    known = {(v.shape, v.double().sum().item()) for v in source.state_dict().values() if v.ndim > 1}
    here, there = plain.state_dict(), net.state_dict()
    arrived = [k for k, v in here.items() if v.ndim > 1 and (v.shape, v.double().sum().item()) in known]
    assert len(arrived) > 0.95 * len(known)
    for name in arrived:
        row, _, rest = name.removeprefix("model.").partition(".")
        assert torch.equal(there[f"model.{int(row) + 1}.{rest}"], here[name]), name


def test_a_part_of_a_row_as_a_place_moves_too() -> None:
    transfer = with_reference("smodel.yaml")["dsmoe"]["transfer"]
    given = DSMoEModel("smodel-n.yaml", nc=3, verbose=False).options["transfer"]
    assert set(transfer) == {"without the row", *given}
    for family, moves in given.items():
        for row, place in moves.items():
            head, _, part = str(place).partition(".")
            wanted = f"{int(head) + 1}.{part}" if part else int(head) + 1
            assert transfer[family][row] == wanted


@pytest.mark.parametrize("form", FORMS)
def test_the_yaml_of_a_net_builds_the_same_net(form: str) -> None:
    """As the trainer does."""
    net, pairs = converted(stock(), 3, form), torch.rand(1, 6, 64, 64)
    again = ready(DSMoEModel(net.yaml, nc=3, verbose=False))
    again.load(net)
    assert torch.equal(raw(again, pairs), raw(net, pairs))
    assert again.model[0].form == form


def test_checkpoint_copy_and_fusing(tmp_path: Path) -> None:
    model, source, pairs = YOLO("yolov8n.yaml"), stock(), torch.rand(1, 6, 64, 64)
    model.model = converted(source, 3)
    model.model.reference_info = INFO
    wanted = raw(model.model, pairs)
    model.ckpt = {}
    model.save(tmp_path / "net.pt")
    loaded = YOLO(tmp_path / "net.pt")
    assert type(loaded.model) is DSMoEModel
    assert loaded.task == "detect"
    assert loaded.model.names == NAMES
    assert loaded.model.reference_info == INFO
    loaded_net = loaded.model.float()
    torch.testing.assert_close(raw(loaded_net, pairs), wanted, atol=0.2, rtol=2e-2)  # saved in half precision
    twin = deepcopy(loaded_net)
    exact = raw(loaded_net, pairs)
    assert torch.equal(raw(twin, pairs), exact)
    torch.testing.assert_close(raw(twin.fuse(verbose=False), pairs), exact, atol=1e-3, rtol=1e-4)
    with pytest.raises(WeightsError, match="model: expected a net that is not fused for inference"):
        converted(ready(stock().fuse(verbose=False)), 3)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
def test_export_agrees_with_the_net(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = YOLO(f"{name}.yaml")
    model.model = converted(stock(name), 3, "conv-local")
    nn.init.normal_(model.model.model[0].mix)
    session = onnxruntime.InferenceSession(model.export(format="onnx", imgsz=64, dsmoe_parity=False))
    pairs = torch.rand(1, 6, 64, 64)
    got = torch.from_numpy(session.run(None, {"images": pairs.numpy()})[0])
    with torch.no_grad():
        torch.testing.assert_close(got, model.model.eval()(pairs)[0], atol=1e-4, rtol=1e-4)


def test_precision_and_mode_are_the_nets() -> None:
    net = converted(stock().half(), 3)
    assert {p.dtype for p in net.parameters()} == {torch.float16}
    assert net.model[0].gray.dtype == torch.float16
    assert not net.training
    assert converted(stock().train(), 3).training
    frozen = stock()
    frozen.model[0].conv.weight.requires_grad_(False)
    assert not converted(frozen, 3).model[1].conv.weight.requires_grad


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (SegmentationModel, "yolov8n-seg"),
        (PoseModel, "yolov8n-pose"),
        (OBBModel, "yolov8n-obb"),
        (ClassificationModel, "yolov8n-cls"),
    ],
)
def test_other_tasks_are_refused(cls: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model: expected a detector \(.*references, got {cls.__name__}$"):
        converted(cls(f"{name}.yaml", verbose=False), 3)


def test_what_is_no_net_of_rows_is_refused() -> None:
    said = r"^model: expected a detector \(.*references, got "
    with pytest.raises(ConfigError, match=said):
        converted(nn.Linear(1, 1), 3)
    with pytest.raises(ConfigError, match=said):
        converted(RTDETRDetectionModel.__new__(RTDETRDetectionModel), 3)


def test_wrong_arguments_are_refused() -> None:
    net = converted(stock(), 3)
    with pytest.raises(ConfigError, match=r"model: expected a net without a Reference row, got yolov8n-ref\.yaml"):
        converted(net, 3)
    with pytest.raises(
        ConfigError, match="form of the Reference row: expected one of pack, local, conv, conv-local, got f"
    ):
        with_reference("yolov8n.yaml", "features")
    with pytest.raises(ConfigError, match="channels of an image: expected a positive integer, got 0"):
        with_reference("yolov8n.yaml", channels=0)
    with pytest.raises(WeightsError, match="model: expected a net for images of 3 channels, got one for 1"):
        converted(stock(ch=1), 3)


def test_questions_about_a_net() -> None:
    source = stock()
    assert not has_reference(source)
    assert not has_reference(None)
    assert not has_reference(nn.Identity())
    net = converted(source, 4, "pack")
    assert has_reference(net)
    assert reference_channels(net) == 4


# what a net knows of its references -----------------------------------------------------------------------------------


def test_reference_info_is_absent_in_nets_without_one() -> None:
    assert DSMoEModel("yolov8n-ref.yaml", nc=3, verbose=False).reference_info is None
    assert "reference_info" not in vars(DSMoEModel("dsmoe-n.yaml", nc=3, verbose=False)), "nor in older checkpoints"


def test_reference_info_comes_with_the_weights_where_there_is_none() -> None:
    source, net, other = (converted(stock(), 3) for _ in range(3))
    plain = DSMoEModel("dsmoe-n.yaml", nc=3, verbose=False)
    source.reference_info, other.reference_info = deepcopy(INFO), {**INFO, "limit": 0.1}
    net.load(source)
    assert net.reference_info == INFO
    assert net.reference_info is not source.reference_info
    other.load(source)
    assert other.reference_info["limit"] == 0.1, "a net keeps its own"
    dsmoe = converted(ready(plain), 3)
    dsmoe.reference_info = INFO
    again = DSMoEModel("dsmoe-n.yaml", nc=3, verbose=False)
    with pytest.raises(WeightsError):
        again.load(source)
    assert again.reference_info is None, "a net without the row has no references"
