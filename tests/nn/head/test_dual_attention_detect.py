"""The dual-attention head against the host's Detect: names, values, modes, transfer, export."""

import copy
import inspect
import io
import pickle
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from block_checks import LEGACY
from net_checks import ready
from torch import nn
from ultralytics.nn.modules import DFL, Conv, Detect
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.head.dfl import BoxDistribution
from ultra_dsmoe.nn.head.dual_attention_detect import DualAttentionDetect
from ultra_dsmoe.nn.registry import LAYERS, RowContext

CH, STRIDES, NC = (16, 24, 32), (8.0, 16.0, 32.0), 3
SIZES = ((12, 8), (6, 4), (3, 2))
ANCHORS = sum(h * w for h, w in SIZES)
MODERN = "reg_max" in inspect.signature(Detect.__init__).parameters
modern_host = pytest.mark.skipif(not MODERN, reason="hosts before 8.4 have one reg_max and no end2end argument")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def feats(batch: int = 2) -> Any:
    return [torch.randn(batch, c, h, w) for c, (h, w) in zip(CH, SIZES, strict=True)]


def ours(nc: Any = NC, reg_max: int = 16, end2end: bool = False, **kwargs: Any) -> Any:
    return ready(DualAttentionDetect(nc, reg_max, end2end, CH, **kwargs), STRIDES)


def stock(nc: Any = NC, legacy: bool = False, end2end: bool = False) -> Any:
    """Return the host's own head with the class flag as it was before."""
    before = Detect.legacy
    try:
        Detect.legacy = legacy
        return ready(Detect(nc, 16, end2end, CH) if MODERN else Detect(nc, CH), STRIDES)
    finally:
        Detect.legacy = before


def awaken(head: Any) -> Any:
    """Move the attentions away from the identity."""
    for attention in head.attentions:
        for bn in (attention.channel_out.bn, attention.spatial_out.bn):
            nn.init.normal_(bn.weight, std=2)
            nn.init.normal_(bn.bias, std=2)
    return head


def raw(output: Any) -> Any:
    """Return all tensors of a training output, whatever the host's version wraps them in."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [t for o in (output.values() if isinstance(output, dict) else output) for t in raw(o)]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_output_shapes(legacy: bool, batch: int) -> None:
    head = ours(legacy=legacy)
    assert len(head.attentions) == len(CH)
    trained = head.train()(feats(batch))
    if MODERN:
        assert trained["scores"].shape == (batch, NC, ANCHORS)
        assert trained["boxes"].shape == (batch, 64, ANCHORS)
    decoded, _ = head.eval()(feats(batch))
    assert decoded.shape == (batch, 4 + NC, ANCHORS)
    head.export = True
    assert head(feats(batch)).shape == (batch, 4 + NC, ANCHORS)


def test_six_levels_and_one() -> None:
    for ch in ((8,) * 6, (8,)):
        head = DualAttentionDetect(2, 16, False, ch).eval()
        head.stride = torch.tensor([4.0 * 2**i for i in range(len(ch))])
        sizes = [64 // 2**i for i in range(len(ch))]
        assert head([torch.randn(1, 8, s, s) for s in sizes])[0].shape == (1, 6, sum(s * s for s in sizes))


@modern_host
def test_direct_distances_with_one_bin() -> None:
    head = ours(reg_max=1)
    assert head.eval()(feats())[0].shape == (2, 4 + NC, ANCHORS)
    assert head.no == NC + 4
    assert isinstance(head.dfl, nn.Identity)


@pytest.mark.parametrize("reg_max", [16, pytest.param(8, marks=modern_host)])
def test_box_distribution_is_the_hosts(reg_max: Any) -> None:
    head, host = ours(reg_max=reg_max), DFL(reg_max)
    assert isinstance(head.dfl, BoxDistribution)
    x = 4 * torch.randn(2, 4 * reg_max, 7)
    torch.testing.assert_close(head.dfl(x), host(x))
    assert head.dfl.state_dict().keys() == host.state_dict().keys()  # checkpoints and the host's rules know the name
    assert torch.equal(head.dfl.conv.weight, host.conv.weight)
    assert not any(p.requires_grad for p in head.dfl.parameters())
    a, b = x.double().requires_grad_(), x.double().requires_grad_()
    head.dfl.double()(a).square().sum().backward()
    host.double()(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_older_checkpoints_get_our_box_distribution() -> None:
    head, x = ours().eval(), feats()
    wanted = head(list(x))[0]
    head.dfl = DFL(16)  # what heads were pickled with
    twin = pickle.loads(pickle.dumps(head))
    assert isinstance(twin.dfl, BoxDistribution)
    torch.testing.assert_close(twin(list(x))[0], wanted)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((0, 16, False, CH), {}, "DualAttentionDetect nc: expected a positive integer, got 0"),
        ((2.0, 16, False, CH), {}, "DualAttentionDetect nc: expected a positive integer"),
        ((2, 0, False, CH), {}, "DualAttentionDetect reg_max: expected a positive integer"),
        ((2, 16, False, ()), {}, "DualAttentionDetect ch: expected the channels of at least one feature map"),
        ((2, 16, False, (8, None)), {}, r"DualAttentionDetect ch\[1\]: expected a positive integer, got None"),
    ],
)
def test_bad_arguments_are_named(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DualAttentionDetect(*args, **kwargs)


def test_old_host_refuses_another_reg_max(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts before 8.4 take (nc, ch) only."""

    def old_init(self: Any, nc: int = 80, ch: Any = ()) -> None:
        raise AssertionError("must be refused before")

    monkeypatch.setattr(Detect, "__init__", old_init)
    with pytest.raises(ConfigError, match=r"reg_max: expected 16 with ultralytics older than 8\.4, got 1"):
        DualAttentionDetect(2, 1, False, CH)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("class_flag", [False, True])
def test_style_is_the_instances_own(legacy: bool, class_flag: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detect, "legacy", class_flag)
    head = ours(legacy=legacy)
    assert isinstance(head.cv3[0][0], Conv) == legacy
    assert Detect.legacy is class_flag


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval", "export"])
def test_off_is_the_host(legacy: bool, mode: str) -> None:
    """Bit by bit, but for decoded boxes: their distributions are summed in another order."""
    head, host, x = ours(legacy=legacy, dual_attention=False), stock(legacy=legacy), feats()
    assert not head.attentions
    head.load_state_dict(host.state_dict())  # strict: the same names
    for h in (head, host):
        h.train(mode == "train")
        h.export = mode == "export"
    for a, b in zip(raw(head(list(x))), raw(host(list(x))), strict=True):
        decoded = 4 if a.shape[1:] == (4 + NC, ANCHORS) else 0
        torch.testing.assert_close(a[:, :decoded], b[:, :decoded], atol=1e-4, rtol=1e-5)  # px
        assert torch.equal(a[:, decoded:], b[:, decoded:])


@pytest.mark.parametrize("legacy", [False, True])
def test_fresh_attention_leaves_a_pretrained_head_as_it_was(legacy: bool) -> None:
    head, host, x = ours(legacy=legacy).eval(), stock(legacy=legacy).eval(), feats()
    missing, unexpected = head.load_state_dict(host.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all("attention" in name for name in missing)
    before, wanted = head(list(x))[0], host(list(x))[0]
    torch.testing.assert_close(before[:, :4], wanted[:, :4], atol=1e-4, rtol=1e-5)  # px
    assert torch.equal(before[:, 4:], wanted[:, 4:])
    after = awaken(head)(list(x))[0]
    assert torch.equal(after[:, :4], before[:, :4])  # the box branch has none
    assert (after[:, 4:] / before[:, 4:] - 1).abs().max() > 1e-3


@pytest.mark.parametrize("legacy", [False, True])
def test_attention_sits_between_hidden_stages_and_output(legacy: bool) -> None:
    head, x = awaken(ours(legacy=legacy)).eval(), feats()
    branch = head.cv3[1]
    plain = stock(legacy=legacy).eval()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if "attention" not in k})
    hidden = plain.cv3[1][:2](x[1])
    torch.testing.assert_close(branch(x[1]), branch[2](head.attentions[1](hidden)))


@pytest.mark.parametrize("legacy", [False, True])
def test_host_finds_its_parts(legacy: bool) -> None:
    """Loading, renaming of classes and INT8 pinning of the host read these."""
    head = ours(legacy=legacy)
    for branch, c in zip(head.cv3, CH, strict=True):
        assert len(branch) == 3
        assert isinstance(branch[-1], nn.Conv2d)
        assert branch[-1] is branch[2]
        assert (branch[-1].in_channels, branch[-1].out_channels) == (max(CH[0], NC), NC)
        assert next(m for m in branch[0].modules() if isinstance(m, Conv)).conv.in_channels == c
    names = {name for name, m in head.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels == NC}
    assert names == {"cv3.0.2", "cv3.1.2", "cv3.2.2"}


def test_bias_init() -> None:
    head = ours()
    expected = [np.log(5 / NC / (640 / s) ** 2) for s in STRIDES]
    got = [branch[-1].bias.detach() for branch in head.cv3]
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, torch.full((NC,), e))


@modern_host
def test_end2end() -> None:
    head = awaken(ours(end2end=True))
    head.max_det = 20
    trained = head.train()(feats())
    assert trained.keys() == {"one2many", "one2one"}
    assert len(head.attentions) == 2 * len(CH)
    x = [f.requires_grad_() for f in feats()]
    head(x)["one2one"]["scores"].sum().backward()
    assert all(f.grad is None for f in x)  # the one-to-one branch must not train the neck
    head.end2end = True
    head.eval().export = True
    one2one = head(feats())
    assert one2one.shape == (2, 20, 6)
    x = feats()
    reference = head(x)
    head.fuse()
    assert head.cv3 is None
    assert len(head.attentions) == len(CH)
    torch.testing.assert_close(head(x), reference)
    with pytest.raises(ConfigError, match="a head that is not fused"):
        head.rebuild_class_branch(8)


@pytest.mark.parametrize("legacy", [False, True])
def test_conv_bn_fusion_keeps_the_output(legacy: bool) -> None:
    """What the host's model does to every Conv before prediction and export."""
    head, x = awaken(ours(legacy=legacy)).eval(), feats()
    for m in head.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)
    reference = head(list(x))[0]
    for m in head.modules():
        if isinstance(m, Conv):
            m.conv = fuse_conv_and_bn(m.conv, m.bn)
            del m.bn
            m.forward = m.forward_fuse
    assert not any(isinstance(m, nn.BatchNorm2d) for m in head.modules())
    torch.testing.assert_close(head(list(x))[0], reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dual_attention", [False, True])
def test_rebuild_takes_a_source_of_other_width(legacy: bool, dual_attention: bool) -> None:
    source = stock(nc=80, legacy=legacy)
    head = ours(legacy=legacy, dual_attention=dual_attention).eval()
    for m in head.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps, m.momentum = 1e-3, 0.03
    biases = [branch[-1].bias.clone() for branch in head.cv3]
    assert head.class_width == 16
    head.rebuild_class_branch(80)
    assert head.class_width == source.cv3[0][-1].in_channels == 80
    assert not any(m.training for m in head.modules())
    norms = [m for branch in head.cv3 for m in branch.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
    assert len(head.attentions) == (len(CH) if dual_attention else 0)
    for branch, bias in zip(head.cv3, biases, strict=True):
        assert torch.equal(branch[-1].bias, bias)
    fits = {
        k for k, v in source.state_dict().items() if k in head.state_dict() and head.state_dict()[k].shape == v.shape
    }
    assert source.state_dict().keys() - fits == {f"cv3.{i}.2.{p}" for i in range(3) for p in ("weight", "bias")}
    head.load_state_dict({k: source.state_dict()[k] for k in fits}, strict=False)
    x = feats()
    for branch, other, f in zip(head.cv3, source.eval().cv3, x, strict=True):
        for m in other.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps = 1e-3
        assert torch.equal(branch[:2](f), other[:2](f))


@modern_host
def test_rebuild_end2end_and_activation() -> None:
    head = ours(end2end=True).double()
    for m in head.modules():
        if isinstance(m, Conv) and isinstance(m.act, nn.SiLU):
            m.act = nn.LeakyReLU(0.2)
    head.rebuild_class_branch(40)
    assert head.one2one_cv3[2][-1].in_channels == 40
    assert head.one2one_cv3[2][-1].weight.dtype == torch.float64
    weights = [b.cv3[0][0][1].conv.weight for b in (head,)] + [head.one2one_cv3[0][0][1].conv.weight]
    assert torch.equal(*weights)
    assert weights[0] is not weights[1]
    acts = {type(m.act) for b in (*head.cv3, *head.one2one_cv3) for m in b.modules() if isinstance(m, Conv)}
    assert nn.SiLU not in acts
    assert nn.LeakyReLU in acts


@pytest.mark.parametrize("width", [0, 8.0, True])
def test_rebuild_names_a_bad_width(width: Any) -> None:
    with pytest.raises(ConfigError, match="rebuild_class_branch width: expected a positive integer"):
        ours().rebuild_class_branch(width)


def test_gradients_reach_every_parameter() -> None:
    head = awaken(ours()).train()
    sum(t.square().mean() for t in raw(head(feats()))).backward()
    dead = [n for n, p in head.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)]
    assert not dead


def test_round_trips() -> None:
    head, x = awaken(ours()).train(), feats()
    head(list(x))
    copy.deepcopy(head)  # the moving average copies mid-training
    head.eval()
    other = ours().eval()
    other.load_state_dict(head.state_dict())
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), other):
        assert torch.equal(twin(list(x))[0], head(list(x))[0])
        assert all(isinstance(a, DualAttention) for a in twin.attentions)
    assert isinstance(head, Detect)


def test_torchscript_export() -> None:
    head, x = awaken(ours()).eval(), feats(1)
    head.export = True
    traced = torch.jit.trace(head, (list(x),), check_trace=False)
    torch.testing.assert_close(traced(list(x)), head(list(x)))


ATTENTION_OPS = {"Conv", "Relu", "Sigmoid", "Add", "Mul"}
DISTRIBUTION_OPS = {"ReduceMax", "Sub", "Exp", "MatMul", "Div"}
HOST_OPS = {
    "Reshape",
    "Concat",
    "Transpose",
    "Softmax",
    "Split",
    "Sub",
    "Div",
    "Constant",
    "Identity",
    "Shape",
    "Slice",
}
ONNX_OPS = ATTENTION_OPS | DISTRIBUTION_OPS | HOST_OPS | {"Gather"}
END2END_OPS = {"ReduceMax", "TopK", "Unsqueeze", "Expand", "GatherElements", "Flatten", "Mod", "Cast", "Tile", "Where"}
END2END_OPS |= {"ConstantOfShape", "Equal", "Squeeze", "GatherND"}


@pytest.mark.parametrize("end2end", [False, pytest.param(True, marks=modern_host)])
def test_onnx_export(end2end: Any) -> None:
    head, x = awaken(ours(end2end=end2end)).eval(), feats(1)
    head.export, head.format, head.max_det = True, "onnx", 20
    if end2end:
        head.end2end = True
        head.fuse()
    want = head(list(x)).detach().numpy()  # as the exporter's dry run does: anchors become constants
    buffer, names = io.BytesIO(), [f"x{i}" for i in range(3)]
    torch.onnx.export(head, (list(x),), buffer, opset_version=17, input_names=names, **LEGACY)
    ops = {node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node}
    assert ops <= ONNX_OPS | (END2END_OPS if end2end else set())
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    got = session.run(None, {n: f.numpy() for n, f in zip(names, x, strict=True)})[0]
    assert want.shape == ((1, 20, 6) if end2end else (1, 4 + NC, ANCHORS))
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-5)


def test_parse_rule_of_a_head_with_text() -> None:
    for text, beside in (("decides", False), ("beside", True)):
        plan = DualAttentionDetect.parse(RowContext("DualAttentionDetect", [*CH, 12], [NC, True, True, text]))
        assert (plan.c2, plan.args[-1]) == (list(CH), list(CH))
        assert plan.kwargs["text_width"] == 12
        assert (plan.kwargs["text_beside"], plan.kwargs["hyperbolic"]) == (beside, True)
    with pytest.raises(ConfigError, match="DualAttentionDetect text: expected one of decides, beside, got much"):
        DualAttentionDetect.parse(RowContext("DualAttentionDetect", [*CH, 12], [NC, True, True, "much"]))


def test_six_levels_are_the_most() -> None:
    six, text = [16] * 6, [NC, True, True, "decides"]
    assert DualAttentionDetect.parse(RowContext("DualAttentionDetect", six, [])).c2 == six
    assert DualAttentionDetect.parse(RowContext("DualAttentionDetect", [*six, 12], text)).c2 == six
    for channels, args in (([16] * 7, []), ([16] * 8, text)):
        with pytest.raises(ConfigError, match="'from' with"):
            DualAttentionDetect.parse(RowContext("DualAttentionDetect", channels, args))


def test_text_is_compared_on_the_ball_and_keeps_the_hidden_map_narrow() -> None:
    plain, head = (DualAttentionDetect(100, 16, False, [16, 24], text_width=width) for width in (None, 12))
    assert head.text == {"text_width": 12, "beside": False, "hyperbolic": True}
    assert (plain.class_width, head.class_width) == (100, 64)
    assert DualAttentionDetect(100, 16, False, [16], text_width=12, text_beside=True).class_width == 100


def test_rebuild_of_a_single_level() -> None:
    head = DualAttentionDetect(NC, 16, False, [16])
    head.rebuild_class_branch(24)
    assert head.class_width == 24


def test_parse_rule() -> None:
    ctx = RowContext("DualAttentionDetect", list(CH), [NC, False, True], nc=9, reg_max=16)
    plan = LAYERS["DualAttentionDetect"].parse(ctx)
    head = DualAttentionDetect(*plan.args, **plan.kwargs)
    assert (head.nc, head.reg_max, head.legacy, head.dual_attention) == (NC, 16, True, False)
    default = DualAttentionDetect.parse(RowContext("DualAttentionDetect", list(CH), [], nc=9, end2end=True))
    assert default.args == [9, 16, True, list(CH)]
    assert default.kwargs == {"dual_attention": True, "legacy": False}
    with pytest.raises(ConfigError, match="dual_attention: expected true or false, got no"):
        DualAttentionDetect.parse(RowContext("DualAttentionDetect", list(CH), [NC, "no"]))
