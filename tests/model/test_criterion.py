"""The criterion: the host's loss with the quality focal loss in it, and the auxiliary terms beside it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.losses import QualityFocalLoss
from ultra_dsmoe.model.criterion import DSMoECriterion, extra_names
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.feature_aggregation import FeatureAggregation
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics

AUX = float.fromhex("0x1.2f1a9e0000000p-3")  # 0.01 x 0.7 + 0.05 x 1.3 + 0.01 x 3.1 + 0.05 x 0.9 in fp32
Build = Callable[..., DSMoEModel]
Batch = Callable[..., dict[str, Tensor]]


def host_criterion(net: DSMoEModel) -> Any:
    return DetectionModel.init_criterion(net)


class TensorItems:
    """A host criterion as hosts before 8.4.130 have it: loss items as one tensor, not by name."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.bce = inner, None

    def __call__(self, preds: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if self.bce is not None:
            self.inner.bce = self.bce
        loss, items = self.inner(preds, batch)
        return loss, torch.stack(list(items.values()))


# value ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dsmoe-n", "yolov8n-dsmoe", "dsmoe-p2"])
def test_class_loss_of_a_fresh_net_is_near_the_hosts(name: str, build: Build, batch: Batch) -> None:
    net, data = build(name), batch()
    preds = net.train()(data["img"])
    stock_loss, stock = host_criterion(net)(preds, data)
    loss, ours = net.init_criterion()(preds, data)
    assert 0.8 < ours["cls_loss"].item() / stock["cls_loss"].item() < 1  # positives weigh the same, negatives less
    assert ours["box_loss"] == stock["box_loss"]
    assert ours["dfl_loss"] == stock["dfl_loss"]
    torch.testing.assert_close(loss[[0, 2]], stock_loss[[0, 2]])


def test_focusing_leaves_easy_negatives_alone(build: Build, batch: Batch) -> None:
    """The gradient is of scores as of a net that knows something: a fresh one's positives set the scale by chance."""
    net, data = build(), batch()
    net.train()
    fresh = net(data["img"])["scores"].detach()
    scores = torch.empty_like(fresh).uniform_(-8, 1)
    grads, losses = {}, {}
    for loss in ("qfl", "bce"):
        net.options["cls_loss"] = loss
        criterion, others = net.init_criterion(), net(data["img"])
        losses[loss] = criterion({**others, "scores": fresh}, data)[1]["cls_loss"]
        preds = {**others, "scores": scores.clone().requires_grad_()}
        grads[loss] = torch.autograd.grad(criterion(preds, data)[0].sum(), preds["scores"])[0]
    assert losses["qfl"] < losses["bce"]
    easy = scores.sigmoid() < 0.01
    assert grads["qfl"][easy].abs().sum() < 0.3 * grads["bce"][easy].abs().sum()


@pytest.mark.parametrize(("name", "alpha"), [("dsmoe-n", 0.25), ("dsmoe-p2", 0.25), ("yolov8n-dsmoe", 0.5)])
def test_alpha_is_what_the_model_yaml_says(name: str, alpha: float, build: Build) -> None:
    bce = build(name).init_criterion().inner.bce
    assert (bce.alpha, bce.beta) == (alpha, 0.5)


def test_end_to_end_heads_focus_in_both_branches(build: Build, batch: Batch) -> None:
    net, data = build("yolo26n-dsmoe"), batch()
    criterion, stock = net.init_criterion(), host_criterion(net)
    for part in (criterion.inner.one2many, criterion.inner.one2one):
        assert isinstance(part.bce, QualityFocalLoss)
    preds = net.train()(data["img"])
    loss, items = criterion(preds, data)
    many = stock.one2many.loss(preds["one2many"], data)[1]["cls_loss"].item()
    focal = criterion.inner.one2many.loss(preds["one2many"], data)[1]["cls_loss"].item()
    assert 0.8 * many < focal < many
    assert loss.shape == (5,)
    assert set(items) == {"box_loss", "cls_loss", "l1_loss", "align_loss", "aux_loss"}
    loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_the_hosts_schedule_reaches_the_inner_criterion(build: Build) -> None:
    net = build("yolo26n-dsmoe")
    net.args.epochs = 10
    criterion = net.init_criterion()
    criterion.update()
    assert criterion.updates == criterion.inner.updates == 1
    criterion.updates = 7  # a resumed training
    criterion.update()
    assert criterion.inner.updates == 8
    assert criterion.o2m == criterion.inner.decay(8)


def test_alignment_and_auxiliary_terms_stand_beside_the_hosts(build: Build, batch: Batch) -> None:
    net, data = build(), batch()
    criterion = net.init_criterion()
    preds = net.train()(data["img"])
    terms = {k: v for block in criterion.blocks for k, v in (block.aux or {}).items()}
    assert set(terms) == {"ort", "align", "bal", "ga"}
    expected = sum(gain * terms[k].item() for k, gain in (("ort", 0.01), ("bal", 0.01), ("ga", 0.05)))
    loss, items = criterion(preds, data)
    assert items["aux_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert items["align_loss"].item() > 0
    images = len(data["img"])
    assert loss[3].item() == pytest.approx(images * items["align_loss"].item(), rel=1e-6)
    assert loss[4].item() == pytest.approx(images * items["aux_loss"].item(), rel=1e-6)
    assert not any(block.aux for block in criterion.blocks), "the next step must not see this one's terms"
    again = criterion(preds, data)[1]
    assert again["align_loss"] == again["aux_loss"] == 0


def test_sums_by_column_are_what_they_were_to_the_last_bit(build: Build, batch: Batch) -> None:
    """Numbers of the time when the criterion itself knew all terms and gains, in the order of the net's rows."""
    net, data = build(), batch()
    criterion = net.init_criterion()
    given = {TextSemantics: {"ort": 0.7}, HyperbolicFusion: {"hier": 1.3}, ExpertGate: {"bal": 3.1}}
    for kind, terms in {**given, FeatureAggregation: {"ga": 0.9}}.items():
        (block,) = net.blocks(kind)
        block.aux = {name: torch.tensor(value) for name, value in terms.items()}
    (fusion,) = net.blocks(HyperbolicFusion)
    fusion.aux["align"] = torch.zeros(2, 6, 4, 4)  # ln 6 wherever a box is
    sums = criterion.auxiliary(data)
    assert list(sums) == ["align_loss", "aux_loss"]
    assert sums["aux_loss"].item() == AUX
    assert sums["align_loss"].item() == pytest.approx(0.5 * math.log(6), rel=1e-6)


def test_nets_without_auxiliary_terms_have_the_hosts_columns_only(build: Build, batch: Batch) -> None:
    net, data = build("smodel-n"), batch()
    loss, items = net.init_criterion()(net.train()(data["img"]), data)
    assert loss.shape == (3,)
    assert set(items) == {"box_loss", "cls_loss", "dfl_loss"}
    assert extra_names(net, net.options) == ()
    assert extra_names(build(), {"loss": "host"}) == ()
    assert extra_names(build(), {}) == ("align_loss", "aux_loss")


def test_gains_of_the_yaml_scale_their_terms(build: Build, batch: Batch) -> None:
    net, data = build(), batch()
    net.options["gains"] = {"align": 1.0, "bal": 0, "ga": 0, "ort": 0}
    preds = net.train()(data["img"])
    aux = [dict(block.aux or {}) for block in net.init_criterion().blocks]
    strong = net.init_criterion()(preds, data)[1]
    for block, terms in zip(net.init_criterion().blocks, aux, strict=True):
        block.aux = terms
    net.options["gains"] = {"align": 0.25, "bal": 0, "ga": 0, "ort": 0}
    weak = net.init_criterion()(preds, data)[1]
    assert strong["align_loss"].item() == pytest.approx(4 * weak["align_loss"].item(), rel=1e-6)
    assert strong["aux_loss"] == weak["aux_loss"] == 0


def test_the_balance_term_reaches_the_gate(build: Build, batch: Batch) -> None:
    net, data = build(), batch()
    net.options["gains"] = {"align": 0, "bal": 1.0, "ga": 0, "ort": 0}
    net.train()(data)[0][4].backward()
    (gate,) = net.blocks(ExpertGate)
    assert gate.token.grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in net.model[-1].parameters())


# limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dsmoe-n", "yolo26n-dsmoe"])
def test_loss_host_is_exactly_the_hosts(name: str, build: Build, batch: Batch) -> None:
    net, data = build(name), batch()
    net.options["loss"] = "host"
    criterion, stock = net.init_criterion(), host_criterion(net)
    assert type(criterion) is type(stock)
    preds = net.train()(data["img"])
    ours, theirs = criterion(preds, data), stock(preds, data)
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys()
    assert all(torch.equal(ours[1][k], theirs[1][k]) for k in theirs[1])


def test_bce_keeps_the_hosts_class_loss(build: Build, batch: Batch) -> None:
    net, data = build(), batch()
    net.options["cls_loss"] = "bce"
    preds = net.train()(data["img"])
    loss, items = net.init_criterion()(preds, data)
    assert torch.equal(loss[:3], host_criterion(net)(preds, data)[0])
    assert "align_loss" in items


@pytest.mark.parametrize("name", ["dsmoe-n", "yolo26n-dsmoe"])
def test_a_batch_without_boxes(name: str, build: Build, batch: Batch) -> None:
    net, data = build(name), batch(boxes=0)
    assert len(data["cls"]) == 0
    loss, items = net.train()(data)
    assert torch.isfinite(loss).all()
    assert items["align_loss"] == 0
    loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_evaluation_leaves_no_terms(build: Build, batch: Batch) -> None:
    net, data = build(), batch()
    net.eval()
    with torch.no_grad():
        _, preds = net(data["img"])
        loss, items = net.loss(data, preds)
    assert torch.isfinite(loss).all()
    assert items["align_loss"] == items["aux_loss"] == 0


def test_loss_items_of_older_hosts_are_one_tensor(build: Build, batch: Batch) -> None:
    net, data = build(), batch()
    preds = net.train()(data["img"])
    aux = [dict(b.aux or {}) for b in net.init_criterion().blocks]
    loss, items = DSMoECriterion(net, TensorItems(host_criterion(net)), net.options)(preds, data)
    assert items.shape == loss.shape == (5,)
    for block, terms in zip(net.init_criterion().blocks, aux, strict=True):
        block.aux = terms
    named = net.init_criterion()(preds, data)[1]
    torch.testing.assert_close(items, torch.stack(list(named.values())))


# round trip -----------------------------------------------------------------------------------------------------------


def test_criterion_survives_copies(build: Build, batch: Batch) -> None:
    net, data = build(), batch()
    net.train()(data)
    for clone in (deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert clone.criterion.blocks[0] in list(clone.modules()), "the copy must look after its own blocks"
        assert isinstance(clone.criterion.inner.bce, QualityFocalLoss)
        assert torch.isfinite(clone(data)[0]).all()


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gains": {"ball": 1}}, "dsmoe.gains: expected names out of bal, ga, align, hier, ort (did you mean 'bal'?)"),
        ({"gains": {"bal": -1}}, "dsmoe.gains.bal: expected a number >= 0, got -1"),
        ({"gains": {"bal": "much"}}, "dsmoe.gains.bal: expected a number >= 0, got much"),
        ({"gains": {"bal": float("nan")}}, "dsmoe.gains.bal: expected a number >= 0, got nan"),
        ({"gains": [0.5]}, "dsmoe.gains: expected a mapping of gains"),
        ({"loss": "focal"}, "dsmoe.loss: expected one of dsmoe, host, got focal"),
        ({"cls_loss": "focal"}, "dsmoe.cls_loss: expected one of qfl, bce, got focal"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, build: Build) -> None:
    net = build()
    net.options.update(options)
    with pytest.raises(ConfigError) as e:
        net.init_criterion()
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)
