"""Before any training: can this machine, or the box that the model is for, run what will come out?

`check` compares a report of what a machine has with the recipe of its card (`recipes`).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path

from ultra_dsmoe import checks
from ultra_dsmoe.constants import MODES
from ultra_dsmoe.edge.recipes import (
    CARDS,
    MODE,
    OPSET,
    PRECISIONS,
    RECIPES,
    TOO_OLD,
    WITHOUT,
    Part,
    Recipe,
    Sm,
    Version,
)
from ultra_dsmoe.errors import ConfigError, did_you_mean

DRIVER_FILE = Path("/proc/driver/nvidia/version")  # Linux; elsewhere the driver goes unchecked
TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
DECORATION = re.compile(r"\b(nvidia|geforce|tesla|quadro|laptop gpu|with max-q design)\b|-(pcie|sxm).*$|\d+ ?gb\b")


@dataclass(frozen=True)
class Report:
    """What a machine has; None where it is unknown, and goes unchecked.

    Attributes:
        gpu: Name of the card.
        sm: Its compute capability.
        driver: Version of NVIDIA's driver.
        python: Version of Python.
        torch: Version of torch, with its build, such as ``2.3.1+cu121``.
        cuda: CUDA version that torch was built with.
        arches: Architectures that torch was built for, such as ``sm_60``; empty where unknown.
        tensorrt: Version of TensorRT.
        onnxruntime: Version of ONNX Runtime.
        numpy: Version of NumPy.
        autoinstall: Whether the host fetches packages that it misses.
    """

    gpu: str | None = None
    sm: Sm | None = None
    driver: str | None = None
    python: str | None = None
    torch: str | None = None
    cuda: str | None = None
    arches: tuple[str, ...] = ()
    tensorrt: str | None = None
    onnxruntime: str | None = None
    numpy: str | None = None
    autoinstall: bool = False


@dataclass(frozen=True)
class Plan:
    """How the model is to be exported."""

    precision: str = "fp32"
    opset: int = OPSET
    mode: str = MODE


@dataclass(frozen=True)
class Verdict:
    """What `check` finds.

    Attributes:
        recipe: The recipe of the card; None without a card, or without a recipe for it.
        refusals: What cannot work, one line each.
        cautions: What may not work, one line each.
    """

    recipe: Recipe | None
    refusals: tuple[str, ...]
    cautions: tuple[str, ...]


def find_card(name: str) -> Sm:
    """Return the compute capability of a card.

    Raises:
        ConfigError: If the name is not in the table.
    """
    plain = DECORATION.sub(" ", name.lower())
    found = next((sm for card, sm in CARDS.items() if _squeeze(card) == _squeeze(plain)), None)
    if found is None:
        hint = did_you_mean(plain.strip(), CARDS)
        raise ConfigError("gpu", f"a card of the table{hint}, or its compute capability as in sm=6.1", name)
    return found


def read_sm(text: str) -> Sm:
    """Read a compute capability such as ``6.1``.

    Raises:
        ConfigError: If it is none.
    """
    if not (match := re.fullmatch(r"(\d{1,2})\.(\d)", text)):
        raise ConfigError("sm", "a compute capability such as 6.1", text)
    return int(match[1]), int(match[2])


def machine() -> Report:
    """Return the report of this machine; imports TensorRT only where it is installed without package metadata."""
    import torch
    from ultralytics.utils import AUTOINSTALL

    seen = torch.cuda.is_available()
    return Report(
        gpu=torch.cuda.get_device_name(0) if seen else None,
        sm=torch.cuda.get_device_capability(0) if seen else None,
        driver=_driver(DRIVER_FILE.read_text(encoding="utf-8")) if DRIVER_FILE.is_file() else None,
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        arches=tuple(torch.cuda.get_arch_list()),
        tensorrt=_tensorrt(),
        onnxruntime=_version("onnxruntime") or _version("onnxruntime-gpu"),
        numpy=_version("numpy"),
        autoinstall=bool(AUTOINSTALL),
    )


def check(report: Report, plan: Plan | None = None) -> Verdict:
    """Compare a machine and a plan with the recipe of the machine's card.

    Args:
        report: What the machine has.
        plan: How the model is to be exported; the recipe's way if left out.

    Raises:
        ConfigError: If the plan names an unknown precision or mode.
    """
    plan = plan or Plan()
    for name, value, known in (("precision", plan.precision, PRECISIONS), ("mode", plan.mode, MODES)):
        checks.one_of(name, value, known)
    if report.sm is None:
        return Verdict(None, tuple(_without_gpu(report)), ())
    recipe = next((r for r in RECIPES if r.sm[0] <= report.sm <= r.sm[1]), None)
    if recipe is None or report.sm in WITHOUT:
        reason = WITHOUT.get(report.sm, TOO_OLD if report.sm < RECIPES[0].sm[0] else None)
        why = f"{reason.take} [{reason.source}]" if reason else "no recipe yet"
        return Verdict(None, (f"SM {_dotted(report.sm)}: {why}",), ())
    refusals = (*_part_refusals(report, recipe), *_plan_refusals(plan, recipe))
    return Verdict(recipe, refusals, tuple(_cautions(report, plan, recipe)))


def _without_gpu(report: Report) -> Iterator[str]:
    if report.driver is not None:
        yield f"torch: expected a build that sees the GPU of driver {report.driver}, got {report.torch}"


def _part_refusals(report: Report, recipe: Recipe) -> Iterator[str]:
    """Yield the parts whose version cannot work."""
    assert report.sm is not None
    cuda = _build(report.torch) or report.cuda
    for name, part in recipe.parts.items():
        given = getattr(report, name) if part.allowed else None
        if name == "torch" and report.arches:  # its own word counts more than the table
            if not _serves(report.arches, report.sm):
                yield f"torch: expected a build for SM {_dotted(report.sm)}, got one for {', '.join(report.arches)}"
        elif given is not None and not any(a.holds(_parse(name, given), cuda) for a in part.allowed):
            yield _refusal(name, part, given)


def _plan_refusals(plan: Plan, recipe: Recipe) -> Iterator[str]:
    """Yield the settings that cannot work."""
    if plan.precision not in recipe.precisions:
        yield _refusal("precision", recipe.numbers, plan.precision)
    low, high = recipe.opsets
    if not low <= plan.opset <= high:
        yield _refusal("opset", recipe.parts["opset"], plan.opset)


def _refusal(name: str, part: Part, given: object) -> str:
    return f"{name}: expected {part.take}, got {given}{part.why and f'; {part.why}'} [{part.source}]"


def _cautions(report: Report, plan: Plan, recipe: Recipe) -> Iterator[str]:
    """Yield what may not work, or works and disappoints."""
    if plan.precision == "int8" and plan.mode == "gather":
        yield "int8 with mode gather: the experts stay fp32, only constant weights are quantised"
    if recipe.family == "Pascal":
        if report.torch is not None and _parse("torch", report.torch) >= (2, 4):
            yield "torch 2.4 and newer bring cuDNN 9 beside TensorRT's cuDNN 8; both in one process is untried"
        if report.autoinstall:
            yield "YOLO_AUTOINSTALL=false is not set: Ultralytics would fetch a TensorRT that does not know the card"
    runtime, numpy = report.onnxruntime, report.numpy
    if runtime and numpy and _parse("onnxruntime", runtime) < (1, 19) and _parse("numpy", numpy) >= (2,):
        yield f"onnxruntime {runtime} does not import beside NumPy {numpy}; take 1.19 or newer"


def _serves(arches: tuple[str, ...], sm: Sm) -> bool:
    """Whether binaries (same major, at most the card's minor) or portable code (any older) suit a card."""
    for arch in arches:
        kind, _, digits = arch.rstrip("af").partition("_")
        built = int(digits[:-1]), int(digits[-1])
        if (kind == "sm" and built[0] == sm[0] and built <= sm) or (kind == "compute" and built <= sm):
            return True
    return False


def _build(torch: str | None) -> str | None:
    """Return the CUDA version in the name of a torch build, ``12.6`` of ``2.9.0+cu126``."""
    match = re.search(r"\+cu(\d+)(\d)$", torch or "")
    return f"{match[1]}.{match[2]}" if match else None


def _parse(name: str, version: str) -> Version:
    """Return the leading numbers of a version."""
    match = re.match(r"\d+(\.\d+)*", version)
    if not match:
        raise ConfigError(name, "a version such as 8.6.1", version)
    return tuple(int(v) for v in match[0].split("."))


def _squeeze(name: str) -> str:
    return re.sub(r"[\s-]", "", name)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _tensorrt() -> str | None:
    found = next((v for v in map(_version, TENSORRT_PACKAGES) if v), None)
    return found or (import_module("tensorrt").__version__ if util.find_spec("tensorrt") else None)


def _driver(text: str) -> str | None:
    match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return match[1] if match else None
