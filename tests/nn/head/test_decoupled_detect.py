"""The decoupled detector: its variants, its branches against the host's Detect, its modes."""

import copy
import inspect
from typing import Any

import pytest
import torch
from block_checks import assert_refuses_others, shake
from net_checks import ready
from torch import nn
from ultralytics.nn.modules import Conv, Detect

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn import CBAM, DecoupledDetect, DualAttention, RowContext
from ultra_dsmoe.nn.head.decoupled_detect import DETECTORS

CH, STRIDES, NC, HIDDEN = (16, 24, 32, 32), (4.0, 8.0, 16.0, 32.0), 3, 72  # the host's box branches have 64
SIZES = ((16, 8), (8, 4), (4, 2), (2, 1))
ANCHORS = sum(h * w for h, w in SIZES)
MODERN = "reg_max" in inspect.signature(Detect.__init__).parameters
modern_host = pytest.mark.skipif(not MODERN, reason="hosts before 8.4 have no end2end argument")


def make(detector: str = "decoupled_da", nc: Any = NC, end2end: bool = False, attention: str = "da") -> Any:
    head = DecoupledDetect(nc, 16, end2end, CH, hidden=HIDDEN, detector=detector, attention=attention)
    return ready(head, STRIDES)


def feats(b: int = 2) -> Any:
    return [torch.randn(b, c, h, w) for c, (h, w) in zip(CH, SIZES, strict=True)]


def run(head: Any, x: Any) -> Any:
    with torch.no_grad():
        return head.eval()(list(x))[0]


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("b", [1, 2])
def test_shapes(detector: Any, b: int) -> None:
    head = make(detector)
    assert run(head, feats(b)).shape == (b, 4 + NC, ANCHORS)
    head.export = True
    assert head(feats(b)).shape == (b, 4 + NC, ANCHORS)
    if MODERN:
        trained = head.train()(feats(b))
        assert trained["scores"].shape == (b, NC, ANCHORS)
        assert trained["boxes"].shape == (b, 64, ANCHORS)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="detector: expected one of decoupled_da, decoupled, coupled, got anchor"):
        make("anchor")
    with pytest.raises(ConfigError, match="ch: expected the channels of at least one feature map"):
        DecoupledDetect(NC, 16, False, ())
    with pytest.raises(ConfigError, match="DecoupledDetect attention: expected one of da, cbam, none, got se"):
        make("decoupled", attention="se")
    assert_refuses_others(DecoupledDetect, given={"nc": NC, "ch": CH}, hidden=HIDDEN)
    with pytest.raises(ConfigError, match="nc: expected a positive integer, got 0"):
        make(nc=0)


@pytest.mark.parametrize("nc", [1, 3, 80, 120])
def test_branches_are_as_wide_as_the_stem_whatever_the_classes(nc: int) -> None:
    """The host's own head would make box branches of 64 channels and class branches of 80 to 100."""
    head = make(nc=nc)
    for stem, box, cls, c in zip(head.stems, head.cv2, head.cv3, CH, strict=True):
        assert [(m.conv.in_channels, m.conv.kernel_size[0]) for m in stem] == [(c, 1)]
        for branch, outputs in ((box, 64), (cls, nc)):
            widths = [(m.conv.in_channels, m.conv.out_channels, m.conv.kernel_size[0]) for m in branch[:2]]
            assert widths == [(HIDDEN, HIDDEN, 3)] * 2
            assert (branch[2].in_channels, branch[2].out_channels, branch[2].kernel_size) == (HIDDEN, outputs, (1, 1))
    assert len(head.attentions) == len(CH)


def test_defaults() -> None:
    head = DecoupledDetect(ch=CH)
    assert (head.nc, head.reg_max, head.detector) == (80, 16, "decoupled_da")
    assert not getattr(head, "end2end", False)
    assert not hasattr(head, "one2one_cv2")
    assert {stem[0].conv.out_channels for stem in head.stems} == {256}


def test_value_is_the_hosts_head_behind_stems() -> None:
    head, x = make("decoupled").eval(), feats()
    for module in (head.stems, head.cv2, head.cv3):
        shake(module)
    host = ready(Detect(NC, 16, False, (HIDDEN,) * 4) if MODERN else Detect(NC, (HIDDEN,) * 4), STRIDES)
    host.cv2, host.cv3 = head.cv2, head.cv3
    wanted = run(host, [stem(f) for stem, f in zip(head.stems, x, strict=True)])
    torch.testing.assert_close(run(head, x), wanted, atol=1e-4, rtol=1e-5)  # sums of box decoding in another order


def test_fresh_attention_is_the_identity_and_then_weighs_classes_alone() -> None:
    plain, head, x = make("decoupled"), make("decoupled_da"), feats()
    missing, unexpected = head.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all("attention" in name for name in missing)
    before = run(head, x)
    assert torch.equal(before, run(plain, x))
    for attention in head.attentions:
        assert isinstance(attention, DualAttention)
        nn.init.normal_(attention.channel_out.bn.bias, std=2)
    after = run(head, x)
    assert torch.equal(after[:, :4], before[:, :4])
    assert (after[:, 4:] / before[:, 4:] - 1).abs().max() > 1e-3


@pytest.mark.parametrize("nc", [NC, 120])  # of many classes the branch is built anew
def test_cbam_weighs_the_classes_alone(nc: Any) -> None:
    plain, head, x = make("decoupled", nc), make(nc=nc, attention="cbam"), feats()
    missing, unexpected = head.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert [type(a) for a in head.attentions] == [CBAM] * len(CH)
    before, after = run(plain, x), run(head, x)
    assert torch.equal(after[:, :4], before[:, :4])
    assert (after[:, 4:] / before[:, 4:] - 1).abs().max() > 1e-3
    assert torch.equal(run(copy.deepcopy(head), x), after)


def test_no_attention_is_the_plain_decoupled_head() -> None:
    plain, head = make("decoupled"), make(attention="none")
    assert not head.attentions
    head.load_state_dict(plain.state_dict())
    x = feats()
    assert torch.equal(run(head, x), run(plain, x))


def test_coupled_tasks_read_one_tower() -> None:
    head, x = make("coupled"), feats()
    shake(head.stems)
    kinds = [[m.conv.kernel_size[0] for m in stem] for stem in head.stems]
    assert kinds == [[1, 3, 3]] * 4
    assert not head.attentions
    tower = head.eval().stems[1](x[1])
    for branch in (head.cv2[1], head.cv3[1]):
        torch.testing.assert_close(branch(tower), nn.functional.conv2d(tower, branch[2].weight, branch[2].bias))
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in make(d).modules()) for d in ("coupled", "decoupled")]
    assert convolutions[1] - convolutions[0] == 2 * len(CH)


def test_variants_differ_in_their_parameters() -> None:
    names = {d: {n for n, _ in make(d).named_parameters()} for d in DETECTORS}
    assert names["decoupled"] < names["decoupled_da"]
    assert not names["coupled"] >= names["decoupled"]


@pytest.mark.parametrize("detector", DETECTORS)
def test_bias_init(detector: Any) -> None:
    head = make(detector)
    for branch, s in zip(head.cv3, STRIDES, strict=True):
        wanted = torch.full((NC,), 5 / NC / (640 / s) ** 2).log()
        torch.testing.assert_close(branch[-1].bias.detach(), wanted)


@modern_host
@pytest.mark.parametrize("detector", DETECTORS)
def test_end2end(detector: Any) -> None:
    head = make(detector, end2end=True)
    head.max_det = 20
    trained = head.train()(feats())
    assert trained.keys() == {"one2many", "one2one"}
    assert head.one2one_cv2[0][2] is not head.cv2[0][2]
    assert torch.equal(head.one2one_cv2[0][2].weight, head.cv2[0][2].weight)
    assert len(head.attentions) == (2 * len(CH) if detector == "decoupled_da" else 0)
    head.end2end = True
    head.eval().export = True
    x = feats()
    reference = head(list(x))
    assert reference.shape == (2, 20, 6)
    head.fuse()
    torch.testing.assert_close(head(list(x)), reference)


@pytest.mark.parametrize("detector", DETECTORS)
def test_gradients_reach_every_parameter(detector: Any) -> None:
    head = shake(make(detector)).train()
    out = head(feats())
    tensors = [out["boxes"], out["scores"]] if MODERN else out
    sum(t.square().mean() for t in tensors).backward()
    dead = [n for n, p in head.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)]
    assert not dead


@pytest.mark.parametrize("detector", DETECTORS)
def test_round_trips(detector: Any) -> None:
    head, x = shake(make(detector)), feats()
    head.train()(list(x))
    other = make(detector)
    other.load_state_dict(head.state_dict())
    for twin in (copy.deepcopy(head), other):
        assert torch.equal(run(twin, x), run(head, x))
    head.export = True
    traced = torch.jit.trace(head, (list(x),), check_trace=False)
    torch.testing.assert_close(traced(list(x)), head(list(x)))


def test_input_list_is_left_alone() -> None:
    """The oldest hosts write into the list of maps; the rows before the head must not notice."""
    x = feats()
    kept = list(x)
    make().eval()(x)
    assert all(a is b for a, b in zip(x, kept, strict=True))


def test_activation_is_the_common_one() -> None:
    head = make()
    assert {
        type(m.act[0] if isinstance(m.act, nn.Sequential) else m.act) for m in head.modules() if isinstance(m, Conv)
    } == {
        nn.SiLU,
        nn.Sigmoid,
    }


def test_parse_rule() -> None:
    plan = DecoupledDetect.parse(RowContext("DecoupledDetect", list(CH), [NC, 256], nc=9, width=0.5))
    assert plan.args == [NC, 16, False, list(CH)]
    assert plan.kwargs == {"hidden": 128, "detector": "decoupled_da", "attention": "da"}
    narrow = RowContext("DecoupledDetect", list(CH), [], nc=9, width=0.125, options={"detector": "coupled"})
    assert DecoupledDetect.parse(narrow).args[0] == 9
    assert DecoupledDetect.parse(narrow).kwargs == {"hidden": 64, "detector": "coupled", "attention": "da"}
    for args, kind in (([NC, 256], "cbam"), ([NC, 256, "none"], "none")):  # a row's own goes first
        plan = DecoupledDetect.parse(RowContext("DecoupledDetect", list(CH), args, options={"attention": "cbam"}))
        assert plan.kwargs["attention"] == kind
    assert DecoupledDetect.parse(RowContext("DecoupledDetect", list(CH), [])).kwargs["hidden"] == 256
    torn = RowContext("DecoupledDetect", list(CH), [NC, 256, "cbam"], options={"detector": "decoupled"})
    with pytest.raises(ConfigError, match="DecoupledDetect attention: expected none, with detector: decoupled, got cb"):
        DecoupledDetect.parse(torn)
    with pytest.raises(ConfigError, match="'from' with 1 to 6 inputs"):
        DecoupledDetect.parse(RowContext("DecoupledDetect", [8] * 7, []))
