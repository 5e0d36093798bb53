"""The registry and what a parse rule is told."""

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.cfg import get_cfg

import ultra_dsmoe.nn
from ultra_dsmoe.checks import flag
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.criterion import extra_names
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.options import check_options
from ultra_dsmoe.nn import AuxLossMixin, AuxTerm, ExpertGate, Knockout, Option, SparseMoE
from ultra_dsmoe.nn.knockout import constant
from ultra_dsmoe.nn.registry import LAYERS, RowContext, RowPlan, aux_names, knockouts, options, register

BLOCKS = [
    "CBAM",
    "DSA",
    "GAD",
    "DualAttention",
    "DualAttentionDetect",
    "ExpertEnsemble",
    "ExpertGate",
    "FeatureAggregation",
    "HubFusion",
    "HubInject",
    "HyperbolicFusion",
    "SpaceBroadcast",
    "SparseMoE",
    "TextSemantics",
]


def test_what_a_row_and_a_plan_are_where_nothing_is_said() -> None:
    ctx, plan = RowContext("X", 8, []), RowPlan([], 8)
    assert (ctx.n, ctx.nc, ctx.width, ctx.reg_max, ctx.end2end, ctx.options) == (1, 80, 1.0, 16, False, {})
    assert (plan.kwargs, plan.repeats) == ({}, 1)
    for value in (ctx, plan):
        with pytest.raises(FrozenInstanceError):
            value.c1 = value.c2 = 3


@pytest.mark.parametrize("name", BLOCKS)
def test_importing_the_package_enrols_the_block(name: Any) -> None:
    assert LAYERS[name] is getattr(ultra_dsmoe.nn, name)
    assert issubclass(LAYERS[name], nn.Module)


def test_register(no_trace: Any) -> None:
    class Fresh(nn.Module):
        @staticmethod
        def parse(ctx: Any) -> RowPlan:
            return RowPlan([], 1)

    assert register(Fresh) is Fresh
    assert LAYERS["Fresh"] is Fresh
    assert register(Fresh) is Fresh  # again is no error: a module may be reloaded


def test_register_errors(no_trace: Any) -> None:
    class Ruleless(nn.Module):
        pass

    with pytest.raises(ConfigError, match=r"register\(Ruleless\): expected a class with a static parse"):
        register(Ruleless)
    taken = type("CBAM", (nn.Module,), {"parse": staticmethod(lambda ctx: RowPlan([], 1))})
    with pytest.raises(ConfigError, match=r"a name that is not taken, got ultra_dsmoe.nn.attention.cbam.CBAM"):
        register(taken)
    assert "Ruleless" not in LAYERS


@pytest.mark.parametrize(
    ("channels", "width", "limit", "wanted"),
    [(256, 0.5, math.inf, 128), (256, 0.25, 64, 16), (100, 0.33, math.inf, 40), (64, 1.0, 1024, 64)],
)
def test_scaled_rounds_up_to_eights(channels: int, width: float, limit: Any, wanted: int) -> None:
    assert RowContext("X", 8, [], width=width, max_channels=limit).scaled(channels) == wanted


def test_inputs() -> None:
    assert RowContext("X", 8, []).inputs(1) == [8]
    assert RowContext("X", [8, 16], []).inputs(1, 2) == [8, 16]
    with pytest.raises(ConfigError, match="model YAML row X: expected 'from' with 2 inputs, got 1"):
        RowContext("X", 8, []).inputs(2)
    with pytest.raises(ConfigError, match="'from' with 1 to 2 inputs, got 3"):
        RowContext("X", [1, 2, 3], []).inputs(1, 2)
    with pytest.raises(ConfigError, match="tensor inputs"):
        RowContext("X", [8, [8, 16]], []).inputs(2)  # type: ignore[list-item]


def test_arg() -> None:
    row = RowContext("X", 8, [5])
    assert (row.arg(0, 1), row.arg(1, 7), row.arg(2)) == (5, 7, None)


def test_plain() -> None:
    RowContext("X", 8, [1, 2]).plain(2)
    with pytest.raises(ConfigError, match=r"^model YAML row X: expected at most 1 argument, got \[1, 2\]$"):
        RowContext("X", 8, [1, 2]).plain(1)
    with pytest.raises(ConfigError, match=r"^model YAML row X: expected at most 2 arguments, got \[1, 2, 3\]$"):
        RowContext("X", 8, [1, 2, 3]).plain(2)
    with pytest.raises(ConfigError, match=r"^model YAML row X: expected 1 repeat, got 2$"):
        RowContext("X", 8, [], n=2).plain(0)


# contracts ------------------------------------------------------------------------------------------------------------


def own(**attributes: Any) -> Any:
    """Return a block class of a user's with these attributes."""

    def parse(ctx: Any) -> RowPlan:
        (c,) = ctx.inputs(1)
        return RowPlan([bool(ctx.option("own_switch"))] if "options" in attributes else [], c)

    def __init__(self: Any, on: bool = True) -> None:
        nn.Module.__init__(self)
        self.on = on

    def forward(self: Any, x: Any) -> Any:
        if self.training:
            self.aux = {"near": x.float().square().mean(), "far": x.float().mean((2, 3))}
        return x

    body = {"parse": staticmethod(parse), "__init__": __init__, "forward": forward, **attributes}
    return type("Own", (AuxLossMixin, nn.Module), body)


def net_of(name: Any, **section: Any) -> DSMoEModel:
    """Return a net with a row of the class ``name`` before the detector."""
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, name, []]]
    d = {"nc": 2, "dsmoe": section, "backbone": rows, "head": [[[3], 1, "Detect", ["nc"]]]}
    return DSMoEModel(d, verbose=False)


def test_an_option_is_read_checked_and_allowed(no_trace: Any) -> None:
    register(own(options={"own_switch": Option(True, flag)}))
    assert net_of("Own").model[3].on is True
    assert net_of("Own", own_switch=False).model[3].on is False
    with pytest.raises(ConfigError, match=r"^dsmoe.own_switch: expected true or false, got 3$"):
        net_of("Own", own_switch=3)
    with pytest.raises(ConfigError, match=r"\(did you mean 'own_switch'\?\), got own_swich"):
        net_of("Own", own_swich=True)
    with pytest.raises(ConfigError, match=r"^dsmoe.own_switch: expected true or false, got 0$"):
        check_options({"own_switch": 0})  # also beside blocks that do not read it


def test_an_option_that_the_class_does_not_declare() -> None:
    with pytest.raises(ConfigError, match=r"^option 'topq' of SparseMoE: expected an entry in the class's options"):
        RowContext("SparseMoE", 8, []).option("topq")


def test_terms_are_summed_by_column_with_their_gains(no_trace: Any, batch: Any) -> None:
    labelled = AuxTerm(0.5, lambda left, batch: left.sum() * len(batch["cls"]), "far_loss")
    register(own(aux_terms={"near": AuxTerm(0.25), "far": labelled}))
    found = {}
    for gains in ({}, {"near": 2, "far": 0}):
        torch.manual_seed(0)
        net, data = net_of("Own", gains=gains), batch(nc=2)
        net.args = get_cfg()
        net.train()
        preds = net(data["img"])
        left = dict(net.model[3].aux)
        criterion = net.init_criterion()
        assert extra_names(net, net.options) == criterion.columns == ("far_loss", "aux_loss")
        loss, items = criterion(preds, data)
        near, far = left["near"], left["far"].sum() * len(data["cls"])
        assert items["aux_loss"] == gains.get("near", 0.25) * near
        assert items["far_loss"] == gains.get("far", 0.5) * far
        assert len(loss) == 5
        assert net.model[3].aux is None
        found[str(gains)] = items["far_loss"].item()
    assert len(set(found.values())) == 2
    with pytest.raises(ConfigError, match=r"dsmoe.gains: expected names out of .*\(did you mean 'near'\?\), got naer"):
        net_of("Own", gains={"naer": 1})


def test_a_term_that_the_class_does_not_declare(no_trace: Any, batch: Any) -> None:
    register(own(aux_terms={"near": AuxTerm(1.0)}))
    block = LAYERS["Own"]().train()
    block(torch.ones(1, 2, 3, 3))
    with pytest.raises(
        ConfigError, match=r"^auxiliary terms of Own: expected names out of its aux_terms \(near\)"
    ) as e:
        block.aux_losses({})
    assert str(e.value).endswith("got far")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"options": {"gains": Option(1)}}, "options['gains']: expected an Option under a key of the block's own"),
        ({"options": {"own": 1}}, "options['own']: expected an Option under a key of the block's own, got 1"),
        ({"options": {"topk": Option(3)}}, "options['topk']: expected the Option of ExpertGate, got another one"),
        ({"aux_terms": {"a": 0.5}}, "aux_terms['a']: expected an AuxTerm whose column ends in _loss"),
        ({"aux_terms": {"a": AuxTerm(1, None, "mine")}}, "aux_terms['a']: expected an AuxTerm whose column ends"),
        ({"aux_terms": {"a": AuxTerm(1, None, "cls_loss")}}, "aux_terms['a']: expected an AuxTerm whose column ends"),
        ({"aux_terms": {"a": AuxTerm(1)}, "base": nn.Module}, "aux_terms: expected a class derived from AuxLossMixin"),
        ({"knockouts": (Knockout("text-zero", "", constant),)}, "knockouts: expected names that are not taken"),
        ({"knockouts": (Knockout("a", "", constant),) * 2}, "knockouts: expected names that are not taken, got a, a"),
    ],
)
def test_contracts_that_clash(attributes: Any, message: str, no_trace: Any) -> None:
    bases = (nn.Module,) if "base" in attributes else (AuxLossMixin, nn.Module)
    cls = type("Own", bases, {**attributes, "parse": len})
    with pytest.raises(ConfigError) as e:
        register(cls)
    assert str(e.value).startswith(f"register(Own) {message}")
    assert "\n" not in str(e.value)
    assert "Own" not in LAYERS


def test_a_shared_option_is_one_object_and_an_inherited_knockout_counts_once() -> None:
    assert ExpertGate.options["topk"] is SparseMoE.options["topk"] is options()["topk"]
    names = [knockout.name for _, knockout in knockouts()]
    assert len(names) == len(set(names))
    assert {"class-text-off", "routing-random", "text-zero", "offsets-zero"} <= set(names)
    assert {"align", "hier", "bal", "ga", "ort"} <= set(aux_names())
