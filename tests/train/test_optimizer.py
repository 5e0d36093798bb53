"""Every parameter's pace in every optimizer; experts' biases in the warm-up; what stands still is told."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import yaml_model_load

from ultra_dsmoe.export.images import channels_of
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.reference_row import with_reference
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.head.text_logits import TextLogits
from ultra_dsmoe.nn.neck.experts import CrossModalExperts, GlobalExpert, LocalExpert
from ultra_dsmoe.nn.neck.hub_inject import HubInject
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.registry import LAYERS
from ultra_dsmoe.train.optimizer import FAST_LR, Movement, fits
from ultra_dsmoe.train.trainer import DSMoETrainer

# Nets that hold all blocks between them, and the image sizes they take.
NETS = {"dsmoe-n": 64, "dsmoe": 64, "yolov8n-dsmoe": 64, "smodel-n": 128, "no text": 64, "yolov8n-gasnet": 64,
        "conv reference": 64, "features reference": 64}  # fmt: skip
FEATURES = Path(__file__).parents[2] / "benchmarks/studies/nets/yolov8-ref-features.yaml"
WITHOUT_PARAMETERS = {"Pick", "SplitText"}
OF_CLASSIFIERS = {"CMAF", "ImageProjection", "PairClassify", "TextAdapter"}  # tests/nn/fusion/test_rows.py
# name, learning rate, iterations: ``auto`` chooses by the last
OPTIMIZERS = {
    "SGD": ("SGD", 0.01, 100),
    "Adam": ("Adam", 0.001, 100),
    "AdamW": ("AdamW", 0.001, 100),
    "RAdam": ("RAdam", 0.001, 100),
    "RMSprop": ("RMSprop", 0.001, 100),
    "MuSGD": ("MuSGD", 0.01, 100),
    "auto, short": ("auto", 0.01, 10_000),
    "auto, long": ("auto", 0.01, 10_001),
}
SLOWER, FASTER = 1 / 20, 20  # than the stock layers beside them; the fault that this test is for was 1 / 400
STEPS = 3
SLOW_IN_SGD = ".attention_biases"  # TinyViT's position biases: of small gradient, whoever trains them by plain SGD


def make_net(name: str) -> DSMoEModel:
    """Return a fresh net, what starts at zero lifted so that gradients reach everything behind it."""
    cfg: Any = f"{name}.yaml"
    if name == "no text":
        cfg = yaml_model_load("dsmoe-n.yaml")
        cfg["dsmoe"]["text"] = False
    if name == "yolov8n-gasnet":
        cfg = yaml_model_load(cfg)
        cfg["dsmoe"]["split"] = "learned"  # its shares are parameters
    if name == "conv reference":
        cfg = with_reference("yolov8n.yaml", "conv")
    if name == "features reference":
        cfg = str(FEATURES)
    torch.manual_seed(0)
    net = DSMoEModel(cfg, nc=6, verbose=False)
    net.args = get_cfg()
    for p in net.parameters():
        if p.numel() and not p.any():
            nn.init.normal_(p, std=0.02)
    return net.train()


@functools.cache
def trained_once(name: str) -> tuple[DSMoEModel, list[dict[str, Tensor]]]:
    """Return a net and its clipped gradients on some batches."""
    net, size = make_net(name), NETS[name]
    gradients = []
    for _ in range(STEPS):
        batch = {
            "img": torch.rand(4, channels_of(net), size, size),
            "cls": torch.randint(6, (12, 1)).float(),
            "bboxes": torch.cat([0.3 + 0.4 * torch.rand(12, 2), 0.2 + 0.3 * torch.rand(12, 2)], 1),
            "batch_idx": torch.arange(4).repeat_interleave(3).float(),
        }
        net.zero_grad()
        net(batch)[0].sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)  # as the host does
        gradients.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    net.criterion = None
    for m in net.modules():
        getattr(m, "pop_aux", dict)()
    return net, gradients


def build(net: nn.Module, optimizer: str, **overrides: Any) -> torch.optim.Optimizer:
    """Return the optimizer that a training of ours gets."""
    trainer = object.__new__(DSMoETrainer)
    trainer.args, trainer.data = get_cfg(), {"nc": 6}
    name, lr, iterations = OPTIMIZERS[optimizer]
    arguments = {"name": name, "lr": lr, "momentum": 0.9, "decay": 0.0, "iterations": iterations}
    return trainer.build_optimizer(net, **{**arguments, **overrides})


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, gradients: list[dict[str, Tensor]]) -> dict[str, float]:
    """Take steps; return the size of each parameter's largest one, root mean square."""
    sizes: dict[str, float] = {}
    for gradient in gradients:
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        for n, p in net.named_parameters():
            p.grad = gradient[n].clone() if n in gradient else None
        optimizer.step()
        for n, p in net.named_parameters():
            if p.numel():
                sizes[n] = max(sizes.get(n, 0.0), float((p.detach() - before[n]).norm()) / math.sqrt(p.numel()))
    return sizes


def is_stock(m: nn.Module) -> bool:
    return type(m).__module__.startswith(("torch.", "ultralytics."))


def owners(net: nn.Module) -> Iterator[tuple[str, str, nn.Module, nn.Parameter]]:
    """Yield name, row, owner and parameter of everything trainable."""
    for module_name, m in net.named_modules():
        for name, p in m.named_parameters(recurse=False):
            if p.numel() and p.requires_grad:
                full = f"{module_name}.{name}"
                yield full, ".".join(full.split(".")[:2]), m, p


def is_matrix(name: str, p: nn.Parameter) -> bool:
    return "bias" not in name and (p.ndim in (2, 4) or (p.ndim == 3 and p.shape[-1] > 1))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ours_move_like_the_stock_layers_beside_them(optimizer: str, name: str) -> None:
    """Matrices relative to their size, vectors and scalars by the absolute step: many of them start at zero."""
    fresh, gradients = trained_once(name)
    net = copy.deepcopy(fresh)
    built = build(net, optimizer)
    groups = [id(p) for group in built.param_groups for p in group["params"]]
    assert sorted(groups) == sorted(map(id, net.parameters())), "every parameter in exactly one group"
    step = steps(net, built, gradients * (3 if optimizer == "RAdam" else 1))  # its first five steps are plain
    stock: dict[tuple[str, bool], list[float]] = {}
    ours = []
    for name, row, m, p in owners(net):
        if not all(name in gradient for gradient in gradients):  # of an expert that no image chose
            continue
        # What starts at zero has no size of its own to move by, whatever its shape.
        matrix = is_matrix(name, p) and name.rpartition(".")[2] not in getattr(m, "fast_parameters", ())
        pace = step[name] / float(p.detach().square().mean().sqrt()) if matrix else step[name]
        if is_stock(m):
            for place in (row, "net"):
                stock.setdefault((place, matrix), []).append(pace)
        else:
            ours.append((name, row, matrix, pace))
    wrong = []
    for name, row, matrix, pace in ours:
        neighbours = median(stock.get((row, matrix)) or stock["net", matrix])
        # In SGD a scalar that a whole map depends on, or a head's last layer, is as fast as its gradient is large.
        most = FASTER if matrix and optimizer != "SGD" else math.inf
        if optimizer == "SGD" and name.endswith(SLOW_IN_SGD):
            continue
        if not SLOWER <= pace / neighbours <= most:
            wrong.append(f"{name}: {pace:.1e} beside {neighbours:.1e}")
    assert not wrong


def test_the_nets_hold_all_blocks() -> None:
    held = {type(m).__name__ for name in NETS for m in make_net(name).modules()}
    own = {name for name, cls in LAYERS.items() if cls.__module__.startswith("ultra_dsmoe.")}
    assert own - held == (WITHOUT_PARAMETERS | OF_CLASSIFIERS) - held


# stacks ---------------------------------------------------------------------------------------------------------------


class Stacks(nn.Module):
    """Stacks of wide and high matrices and of vectors, as blocks hold them."""

    stacked_matrices = ("wide", "high")
    stacked_vectors: ClassVar[dict[str, int]] = {"rows": 1}

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.high = nn.Parameter(torch.randn(3, 4, 6)), nn.Parameter(torch.randn(3, 8, 5))
        self.rows = nn.Parameter(torch.randn(1, 3, 7))


class Apart(nn.Module):
    """The same numbers, each matrix a parameter of its own."""

    def __init__(self, stacks: Stacks) -> None:
        super().__init__()
        for name, stack in (("wide", stacks.wide), ("high", stacks.high), ("rows", stacks.rows[0].unsqueeze(-1))):
            for i, matrix in enumerate(stack):
                self.register_parameter(f"{name}{i}", nn.Parameter(matrix.detach().clone()))


def muon(block: nn.Module) -> torch.optim.Optimizer:
    net = nn.Module()
    net.model = nn.Sequential(block)  # where the host looks for a head
    return build(net, "MuSGD", decay=1e-3)


def test_each_matrix_moves_as_one_that_the_host_has_by_itself() -> None:
    stacks = Stacks()
    apart = Apart(stacks)
    together, alone = muon(stacks), muon(apart)
    for _ in range(3):
        for name in ("wide", "high", "rows"):
            stack = getattr(stacks, name)
            stack.grad = torch.randn_like(stack)
            for i, gradient in enumerate(stack.grad.reshape(3, *getattr(apart, f"{name}0").shape)):
                getattr(apart, f"{name}{i}").grad = gradient.clone()
        together.step()
        alone.step()
    for name in ("wide", "high", "rows"):
        wanted = torch.stack([getattr(apart, f"{name}{i}") for i in range(3)])
        got = getattr(stacks, name).view_as(wanted)
        torch.testing.assert_close(got, wanted, rtol=0, atol=3e-4)  # in bfloat16; three steps move it by 2e-3


def test_an_expert_without_images_stands_still() -> None:
    stacks = Stacks()
    optimizer = muon(stacks)
    for step in range(2):
        before = stacks.wide.detach().clone()
        stacks.wide.grad = 1e-3 * torch.randn_like(stacks.wide)
        stacks.wide.grad[1] *= 1 - step
        optimizer.step()
    moved = (stacks.wide - before).flatten(1).norm(dim=1)
    assert moved[1] < 0.05 * moved[[0, 2]].min()


def test_a_saved_state_goes_on_where_it_was() -> None:
    first = Stacks()
    one = muon(first)
    gradients = [{n: torch.randn_like(p) for n, p in first.named_parameters()} for _ in range(3)]
    steps(first, one, gradients[:2])
    second = copy.deepcopy(first)
    two = muon(second)
    assert fits(one.state_dict(), two)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    steps(first, one, gradients[2:])
    steps(second, two, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_state_of_other_groups_does_not_fit() -> None:
    stacks = Stacks()
    older = torch.optim.SGD([{"params": list(stacks.parameters())}], lr=0.1)
    assert not fits(older.state_dict(), muon(stacks))
    assert not fits(None, muon(stacks))


@pytest.mark.parametrize("same", [True, False])
def test_a_run_of_an_older_version_resumes_without_its_momentum(
    same: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(DetectionTrainer, "resume_training", lambda _self, ckpt: seen.append(ckpt))
    stacks = Stacks()
    trainer = object.__new__(DSMoETrainer)
    trainer.resume, trainer.optimizer, trainer.csv = True, muon(stacks), tmp_path / "results.csv"
    trainer.start_epoch = 4
    older = torch.optim.SGD([{"params": list(stacks.parameters())}], lr=0.1)
    state = (trainer.optimizer if same else older).state_dict()
    trainer.resume_training({"epoch": 3, "optimizer": state})
    assert len(seen) == 1
    assert seen[0]["optimizer"] is (state if same else None)


# groups ---------------------------------------------------------------------------------------------------------------


def at_first_step(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return each parameter's learning rate in the first step, by the host's formula of the warm-up."""
    bias_lr = get_cfg().warmup_bias_lr
    names = {id(p): n for n, p in net.named_parameters()}
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        rate = np.interp(0, [0, 100], [bias_lr if group.get("param_group") == "bias" else 0.0, group["lr"]])
        rates |= {names[id(p)]: float(rate) for p in group["params"]}
    return rates


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "MuSGD"])
def test_the_warm_up_of_biases_leaves_out_those_of_the_experts(optimizer: str) -> None:
    net = make_net("dsmoe-n")
    rates = at_first_step(net, build(net, optimizer, decay=1e-3))
    experts = {
        f"{name}.{own}"
        for name, m in net.named_modules()
        if isinstance(m, (LocalExpert, GlobalExpert, CrossModalExperts))
        for own, _ in m.named_parameters()
        if "bias" in own
    }
    assert len(experts) == 5
    assert {rates[name] for name in experts} == {0.0}
    others = {n for n, p in net.named_parameters() if n.endswith(".bias") and p.ndim == 1} - experts
    assert {rates[name] for name in others} == {get_cfg().warmup_bias_lr}
    for kind in (LocalExpert, GlobalExpert, CrossModalExperts, SparseMoE):
        assert net.blocks(kind), "the net has none"


def test_scalars_and_gains_have_no_decay_in_groups_that_the_host_leaves_alone() -> None:
    net = make_net("yolov8n-dsmoe")
    groups = {
        id(p): group for group in build(net, "AdamW", decay=1e-3).param_groups for p in group["params"]
    }  # the host sets the decay anew in "weight" groups
    (moe,) = net.blocks(SparseMoE)
    for p in (moe.cross.ln_gain, net.blocks(TextLogits)[0].gain, net.model[13].log_tau):
        assert (groups[id(p)]["param_group"], groups[id(p)]["weight_decay"]) == ("bn", 0.0)
    assert groups[id(moe.cross.w_f)]["weight_decay"] == 1e-3


def test_gains_that_start_at_zero_are_fast_and_others_are_not() -> None:
    nets = {name: DSMoEModel(f"{name}.yaml", nc=6, verbose=False) for name in ("yolov8n-dsmoe", "dsmoe-n")}
    paces: dict[tuple[str, str], set[tuple[bool, bool]]] = {}
    for name, net in nets.items():
        groups = build(net, "AdamW").param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        kinds: dict[str, Callable[[Any], nn.Parameter]] = {
            "TextLogits": lambda m: m.gain,
            "HubInject": lambda m: m.bn.weight,
            "DualAttention": lambda m: m.channel_out.bn.weight,
        }
        for m in net.modules():
            if isinstance(m, (TextLogits, HubInject, DualAttention)):
                p = kinds[type(m).__name__](m)
                fast = rates[id(p)] == pytest.approx(FAST_LR * 0.001)
                paces.setdefault((name, type(m).__name__), set()).add((fast, not bool(p.any())))
    for found in paces.values():
        assert all(fast == zero for fast, zero in found), paces
    assert (True, True) in paces["yolov8n-dsmoe", "TextLogits"]
    assert (False, False) in paces["dsmoe-n", "TextLogits"]


# what stands still ----------------------------------------------------------------------------------------------------


class Momenta:
    """Stands for an optimizer whose momenta are what a net's parameters got."""

    def __init__(self, momenta: dict[nn.Parameter, Tensor]) -> None:
        self.state = {p: {"exp_avg": m} for p, m in momenta.items()}


def moved_net(still: str, step: float = 0.003) -> tuple[Movement, dict[str, nn.Parameter]]:
    """Return a net in which all matrices but those named ``still`` have moved, these along themselves alone."""
    net = make_net("dsmoe-n")
    movement = Movement(net)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim > 1:
                noise = step * p.square().mean().sqrt().clamp_min(1e-3) * torch.randn_like(p)
                p += -0.001 * p if still in name or name == "model.0.conv.weight" else noise  # ours and the host's
    return movement, dict(net.named_parameters())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("ultra_dsmoe.train.optimizer.LOGGER.warning", lines.append)
    return lines


@pytest.mark.parametrize("name", ["exp_avg", "momentum_buffer", "grad"])
def test_what_stands_still_is_named(said: list[str], name: str) -> None:
    movement, parameters = moved_net("cross.w_f")
    optimizer = Momenta({})
    for p in parameters.values():
        if name == "grad":
            p.grad = torch.randn_like(p)
        else:
            optimizer.state[p] = {name: 5e-4 * p.detach() + 1e-5 * torch.randn_like(p)}
    assert movement.report(optimizer)
    (line,) = said
    assert line.startswith("model.18.cross.w_f stood still although they get gradients: moved less than 0.01")


@pytest.mark.parametrize("momentum", ["none", "zero", "decay", "little"])
def test_what_gets_no_gradient_rightly_rests(said: list[str], momentum: str) -> None:
    """As the box branch of a level that no object belongs to: its momentum is weight decay, or nothing at all."""
    movement, parameters = moved_net("cv2.2")
    momenta = {p: torch.randn_like(p) for p in parameters.values()}
    rests = {"zero": torch.zeros_like, "decay": lambda p: 5e-4 * p, "little": lambda p: 1e-6 * torch.randn_like(p)}
    for name, p in parameters.items():
        if "cv2.2" in name:
            del momenta[p]
            momenta |= {p: rests[momentum](p.detach())} if momentum in rests else {}
    assert movement.report(Momenta(momenta))
    assert not said


def test_nothing_is_told_of_a_net_that_has_hardly_moved(said: list[str]) -> None:
    """In an epoch of few warm-up steps rounding alone decides what seems to move; a later epoch tells."""
    movement, parameters = moved_net("cross.w_f", step=1e-7)
    momenta = Momenta({p: torch.randn_like(p) for p in parameters.values()})
    assert not movement.report(momenta)
    assert not said


def test_parameters_that_start_at_zero_hide_nothing(said: list[str]) -> None:
    movement, parameters = moved_net("cross.w_f")
    movement.start["model.16.offset_pw.weight"].zero_()
    movement.report(Momenta({p: torch.randn_like(p) for p in parameters.values()}))
    assert len(said) == 1


def test_a_net_in_motion_says_nothing(said: list[str]) -> None:
    movement, parameters = moved_net("none of them")
    with torch.no_grad():
        parameters["model.0.conv.weight"] += 0.01 * torch.randn_like(parameters["model.0.conv.weight"])
    assert movement.report(Momenta({p: torch.randn_like(p) for p in parameters.values()}))
    assert not said
