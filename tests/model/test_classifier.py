"""The classifier: families, text or none, weights of stock nets, phases, copies, errors."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import pytest
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, yaml_model_load

from ultra_dsmoe.errors import ConfigError, ShapeError
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.nn.head.pair_classify import ALIGNMENT, FUSION, WARM_UP, PairOutputs

YAML = "yolov8n-pfa-cls.yaml"


def build(file: str = YAML, **options: Any) -> PairModel:
    """Return a small net for three classes."""
    cfg = yaml_model_load(file)
    cfg["dsmoe"] = {**cfg["dsmoe"], "text_width": 16, **options}
    torch.manual_seed(0)
    return PairModel(cfg, nc=3, verbose=False).eval()


def images(channels: int = 3, size: int = 64) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["pfa-cls", "yolov8n-pfa-cls", "yolov8s-pfa-cls", "yolo11n-pfa-cls"])
def test_a_bare_name_gives_a_classifier_that_sees_pictures_alone(name: str) -> None:
    model = YOLO(f"{name}.yaml")
    assert (type(model.model), model.task) == (PairModel, "classify")
    with torch.no_grad():
        probabilities, _ = model.model.eval()(images())
    assert probabilities.sum(1).tolist() == pytest.approx([1, 1])
    assert model.model.yaml["channels"] == 3


def test_texts_change_nothing_of_a_net_that_learns_from_them_alone() -> None:
    net, with_text = build(), images(4)
    assert torch.equal(net(with_text)[0], net(with_text[:, :3])[0])


def test_texts_count_in_a_net_that_wants_them() -> None:
    net, with_text = build(text_mode="always"), images(4)
    other = with_text.clone()
    other[:, 3] += 1
    assert net.yaml["channels"] == 4
    assert not torch.allclose(net(with_text)[0], net(other)[0])


def test_a_net_that_wants_texts_says_so() -> None:
    with pytest.raises(ShapeError, match=r"input images: expected \(B, 4, H, W\), .*text_mode: always, got"):
        build(text_mode="always")(images(3))


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        ("yolov8n-pfa-cls", "yolov8n-cls", ClassificationModel),
        ("yolov8n-pfa-cls", "yolov8n", DetectionModel),
        ("yolo11n-pfa-cls", "yolo11n-cls", ClassificationModel),
        ("yolo11n-pfa-cls", "yolo11n", DetectionModel),
    ],
)
def test_weights_of_stock_nets_go_to_the_image_encoder(ours: str, theirs: str, kind: type) -> None:
    net, source = build(f"{ours}.yaml"), kind(f"{theirs}.yaml", verbose=False).eval()
    fresh = deepcopy(net)
    net.load(source)
    rows, image = net.encoder_rows(), images()
    x = y = image
    for ours_row, fresh_row in zip(net.model[2:rows], fresh.model[2:rows], strict=True):
        x, y = ours_row(x), fresh_row(y)
    z = image
    places = [i for i in range(len(source.model)) if i <= rows - 3 + (theirs == "yolo11n")]
    for i in places:
        if not (theirs == "yolo11n" and i == 9):  # its SPPF has no place here
            z = source.model[i](z)
    assert torch.equal(x, z)
    assert not torch.equal(y, z)


@pytest.mark.parametrize("phase", [WARM_UP, ALIGNMENT, FUSION])
def test_before_fusion_the_pictures_own_classifier_is_asked(phase: str) -> None:
    net = build()
    net.head.phase = phase
    probabilities, logits = net(images())
    net.head.whole = True
    outputs = net(images())
    assert isinstance(outputs, PairOutputs)
    assert outputs.warm[0] is not None
    expected = outputs.logits if phase == FUSION else outputs.warm[0]
    assert torch.equal(logits, expected)
    assert torch.equal(probabilities, expected.softmax(1))


def test_what_a_net_knows_travels_with_it() -> None:
    net = build()
    net.pair_text, net.pair_order, net.head.phase = {"encoder": "hash:16"}, [2, 0, 1], ALIGNMENT
    for copy in (deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert (copy.pair_text, copy.pair_order, copy.head.phase) == (net.pair_text, net.pair_order, ALIGNMENT)
    state, name = net.text_state()
    assert state is not None
    assert name is None
    state["encoder"] = "other"
    assert net.pair_text == {"encoder": "hash:16"}  # a copy


def test_the_host_counts_what_runs() -> None:
    net = build("yolov8n-pfa-cls.yaml")
    layers, parameters, _, flops = net.info()
    assert parameters == sum(p.numel() for p in net.parameters())
    assert 0.2 < flops < 0.6  # at 224 px
    assert layers > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_mode": "train", "fusion": "cmaf"}, r"dsmoe\.fusion: expected none beside text_mode: train"),
        ({"pfa": "upwards"}, r"dsmoe\.pfa"),
        ({"fusion": "sum", "text_mode": "always"}, r"dsmoe\.fusion"),
    ],
)
def test_bad_options_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(**change)
    assert "\n" not in str(error.value)


def test_another_head_is_refused() -> None:
    cfg = yaml_model_load(YAML)
    cfg["head"] = [*cfg["head"][:-1], [10, 1, "Classify", ["nc"]]]
    with pytest.raises(ConfigError, match=r"row 15 \(Classify\): expected a PairClassify head in the last row"):
        PairModel(cfg, nc=3, verbose=False)


@pytest.mark.parametrize("mode", ["train", "always"])
def test_rows_give_a_vector_per_image(mode: str) -> None:
    net, batch = build(text_mode=mode), images(4)
    maps = net.predict(batch, embed=[10])
    with torch.no_grad():
        joined = net.predict(batch, embed=[len(net.model) - 2, 10])  # the host's choice, a vector, and a map
    assert [tuple(vector.shape) for vector in maps] == [(256,)] * 2
    assert [tuple(vector.shape) for vector in joined] == [(512,)] * 2
    assert torch.allclose(joined[1][:256], maps[1])  # rows come in the net's order
    assert not any(row._forward_hooks for row in net.model)
    with pytest.raises(ConfigError, match=r"^embed: expected rows that give a map or a vector, got row 0"):
        net.predict(batch, embed=[0])
