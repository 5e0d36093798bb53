"""Text in the class logits: values on the ball, neutrality, the head that hands T over, folding, export."""

import copy
import inspect
import pickle
import re
from typing import Any

import geoopt
import pytest
import torch
from block_checks import assert_exports, shake
from torch import nn
from ultralytics.nn.modules import Detect

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.head.dual_attention_detect import DualAttentionDetect
from ultra_dsmoe.nn.head.text_logits import TextLogits
from ultra_dsmoe.nn.registry import RowContext

C, D, K = 8, 12, 3
CH, SIZES = (16, 24, 32), ((12, 8), (6, 4), (3, 2))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def layer(nc: Any = K, **kwargs: Any) -> Any:
    out = TextLogits(C, nc, D, **kwargs)
    out.text = torch.randn(nc, D)
    return out


def head_of(**kwargs: Any) -> Any:
    head = DualAttentionDetect(K, 16, False, CH, **{"text_width": D, **kwargs})
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    head.bias_init()
    return head


def inputs(batch: int = 2) -> Any:
    return [*(torch.randn(batch, c, h, w) for c, (h, w) in zip(CH, SIZES, strict=True)), torch.randn(K, D)]


def scores(head: Any, x: Any) -> Any:
    """Return the class logits of a training forward, (B, K, A), whatever the host's version wraps them in."""
    out = head(list(x))
    return out["scores"] if isinstance(out, dict) else torch.cat([o.flatten(2) for o in out], 2)[:, 64:]


@pytest.mark.parametrize("beside", [False, True])
def test_value(beside: bool) -> None:
    """The distances on the ball itself, by geoopt in float64."""
    out, x = shake(layer(beside=beside)), torch.randn(2, C, 3, 4)
    ball = geoopt.PoincareBall(c=torch.ones((), dtype=torch.float64))
    u = out.align.image_tangent(x)[1, :, 2 * 4 + 3].double()
    anchors = out.align.text_constants(out.text)[0].double()
    t = torch.stack([-ball.dist(ball.expmap0(u), ball.expmap0(a)) for a in anchors]) / out.align.log_tau.double().exp()
    weight, f = out.weight[:, :, 0, 0].double(), x[1, :, 2, 3].double()
    defect = weight @ f if beside else weight.mean(0) @ f
    wanted = defect + out.bias.double() + out.gain.double() * (t - t.mean())
    torch.testing.assert_close(out(x)[1, :, 2, 3].double(), wanted, atol=1e-4, rtol=1e-4)


def test_text_says_which_class_and_nothing_else() -> None:
    out, x = layer(), torch.randn(2, C, 3, 4)
    term = out.text_term(x)
    assert term.abs().max() > 0.1
    torch.testing.assert_close(term.sum(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    out.text = out.text[[1, 2, 0]]  # exchanged text, exchanged evidence
    torch.testing.assert_close(out.text_term(x), term[:, [1, 2, 0]])


def test_without_text_the_convolution_cannot_tell_classes_apart() -> None:
    out, x = layer(), torch.randn(2, C, 3, 4)
    nn.init.constant_(out.bias, -1.0)
    alone = out(x) - out.text_term(x)
    torch.testing.assert_close(alone, alone.mean(1, keepdim=True).expand_as(alone))
    assert alone.std() > 0.01


@pytest.mark.parametrize("kwargs", [{"beside": True}, {"nc": 1}])
def test_fresh_beside_and_a_single_class_are_the_convolution(kwargs: Any) -> None:
    out, x = layer(**kwargs), torch.randn(2, C, 3, 4)
    torch.testing.assert_close(out(x), nn.Conv2d.forward(out, x))


@pytest.mark.parametrize("legacy", [False, True])
def test_beside_starts_as_the_hosts_head(legacy: bool) -> None:
    head, x = head_of(legacy=legacy, text_beside=True).eval(), inputs()
    plain = DualAttentionDetect(K, 16, False, CH, legacy=legacy).eval()
    plain.stride = head.stride
    missing, unexpected = plain.load_state_dict(head.state_dict(), strict=False)
    assert not missing
    assert all(".2.align." in name or name.endswith(".2.gain") for name in unexpected)
    torch.testing.assert_close(head(x)[0], plain(x[:-1])[0])


def test_head_gives_text_to_every_branch_and_takes_it_back() -> None:
    head, x = head_of().train(), inputs()
    x[-1].requires_grad_()
    other = [*x[:-1], x[-1].detach()[[1, 2, 0]]]
    own, exchanged = scores(head, x), scores(head, other)
    first = [0, 12 * 8, 12 * 8 + 6 * 4]  # of each level
    assert ((own - exchanged)[..., first].abs() > 1e-4).all()
    own.square().sum().backward()
    assert x[-1].grad.abs().max() > 0
    assert len(head.text_logits) == len(CH)
    assert all(o.text is None for o in head.text_logits)
    copy.deepcopy(head)  # the moving average copies mid-training


def test_hooks_see_the_maps_alone() -> None:
    """The host's trackers take whatever a head reads for a map."""
    head, seen, x = head_of().eval(), [], inputs()
    head.register_forward_pre_hook(lambda _m, given: seen.extend(given[0]))
    head(x)
    assert all(a is b for a, b in zip(seen, x[:-1], strict=True))


def test_text_is_taken_back_when_the_forward_fails() -> None:
    head, x = head_of(), inputs()
    with pytest.raises(RuntimeError):
        head([x[1], *x[1:]])
    assert all(o.text is None for o in head.text_logits)


def test_strides_are_found_as_the_host_does() -> None:
    """The host reads them off the feature maps that a training forward returns: T must not be among them."""
    out = head_of().train()(inputs())
    feats = out["feats"] if isinstance(out, dict) else out
    assert [f.shape[-2:] for f in feats] == [torch.Size(s) for s in SIZES]


def test_end2end_branches_have_their_own() -> None:
    if "end2end" not in inspect.signature(Detect.__init__).parameters:
        pytest.skip("hosts before 8.4 have no end2end argument")
    head = DualAttentionDetect(K, 16, True, CH, text_width=D)
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    assert len(head.text_logits) == 2 * len(CH)
    one, many = head.one2one_cv3[0][-1], head.cv3[0][-1]
    assert torch.equal(one.align.anchor.weight, many.align.anchor.weight)
    assert one.align.anchor.weight is not many.align.anchor.weight


def test_rebuild_keeps_the_text() -> None:
    head = head_of(text_beside=True)
    head.rebuild_class_branch(40)
    assert len(head.text_logits) == len(CH)
    assert all(o.in_channels == 40 and o.beside for o in head.text_logits)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("nc", "beside", "width"), [(6, False, 16), (40, False, 40), (80, False, 64), (80, True, 80)])
def test_many_classes_widen_a_branch_that_text_decides_no_further(
    nc: int, beside: bool, width: int, legacy: bool
) -> None:
    """Up to 64 classes branches are as wide as the host's, and always where the host's weights may come in."""
    head = DualAttentionDetect(nc, 16, False, CH, text_width=D, text_beside=beside, legacy=legacy)
    assert head.class_width == width
    assert all(output.out_channels == nc and output.beside == beside for output in head.text_logits)
    assert len(head.text_logits) == len(head.attentions) == len(CH)
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    head.bias_init()
    maps = [torch.randn(1, c, h, w) for c, (h, w) in zip(CH, SIZES, strict=True)]
    assert head.eval()([*maps, torch.randn(nc, D)])[0].shape == (1, 4 + nc, 126)


def test_round_trips() -> None:
    head, x = head_of(), inputs()
    head.train()(x)
    head.eval()
    other = head_of().eval()
    other.load_state_dict(head.state_dict())
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), other):
        assert torch.equal(twin(list(x))[0], head(list(x))[0])


def test_every_parameter_learns() -> None:
    head = head_of().train()
    out = head(inputs())
    tensors = out.values() if isinstance(out, dict) else out
    sum(t.square().mean() for t in tensors if isinstance(t, torch.Tensor)).backward()
    dead = [
        n
        for n, p in head.named_parameters()
        if re.match(r"cv3\.\d\.2\.", n) and not (p.grad is not None and p.grad.abs().max() > 0)
    ]
    assert not dead


@pytest.mark.parametrize("hyperbolic", [True, False])
def test_folded_export(hyperbolic: bool) -> None:
    out = shake(layer(hyperbolic=hyperbolic)).eval()
    wanted = out(torch.ones(1, C, 3, 4))
    out.align.fold_text(out.text)
    out.text = None
    torch.testing.assert_close(out(torch.ones(1, C, 3, 4)), wanted)
    assert_exports(out, [torch.randn(1, C, 3, 4)], [torch.randn(1, C, 3, 4)])


def test_text_starts_with_gain_one_alone_and_nothing_beside() -> None:
    assert [layer(beside=beside).gain.item() for beside in (False, True)] == [1, 0]


def test_parse_rule() -> None:
    ctx = RowContext("DualAttentionDetect", [*CH, D], [K, True, True, "beside"], nc=9, options={"hyperbolic": False})
    plan = DualAttentionDetect.parse(ctx)
    assert plan.c2 == list(CH)
    head = DualAttentionDetect(*plan.args, **plan.kwargs)
    assert [o.beside for o in head.text_logits] == [True] * 3
    assert not head.text_logits[0].align.hyperbolic
    for bad in (True, "much"):
        with pytest.raises(ConfigError, match="DualAttentionDetect text: expected one of decides, beside, got"):
            DualAttentionDetect.parse(RowContext("DualAttentionDetect", [*CH, D], [K, True, True, bad]))
    with pytest.raises(ConfigError, match="'from' with 2 to 7 inputs"):
        DualAttentionDetect.parse(RowContext("DualAttentionDetect", [D], [K, True, True, "decides"]))
