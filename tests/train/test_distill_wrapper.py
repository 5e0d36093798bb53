"""The wrapper of teacher and student: what it adds to the loss, and what it must not leave behind."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from net_checks import assert_mixed_precision, hook_count, save_net
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

from ultra_dsmoe.distill import METHODS, Pair, Seen, register_method, resolve
from ultra_dsmoe.distill.attention import ActivationAttention
from ultra_dsmoe.errors import ConfigError, WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.neck_maps import feeding_rows, neck_maps
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.contract import Option
from ultra_dsmoe.train.distill_wrapper import FeatureDistillation, _joined
from ultra_dsmoe.train.teacher import check_teacher, load_teacher

Batch = Callable[..., dict[str, Tensor]]
TERMS = ("fg_loss", "att_loss", "glob_loss", "dis_loss")


def make(name: str = "yolov8n", nc: int = 6) -> Any:
    kind = DSMoEModel if "dsmoe" in name else DetectionModel
    net: Any = kind(f"{name}.yaml", nc=nc, verbose=False)
    net.args = get_cfg()
    net.names = {i: f"class{i}" for i in range(nc)}
    return net


def pair(student: str | nn.Module = "yolov8n", teacher: str | nn.Module = "yolov8s", kd: object = "attention") -> Any:
    nets = [make(net) if isinstance(net, str) else net for net in (student, teacher)]
    nets[1].eval().requires_grad_(False)
    return FeatureDistillation(nets[0], nets[1], resolve(kd)).train()


def attention_neck() -> dict[str, Any]:
    """Return yolov8n with an attention behind its P3 block, and none behind the others."""
    cfg = {k: v for k, v in yaml_model_load("yolov8n.yaml").items() if k != "yaml_file"}
    cfg["head"] = deepcopy(cfg["head"])
    cfg["head"].insert(6, [-1, 1, "DualAttention", []])  # row 16, behind the P3 block
    cfg["head"][-1][0] = [16, 19, 22]
    return cfg


# value ----------------------------------------------------------------------------------------------------------------


def test_loss_is_the_hosts_with_ours_behind(batch: Batch) -> None:
    wrapper, data = pair(), batch()
    alone = deepcopy(wrapper.student_model).train()
    loss, items = wrapper(data)
    expected, own = alone.loss(data)
    torch.testing.assert_close(loss[:3], expected)
    assert tuple(items)[-4:] == TERMS
    assert all(items[k] == v for k, v in own.items())
    assert items["dis_loss"].item() == pytest.approx(sum(items[k].item() for k in TERMS[:3]), rel=1e-5)
    assert loss[3].item() == pytest.approx(2 * items["dis_loss"].item(), rel=1e-5), "times the images, as the host's"
    assert 0.1 < items["fg_loss"] < 10


def test_gains_and_adaptive_weights_scale_their_terms(batch: Batch) -> None:
    data = batch()
    wrapper = pair(kd={"gains": {"fg": 2, "att": 0, "glob": 1, "cls": 3, "box": 1}})
    plain = pair(deepcopy(wrapper.student_model), wrapper.teacher_model, {"gains": dict.fromkeys(("fg", "glob"), 1)})
    plain.projector.load_state_dict(wrapper.projector.state_dict())
    wrapper.adaptive.weights = [0.5, 1.0, 2.0, 0.25, 4.0]  # fg, att, glob, cls, box
    (loss, items), (once, single) = wrapper(data), plain(data)
    torch.testing.assert_close(loss[:3], once[:3] * torch.tensor([4.0, 0.75, 1.0]))
    assert items["att_loss"] == 0
    assert items["fg_loss"].item() == pytest.approx(2 * single["fg_loss"].item(), rel=1e-4)
    assert items["dis_loss"].item() == pytest.approx(
        (single["fg_loss"] + 2 * single["glob_loss"]).item(), rel=1e-4
    )  # 0.5 x 2 and 2 x 1
    wrapper.adaptive.end_epoch()
    first = wrapper.adaptive.state()["first"]
    assert first[3] == pytest.approx(3 * single["cls_loss"].item(), rel=1e-4), "per image, with its gain"


def test_a_student_like_its_teacher_costs_nothing(batch: Batch) -> None:
    for name in ("yolov8n", "dsmoe-n"):
        net = make(name)
        wrapper = pair(net, deepcopy(net)).train()
        net.eval()  # batch statistics would tell them apart
        _, items = wrapper(batch(images=1))
        assert all(items[k] < 1e-6 for k in TERMS), name


def test_mimic_has_one_term(batch: Batch) -> None:
    loss, items = pair(kd="mimic")(batch())
    assert tuple(items)[-2:] == ("mimic_loss", "dis_loss")
    assert len(loss) == 4


def test_evaluation_runs_no_teacher(batch: Batch) -> None:
    wrapper, data = pair().eval(), batch()
    wrapper.teacher_model = None
    preds = wrapper(data["img"])
    loss, items = wrapper.loss(data, preds)
    assert loss[-1] == 0
    assert [items[k] for k in TERMS] == [0, 0, 0, 0]
    assert items["cls_loss"] > 0


def test_items_of_older_hosts_are_a_tensor() -> None:
    got = _joined(torch.tensor([1.0, 2.0]), ("a", "b"), [torch.tensor(3.0), torch.tensor(4.0)])
    assert got.tolist() == [1, 2, 3, 4]


# pairs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "strides"),
    [
        ("yolov8n", "yolo11n", [8, 16, 32]),
        ("yolov8n", "yolov8s", [8, 16, 32]),  # wider on all levels, as is the next
        ("dsmoe-n", "dsmoe-s", [8, 16, 32]),
        ("yolo26n", "yolov8n", [8, 16, 32]),  # end-to-end
        ("dsmoe-n", "yolov8n", [8, 16, 32]),
        ("yolov8n", "dsmoe-n", [8, 16, 32]),  # its head reads text behind the maps
        ("yolov8n", "dsmoe-p2", [8, 16, 32]),  # four levels
        ("yolov8n-p2", "yolov8n-p6", [8, 16, 32]),  # four against four others
    ],
)
def test_any_pair(student: str, teacher: str, strides: list[int], batch: Batch) -> None:
    wrapper = pair(student, teacher)
    assert [level.stride for level in wrapper.levels] == strides
    if student[-1] != teacher[-1] == "s":
        assert all(2 * f.conv.in_channels == f.conv.out_channels for f in wrapper.projector)
    loss, items = wrapper(batch(size=64))
    loss.sum().backward()
    assert all(torch.isfinite(items[k]) and items[k] > 0 for k in TERMS)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in wrapper.projector.parameters())
    assert all(p.grad is None for p in wrapper.teacher_model.parameters())


def test_images_must_suit_the_teacher_too() -> None:
    assert pair("yolov8n", "yolov8n-p6").stride.max() == 64
    assert pair("yolov8n-p6", "yolov8n").stride.max() == 64
    assert pair().stride.tolist() == [8, 16, 32]
    alone = deepcopy(pair("yolov8n", "yolov8n-p6"))  # as in a checkpoint: no teacher any more
    assert alone.stride.tolist() == [8, 16, 32]


def test_wanted_levels(batch: Batch) -> None:
    wrapper = pair(kd={"levels": [16]})
    assert len(wrapper.projector) == 1
    assert wrapper(batch())[1]["fg_loss"] > 0
    with pytest.raises(ConfigError, match="dsmoe_kd levels: expected strides that both nets have"):
        pair(kd={"levels": [4]})


def test_the_necks_own_attention_is_used() -> None:
    teacher = DSMoEModel(attention_neck(), nc=6, verbose=False)
    wrapper = pair(teacher=teacher)
    rows = feeding_rows(teacher)
    assert isinstance(rows[0], DualAttention)
    assert wrapper.pair.own_attentions == [rows[0], None, None]
    assert wrapper.pair.attentions[0] == rows[0].attended
    assert all(isinstance(a.__self__, ActivationAttention) for a in wrapper.pair.attentions[1:])
    assert wrapper.method.about(wrapper.pair) == ", the teacher's attention on 1"
    assert pair().pair.own_attentions == [None, None, None]


# other methods --------------------------------------------------------------------------------------------------------


class Logits:
    """Another method: how far the student's class scores are from the teacher's, as both heads say them."""

    gains: ClassVar = {"logit": 1.0}
    adaptive = "none"
    outputs = True
    options: ClassVar = {"softness": Option(1.0)}

    def adapters(self, pair: Pair) -> nn.ModuleList:
        return nn.ModuleList()

    def terms(self, config: Any, pair: Pair, adapters: Any, teacher: Seen, student: Seen, batch: Any) -> Any:
        assert not teacher.outputs["scores"].requires_grad
        said, wanted = (seen.outputs["scores"] / config.own["softness"] for seen in (student, teacher))
        return {"logit": nn.functional.mse_loss(said, wanted)}

    def about(self, pair: Pair) -> str:
        return ""


@pytest.fixture
def logits() -> Iterator[str]:
    register_method("logits", Logits())
    yield "logits"
    del METHODS["logits"]


@pytest.mark.parametrize("softness", [1.0, 4.0])
def test_a_method_may_read_what_the_heads_say(softness: float, logits: str, batch: Batch) -> None:
    wrapper, data = pair(kd={"method": logits, "softness": softness}), batch()
    loss, items = wrapper(data)
    assert tuple(items)[-2:] == ("logit_loss", "dis_loss")
    with torch.no_grad():
        taught = wrapper.teacher_model(data["img"])[1]["scores"]
        said = wrapper.student_model(data["img"])["scores"]  # in training mode, as the step before
    torch.testing.assert_close(items["logit_loss"], (taught - said).square().mean() / softness**2)
    (grad,) = torch.autograd.grad(loss[-1], [wrapper.student_model.model[-1].cv3[0][-1].weight])
    assert grad.abs().sum() > 0
    assert hook_count(wrapper) + hook_count(wrapper.teacher_model) == 0


def test_a_student_that_says_what_its_teacher_says_costs_nothing(logits: str, batch: Batch) -> None:
    net = make()
    wrapper = pair(net, deepcopy(net), logits).train()
    net.eval()  # batch statistics would tell them apart
    net.model[-1].train()
    assert abs(wrapper(batch(images=1))[1]["logit_loss"]) < 1e-6


@pytest.mark.parametrize("gains", [{"kd_cls": 0}, {"kd_cls": 0, "kd_box": 3}])
def test_a_gain_for_a_term_that_stays_zero_distils_nothing(gains: dict[str, float]) -> None:
    """Boxes without a common distribution cannot be compared."""
    kd = {"method": "self", "gains": gains}
    with pytest.raises(
        ConfigError, match=r"gains: expected a gain above 0 for kd_cls \(kd_box stays 0 for these nets\)"
    ):
        pair("yolo26n", "yolov8n", kd)
    assert pair("yolov8n", "yolov8n", kd).config.gain("kd_cls") == 0


def test_copies_of_another_method_keep_its_settings(logits: str, batch: Batch) -> None:
    wrapper = pair(kd={"method": logits, "softness": 3})
    wrapper(batch())[0].sum().backward()
    other = deepcopy(wrapper)
    assert (other.config, other.pair, len(other.projector)) == (wrapper.config, None, 0)
    assert other.config.own == {"softness": 3}


# the teacher ----------------------------------------------------------------------------------------------------------


def test_the_teacher_is_frozen_and_outside(batch: Batch) -> None:
    wrapper = pair()
    teacher = wrapper.teacher_model
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    own = {id(p) for p in teacher.parameters()}
    assert not own & {id(p) for p in wrapper.parameters()}, "the trainer would switch its gradients on"
    assert not any(k.startswith("teacher") for k in wrapper.state_dict())
    wrapper.train()
    wrapper(batch())[0].sum().backward()
    assert not any(m.training for m in teacher.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_the_teachers_detectors_do_not_run(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = pair()

    def fail(*_: object) -> None:
        raise AssertionError("nobody reads what they say")

    monkeypatch.setattr(wrapper.teacher_model.model[-1], "forward", fail)
    wrapper(batch())


def test_it_moves_with_the_student() -> None:
    wrapper = pair()
    wrapper.to(torch.double)
    assert {p.dtype for net in (wrapper.student_model, wrapper.teacher_model) for p in net.parameters()} == {
        torch.double
    }


def test_no_hook_stays(batch: Batch) -> None:
    wrapper = pair()
    before = hook_count(wrapper) + hook_count(wrapper.teacher_model)
    wrapper(batch())
    with pytest.raises(RuntimeError), neck_maps(wrapper.student_model):
        wrapper.student_model(torch.zeros(1, 7, 64, 64))
    assert hook_count(wrapper) + hook_count(wrapper.teacher_model) == before == 0


# round trips ----------------------------------------------------------------------------------------------------------


def trained(batch: Batch) -> Any:
    """Return a wrapper in the middle of a training: gradients, moved weights."""
    wrapper = pair(kd={"levels": [8, 16], "gains": {"fg": 2}})
    for images in (1, 2):
        wrapper(batch(images=images))[0].sum().backward()
        wrapper.adaptive.end_epoch()
    wrapper.adaptive.weights = [0.7, 1.3, 1.1, 0.9, 1.0]
    return wrapper


def test_copies_and_checkpoints_keep_all_but_the_teacher(batch: Batch) -> None:
    wrapper = trained(batch)
    file = io.BytesIO()
    torch.save(wrapper, file)
    assert file.tell() < 1.3 * 4 * sum(p.numel() for p in wrapper.parameters()), "the teacher went along"
    file.seek(0)
    for other in (deepcopy(wrapper), torch.load(file, weights_only=False)):
        assert other.teacher_model is None
        assert other.config == wrapper.config
        assert other.levels == wrapper.levels
        assert other.adaptive.state() == wrapper.adaptive.state()
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in wrapper.state_dict().items())
        assert torch.equal(other.eval()(torch.ones(1, 3, 64, 64))[0], wrapper.eval()(torch.ones(1, 3, 64, 64))[0])


def test_the_hosts_average_has_no_teacher(batch: Batch) -> None:
    from ultralytics.utils.torch_utils import ModelEMA

    wrapper = trained(batch)
    ema = ModelEMA(wrapper)
    before = ema.ema.projector[0].conv.weight.clone()
    with torch.no_grad():
        wrapper.projector[0].conv.weight.add_(1)
    for _ in range(3):
        ema.update(wrapper)
    assert ema.ema.teacher_model is None
    assert wrapper.teacher_model is not None
    assert (ema.ema.projector[0].conv.weight > before).all(), "adapters are averaged with the student"


def test_fusing_leaves_the_student(batch: Batch) -> None:
    wrapper = trained(batch)
    student = wrapper.student_model
    assert wrapper.fuse(verbose=False) is student


def test_mixed_precision(batch: Batch) -> None:
    assert_mixed_precision(pair(), batch(), TERMS)


# refusals -------------------------------------------------------------------------------------------------------------


def test_a_teacher_is_read(tmp_path: Path) -> None:
    teacher = load_teacher(save_net(make(), tmp_path / "t.pt"))
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("kind", ["missing", "suffix", "damaged", "other task", "foreign", "no net"])
def test_bad_teachers_are_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("t.onnx" if kind == "suffix" else "t.pt")
    if kind == "other task":
        from ultralytics.nn.tasks import SegmentationModel

        save_net(SegmentationModel("yolov8n-seg.yaml", nc=6, verbose=False), path, "segment")
    elif kind == "foreign":
        save_net(nn.Linear(2, 2), path)
    elif kind == "no net":
        torch.save({"model": {}}, path)
    elif kind != "missing":
        path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"^distill_model: expected (an existing|a readable|a detector|the)") as e:
        load_teacher(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({0: "a"}, r"a teacher of 1 classes, as the data, got t.pt \(2\)"),
        ({0: "b", 1: "a"}, "classes are in the order of the data, class 0 'b', got t.pt, class 0 'a'"),
        ({0: "a", 1: "c"}, "classes are named as in the data, class 1 'c', got t.pt, class 1 'b'"),
    ],
)
def test_other_classes_are_refused(names: dict[int, str], message: str) -> None:
    teacher, student = make(nc=2), make(nc=2)
    teacher.names = {0: "a", 1: "b"}
    check_teacher(teacher, student, {0: "a", 1: "b"}, "t.pt")
    with pytest.raises(ConfigError, match=f"^distill_model: expected .*{message}") as e:
        check_teacher(teacher, student, names, "t.pt")
    assert "\n" not in str(e.value)


def test_other_channels_are_refused() -> None:
    student = make()
    student.yaml["channels"] = 1
    with pytest.raises(ConfigError, match=r"a teacher of 1-channel images, got t.pt \(3\)"):
        check_teacher(make(), student, student.names, "t.pt")
