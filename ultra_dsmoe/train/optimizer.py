"""A pace for every parameter: groups of the host's optimizer for what the host's own rules do not know.

The host sorts parameters by their number of axes and by their names. Three contracts of a block correct that; all of
them name parameters of the block, dots included (``bn.weight``):

* ``fast_parameters``: scalars, and gains that start at zero, which hardly move at the common pace;
* ``stacked_matrices``, ``stacked_vectors``: many matrices (the last two axes) or vectors (as many trailing axes as the
  mapping says) in one tensor, of which an image trains a few. The host's MuSGD orthogonalises what has two or four
  axes and leaves them to plain SGD, in which they move hundreds of times less than the layers beside them. In SGD
  itself, where pace is gradient and one of N gets an Nth of a layer's, they are N times as fast;
* ``bias_warmup = False``: biases that the host's warm-up, which begins at ``warmup_bias_lr``, leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils import LOGGER

FAST_LR = 10.0  # of `fast_parameters`: at the common pace they hardly move (our choice)
ROUNDING = 1e-5  # of a median movement below which a hundredth of it is lost in single precision's last bit
MOMENTA = ("exp_avg", "momentum_buffer")  # in the states of the host's optimizers
STILL = 0.01  # of the median movement in an epoch: what moves less stands still (our choice; a fault measured 0.003)
_BUFFER = "momentum_buffer_stack"  # in the optimizer's state, beside the host's, and so in its checkpoints
_MAX_NAMES = 4  # in a line of the log


def regroup(optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """Move the parameters that blocks name to groups of their own, and return the optimizer.

    Scalars and vectors of our blocks lose the weight decay, as the host's norms and biases do.

    Args:
        optimizer: The host's, fresh from its ``build_optimizer``.
        model: The net whose parameters it has.
    """
    kind = type(optimizer).__name__
    changes = dict(_changes(model, kind))
    for group in list(optimizer.param_groups):
        moved: dict[tuple[Any, ...], list[Tensor]] = {}
        for p in group["params"]:
            if id(p) in changes:
                moved.setdefault(changes[id(p)], []).append(p)
        group["params"] = [p for p in group["params"] if id(p) not in changes]
        for change, params in moved.items():
            settings = dict(change)
            own = {**group, "params": params, "lr": group["lr"] * settings.pop("pace", 1.0), **settings}
            optimizer.add_param_group(own)
    if kind == "MuSGD":
        optimizer.register_step_post_hook(_step_stacks)
    return optimizer


def _changes(model: nn.Module, kind: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield which parameters need other settings than their group's, and which; later ones win."""
    # The host sets the decay anew in groups of the name "weight", and the warm-up of biases in those named "bias".
    plain = ("param_group", "bn"), ("weight_decay", 0.0)
    for m in model.modules():
        for name, p in m.named_parameters(recurse=False) if _is_ours(m) else ():
            if (p.ndim < 2 or (p.ndim == 3 and p.shape[-1] == 1)) and "bias" not in name:
                yield id(p), plain
        if not getattr(m, "bias_warmup", True):
            yield from ((id(p), plain) for name, p in m.named_parameters() if "bias" in name)
        for name in getattr(m, "fast_parameters", ()):
            if (fast := _parameter(m, name)) is not None:
                yield id(fast), (("pace", FAST_LR), *plain)
        stacks = dict.fromkeys(getattr(m, "stacked_matrices", ()), 0) | getattr(m, "stacked_vectors", {})
        for name, axes in stacks.items():
            stack = _parameter(m, name)
            if stack is not None and kind == "MuSGD":
                yield id(stack), (("param_group", "muon"), ("vector_axes", axes))
            elif stack is not None and kind == "SGD":
                yield id(stack), (("pace", float(len(_units(stack.detach(), axes)))),)


def _is_ours(m: nn.Module) -> bool:
    """Whether a module is a block of this package or of its user, and none of the host or torch."""
    return type(m).__module__.partition(".")[0] not in ("torch", "ultralytics")


def _parameter(block: nn.Module, name: str) -> nn.Parameter | None:
    """Return a parameter by its dotted name; None where the block was built, or folded, without it."""
    try:
        p = attrgetter(name)(block)
    except AttributeError:
        return None
    return p if isinstance(p, nn.Parameter) else None


@torch.no_grad()
def _step_stacks(optimizer: Any, *_: Any) -> None:
    """Add to the host's plain step what its MuSGD adds for a matrix, to each matrix or vector of the stacks.

    One that got no gradient in this step, as an expert that no image chose, stands still with its momentum: an
    orthogonalised step is as long for the rest of a momentum as for a whole one.
    """
    for group in optimizer.param_groups:
        for p in group["params"] if "vector_axes" in group else ():
            if p.grad is None:
                continue
            grad = _units(p.grad.contiguous(), group["vector_axes"])
            buffer = _units(optimizer.state[p].setdefault(_BUFFER, torch.zeros_like(p)), group["vector_axes"])
            used = grad.abs().amax((1, 2), keepdim=True) > 0
            beta = group["momentum"]
            buffer.copy_(torch.where(used, beta * buffer + (1 - beta) * grad, buffer))
            update = beta * buffer + (1 - beta) * grad if group["nesterov"] else buffer
            step = torch.where(used, _orthogonal(update), torch.zeros_like(update))
            _units(p, group["vector_axes"]).sub_(step, alpha=group["lr"] * optimizer.muon)


def _units(x: Tensor, vector_axes: int) -> Tensor:
    """View a stack as its matrices, (E, rows, columns); a vector is a matrix of one column."""
    return x.view(-1, math.prod(x.shape[-vector_axes:]), 1) if vector_axes else x.view(-1, *x.shape[-2:])


def _orthogonal(matrices: Tensor) -> Tensor:
    """Return the host's orthogonalised step of each matrix, (E, rows, columns), in its scale for matrices."""
    from ultralytics.optim.muon import zeropower_via_newtonschulz5  # hosts with MuSGD have it; older take no batches

    rows, columns = matrices.shape[1:]
    return torch.vmap(zeropower_via_newtonschulz5)(matrices).to(matrices.dtype) * max(1, rows / columns) ** 0.5


def fits(state: dict[str, Any] | None, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the saved state of an optimizer has the groups of this one."""
    sizes = [len(group["params"]) for group in (state or {}).get("param_groups", ())]
    return sizes == [len(group["params"]) for group in optimizer.param_groups]


def without_misfits(ckpt: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Return a checkpoint to resume from; the state of an older version's optimizer, whose groups were others, goes."""
    if not (ckpt and ckpt.get("optimizer")) or fits(ckpt["optimizer"], optimizer):
        return ckpt
    LOGGER.warning("resume: another version's optimizer groups; its momentum starts anew, the weights go on")
    return {**ckpt, "optimizer": None}


class Movement:
    """Find the parameters of our blocks that stand still although they get gradients, from two looks at the net.

    One whose gradients are as small as its movement is none of them: the box branch of a level that no object belongs
    to rightly rests.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember where the parameters are that are to be trained."""
        self.model = model
        self.start = {name: p.detach().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def still(self, optimizer: torch.optim.Optimizer) -> list[str] | None:
        """Return the names of our blocks' matrices that have moved less than `STILL` of the net's median.

        Movement is relative to the parameter, and across it: weight decay, which runs along it, does not count.

        Args:
            optimizer: Its momenta tell which parameters have got gradients.

        Returns:
            The names; None where the net has moved so little, as in a short epoch of warm-up, that nothing can be told.
        """
        moved, forces = {}, {}
        for name, p in _trained(self.model):
            if (old := self.start.get(name)) is not None and old.shape == p.shape:
                moved[name] = _across(p.detach().float() - old.float(), old) / _size(old)
                forces[name] = _force(p, optimizer)
        pace = torch.stack(list(moved.values())) if moved else torch.zeros(1)
        if pace.median() < ROUNDING:
            return None
        force = torch.stack(list(forces.values()))
        slow = ((pace < STILL * pace.median()) & (force > STILL * force.median())).tolist()
        ours = set(_inside_our_blocks(self.model))
        return [name for name, is_slow in zip(moved, slow, strict=True) if is_slow and name in ours]

    def report(self, optimizer: torch.optim.Optimizer) -> bool:
        """Log a line where parameters stand still; return whether it could be told."""
        names = self.still(optimizer)
        if names:
            rest = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
            LOGGER.warning(
                f"{', '.join(names[:_MAX_NAMES])}{rest} stood still although they get gradients: moved less than "
                f"{STILL:g} of the median layer. Another optimizer= may suit them"
            )
        return names is not None


def _size(x: Tensor) -> Tensor:
    return x.float().norm().clamp_min(torch.finfo(torch.float32).tiny)


def _across(step: Tensor, p: Tensor) -> Tensor:
    """Return the length of the part of a step that does not run along a parameter, which may be zero."""
    step, unit = step.flatten().float(), p.flatten().float() / _size(p)
    return (step - unit * (step @ unit)).norm()


def _force(p: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the length of a parameter's momentum, of its gradient where it has none, across and relative to it."""
    state = optimizer.state.get(p, {})
    kept = [state[name] for name in (*MOMENTA, _BUFFER) if isinstance(state.get(name), Tensor)]
    given = kept or ([] if p.grad is None else [p.grad])
    return torch.stack([_across(m, p) for m in given]).max() / _size(p) if given else torch.zeros_like(_size(p))


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield matrices and filters that are to be trained; vectors may rightly stay where they start."""
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and p.numel())


def _inside_our_blocks(model: nn.Module) -> Iterator[str]:
    """Yield the names of all parameters inside blocks of this package, parts from the host's included."""
    for name, m in model.named_modules():
        if name and _is_ours(m):
            yield from (f"{name}.{own}" for own, _ in m.named_parameters())
