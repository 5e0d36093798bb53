"""Self-distillation in the wrapper: one forward of the student, heads of every kind, warm-up, equal strengths."""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from net_checks import assert_mixed_precision
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

from ultra_dsmoe.distill import resolve
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

Batch = Callable[..., dict[str, Tensor]]
TERMS = ("kd_cls_loss", "kd_box_loss", "dis_loss")
OURS = ("dsmoe-n", "smodel-n", "tmodel-n", "gasnet-n", "yolov8n-gasnet")


def make(name: str) -> Any:
    kind = DSMoEModel if name in OURS else DetectionModel
    net: Any = kind(f"{name}.yaml", nc=6, verbose=False)
    net.args = get_cfg()
    return net


def confident(net: Any) -> Any:
    """Return a net whose head sees something at every anchor; a fresh one sees nothing anywhere."""
    with torch.no_grad():
        for name, p in net.model[-1].named_parameters():
            if name.startswith("cv3") and name.endswith("bias") and p.shape == (6,):
                p.copy_(torch.linspace(-3, 0, 6))
    return net


def pair(student: str | nn.Module = "yolov8n", teacher: str | nn.Module = "yolov8n", kd: object = "self") -> Any:
    nets = [make(net) if isinstance(net, str) else net for net in (student, teacher)]
    return FeatureDistillation(nets[0], confident(nets[1]).eval().requires_grad_(False), resolve(kd)).train()


# value ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["self", "self-plain"])
def test_loss_is_the_hosts_with_ours_behind(name: str, batch: Batch) -> None:
    wrapper, data = pair(kd={"method": name, "gains": {"kd_cls": 2, "kd_box": 3}}), batch()
    alone = deepcopy(wrapper.student_model).train()
    loss, items = wrapper(data)
    expected, own = alone.loss(data)
    torch.testing.assert_close(loss[:3], expected)
    assert tuple(items)[-3:] == TERMS
    assert all(items[k] == v for k, v in own.items())
    torch.testing.assert_close(items["dis_loss"], items["kd_cls_loss"] + items["kd_box_loss"])
    torch.testing.assert_close(loss[3], 2 * items["dis_loss"], msg="times the images, as the host's")


def test_gains_scale_their_terms(batch: Batch) -> None:
    data = batch()
    wrapper = pair(kd={"method": "self", "gains": {"kd_cls": 2, "kd_box": 0}})
    usual = pair(deepcopy(wrapper.student_model), wrapper.teacher_model)
    (_, items), (_, plain) = wrapper(data), usual(data)
    torch.testing.assert_close(items["kd_cls_loss"], 2 * plain["kd_cls_loss"])
    assert items["kd_box_loss"] == 0 < plain["kd_box_loss"]


def test_a_student_like_its_teacher_costs_nothing(batch: Batch) -> None:
    net = confident(make("yolov8n"))
    for name in ("self", "self-plain"):
        wrapper = pair(net, deepcopy(net), name)
        net.eval()  # batch statistics would tell them apart
        net.model[-1].train()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()
        assert all(abs(wrapper(batch(images=1))[1][k]) < 1e-5 for k in TERMS), name


@pytest.mark.parametrize("warmup", [0, 3])
def test_it_grows_to_its_strength(warmup: float, batch: Batch) -> None:
    wrapper, data = pair(kd={"method": "self", "warmup": warmup}), batch()
    full = wrapper(data)[1]
    for progress, share in ((0.5, 1 / 6), (1.5, 0.5), (3.0, 1.0), (7.0, 1.0)):
        wrapper.progress = progress
        loss, items = wrapper(data)
        wanted = share if warmup else 1.0
        torch.testing.assert_close(items["dis_loss"], wanted * full["dis_loss"], rtol=1e-4, atol=0)
        torch.testing.assert_close(loss[-1], 2 * items["dis_loss"])
        torch.testing.assert_close(items["kd_cls_loss"], full["kd_cls_loss"], rtol=1e-4, atol=0)


def test_both_forms_pull_alike_at_the_start(batch: Batch) -> None:
    """On the last layers of a tiny pair's student, as the optimizer sees it; unmatched they are far apart."""
    teacher, data = confident(make("yolov8n")), batch()
    for cell in teacher.model[-1].cv3:
        nn.init.normal_(cell[-1].weight, std=0.5)  # sure of a few anchors, of most not
        nn.init.constant_(cell[-1].bias, -6.0)
    student, pull = make("yolov8n"), {}
    for name, kd in {"self": "self", "plain": "self-plain", "raw": {"method": "self-plain", "match": False}}.items():
        wrapper = pair(student, teacher, kd)
        with torch.no_grad():
            for cell in teacher.model[-1].cv3:
                cell[-1].bias.fill_(-6.0)
        loss, _ = wrapper(data)
        biases = [branch[-1].bias for branches in (student.model[-1].cv3, student.model[-1].cv2) for branch in branches]
        weights = [branch[-1].weight for branch in student.model[-1].cv3]
        grads = torch.autograd.grad(loss[-1], [*biases, *weights])
        pull[name] = torch.cat([g.flatten() for g in grads]).norm().item()
    assert pull["plain"] / pull["self"] == pytest.approx(1, abs=0.5)
    assert abs(pull["plain"] / pull["self"] - 1) < abs(pull["raw"] / pull["self"] - 1)


# pairs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "boxes"),
    [
        ("yolov8n", "yolov8s", True),
        ("yolov8n", "yolo11n", True),
        ("dsmoe-n", "dsmoe-n", True),  # its head reads text behind the maps
        ("dsmoe-n", "yolov8n", True),
        ("yolov8n-gasnet", "yolov8n-gasnet", True),  # patches of 4 cells, where the smallest image has 2
        ("yolov8n", "gasnet-n", True),
        ("smodel-n", "smodel-n", True),  # another form of head, four levels
        ("yolo26n", "yolo26n", False),  # end-to-end, without a distribution
        ("yolo26n", "yolov8n", False),
    ],
)
def test_any_pair_with_the_same_strides(student: str, teacher: str, boxes: bool, batch: Batch) -> None:
    wrapper = pair(student, teacher)
    head, seen = wrapper.student_model.model[-1], []
    handle = head.register_forward_hook(lambda *_: seen.append(1))
    loss, items = wrapper(batch(size=64))
    handle.remove()
    assert len(seen) == 1, "one forward of the student serves both losses"
    loss.sum().backward()
    assert items["kd_cls_loss"] > 0
    assert (items["kd_box_loss"] > 0) == boxes
    assert all(torch.isfinite(value) for value in items.values())
    if student == "dsmoe-n":
        assert items["aux_loss"] > 0
        assert items["align_loss"] > 0
    first = next(p for p in wrapper.student_model.parameters() if p.requires_grad)
    assert first.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in wrapper.teacher_model.parameters())
    assert not any(m.training for m in wrapper.teacher_model.modules() if isinstance(m, nn.BatchNorm2d))
    assert list(wrapper.projector.parameters()) == []


@pytest.mark.parametrize("kd", ["attention", "mimic"])
def test_necks_that_split_by_frequency_are_compared_too(kd: str, batch: Batch) -> None:
    loss, _ = pair("yolov8n-gasnet", "gasnet-n", kd)(batch(size=64))
    assert torch.isfinite(loss).all()


def test_other_strides_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^distill_model: expected a teacher of the student's strides \(8, 16, 32\)"):
        pair("yolov8n", "yolov8n-p2")


# round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["self", "self-plain"])
def test_copies_and_checkpoints_keep_all_but_the_teacher(name: str, batch: Batch) -> None:
    wrapper = pair(kd={"method": name, "cls_temperature": 4, "warmup": 1, "levels": [16, 32]})
    wrapper.progress = 0.5
    wrapper(batch())[0].sum().backward()
    file = io.BytesIO()
    torch.save(wrapper, file)
    assert file.tell() < 1.3 * 4 * sum(p.numel() for p in wrapper.parameters()), "the teacher went along"
    file.seek(0)
    for other in (deepcopy(wrapper), torch.load(file, weights_only=False)):
        assert other.teacher_model is None
        assert (other.config, other.levels, other.ramp) == (wrapper.config, wrapper.levels, 0.5)
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in wrapper.state_dict().items())


def test_mixed_precision(batch: Batch) -> None:
    assert_mixed_precision(pair(), batch(), TERMS)
