"""Preflight on simulated machines: each recipe accepts what its family runs and refuses what it cannot."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from ultra_dsmoe.edge import preflight
from ultra_dsmoe.edge.preflight import Plan, Report, check, find_card, machine, read_sm
from ultra_dsmoe.edge.recipes import CARDS, RECIPES, WITHOUT, Range
from ultra_dsmoe.errors import ConfigError

PASCAL = Report(
    gpu="NVIDIA GeForce GTX 1080",
    sm=(6, 1),
    driver="535.183.01",
    python="3.10.14",
    torch="2.3.1+cu121",
    cuda="12.1",
    arches=("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    tensorrt="8.6.1.post1",
    onnxruntime="1.19.2",
    numpy="1.26.4",
)
TURING = replace(PASCAL, gpu="Tesla T4", sm=(7, 5), tensorrt="10.3.0", torch="2.9.0+cu128", driver="580.10")
BLACKWELL = Report(gpu="RTX 5090", sm=(12, 0), python="3.13.1", torch="2.9.0+cu128", tensorrt="10.9.0", driver="590.1")
VOLTA = Report(sm=(7, 0), python="3.12.1", torch="2.7.0+cu126", tensorrt="10.4.0", driver="550.90")


@pytest.mark.parametrize(
    ("report", "family"),
    [
        (PASCAL, "Pascal"),
        (replace(PASCAL, sm=(6, 0)), "Pascal"),
        (VOLTA, "Volta"),
        (TURING, "Turing, Ampere, Ada or Hopper"),
        (replace(TURING, sm=(8, 9)), "Turing, Ampere, Ada or Hopper"),
        (BLACKWELL, "Blackwell"),
    ],
)
def test_sound_machines_pass(report: Report, family: str) -> None:
    verdict = check(report)
    assert verdict.recipe is not None
    assert verdict.recipe.family == family
    assert verdict.refusals == ()
    assert verdict.cautions == ()


# change of a sound machine or plan -> what the refusal begins with
BROKEN: dict[str, tuple[Report, Plan, str]] = {
    "python without bindings": (
        replace(PASCAL, python="3.12.4"),
        Plan(),
        "python: expected 3.10 or 3.11, got 3.12.4 [tensorrt-bindings",
    ),
    "python too old": (replace(TURING, python="3.9.18"), Plan(), "python: expected 3.10 or newer, got 3.9.18"),
    "tensorrt 10": (replace(PASCAL, tensorrt="10.0.1"), Plan(), "tensorrt: expected 8.6.1, got 10.0.1; the last"),
    "tensorrt 11": (replace(PASCAL, tensorrt="11.4.0"), Plan(), "tensorrt: expected 8.6.1, got 11.4.0"),
    "tensorrt 9": (replace(PASCAL, tensorrt="9.1.0"), Plan(), "tensorrt: expected 8.6.1, got 9.1.0"),
    "tensorrt behind Volta": (replace(VOLTA, tensorrt="10.5.0"), Plan(), "tensorrt: expected 10.4, got 10.5.0"),
    "the host's exclusion": (replace(TURING, tensorrt="10.2.0"), Plan(), "tensorrt: expected 10.x but 10.2.0"),
    "tensorrt before Blackwell": (replace(BLACKWELL, tensorrt="10.7.0"), Plan(), "tensorrt: expected 10.8 or newer"),
    "driver behind Pascal": (replace(PASCAL, driver="590.44"), Plan(), "driver: expected 525 to 580, got 590.44"),
    "driver before CUDA 12": (replace(PASCAL, driver="470.199"), Plan(), "driver: expected 525 to 580, got 470.199"),
    "torch without the card": (
        replace(PASCAL, arches=("sm_75", "sm_80", "sm_90", "compute_90")),
        Plan(),
        "torch: expected a build for SM 6.1, got one for sm_75, sm_80, sm_90, compute_90",
    ),
    "PyPI's torch 2.8": (
        replace(PASCAL, torch="2.8.0", cuda=None, arches=()),
        Plan(),
        "torch: expected 2.3.1 with torchvision 0.18.1, got 2.8.0; CUDA 12.1",
    ),
    "torch 2.15": (replace(PASCAL, torch="2.15.0+cu126", arches=()), Plan(), "torch: expected 2.3.1"),
    "half precision": (PASCAL, Plan(precision="fp16"), "precision: expected fp32 or int8, got fp16; half precision"),
    "int8 without dot product": (
        replace(PASCAL, sm=(6, 0)),
        Plan(precision="int8"),
        "precision: expected fp32 or fp16, got int8; the card has no 8-bit dot product",
    ),
    "opset 18": (PASCAL, Plan(opset=18), "opset: expected 17, got 18; 18 is read without complaint"),
    "opset 8": (PASCAL, Plan(opset=8), "opset: expected 17, got 8"),
    "opset 20": (TURING, Plan(opset=20), "opset: expected 17, got 20; GridSample of opset 20 is wrong"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_work_is_refused_alone_with_its_source(name: str) -> None:
    report, plan, begins = BROKEN[name]
    (refusal,) = check(report, plan).refusals
    assert refusal.startswith(begins)
    assert "\n" not in refusal
    assert "compute_" in refusal or refusal.endswith("]"), "no source"


@pytest.mark.parametrize(
    ("report", "plan"),
    [
        (PASCAL, Plan(precision="int8")),
        (replace(PASCAL, sm=(6, 0)), Plan(precision="fp16")),
        (replace(PASCAL, torch="2.7.1", cuda=None, arches=()), Plan()),
        (replace(PASCAL, torch="2.9.0+cu126", cuda=None, arches=()), Plan()),
        (replace(PASCAL, torch="2.9.0", cuda="12.6", arches=()), Plan()),
        (replace(PASCAL, torch="2.15.0", arches=("compute_50",)), Plan()),  # its own word counts
        (TURING, Plan(opset=18)),
        (replace(TURING, tensorrt="8.6.1"), Plan(precision="fp16")),
        (VOLTA, Plan(precision="int8", mode="dense")),
    ],
)
def test_neighbours_of_what_is_refused_pass(report: Report, plan: Plan) -> None:
    assert check(report, plan).refusals == ()


def test_every_fault_of_a_machine_is_listed() -> None:
    bad = Report(sm=(6, 1), python="3.13", torch="2.15.0", tensorrt="10.9.0", driver="590")
    refusals = check(bad, Plan("fp16", 18)).refusals
    named = ["python", "torch", "tensorrt", "driver", "precision", "opset"]
    assert [line.partition(":")[0] for line in refusals] == named


def test_what_is_unknown_is_not_refused() -> None:
    assert check(Report(sm=(6, 1))).refusals == ()


@pytest.mark.parametrize(
    ("report", "plan", "says"),
    [
        (replace(PASCAL, torch="2.5.1+cu121"), Plan(), "cuDNN 9 beside TensorRT's cuDNN 8"),
        (replace(PASCAL, autoinstall=True), Plan(), "YOLO_AUTOINSTALL=false is not set"),
        (replace(PASCAL, onnxruntime="1.18.0", numpy="2.2.0"), Plan(), "onnxruntime 1.18.0 does not import"),
        (PASCAL, Plan(precision="int8", mode="gather"), "the experts stay fp32"),
    ],
)
def test_cautions(report: Report, plan: Plan, says: str) -> None:
    verdict = check(report, plan)
    assert verdict.refusals == ()
    (caution,) = verdict.cautions
    assert says in caution


@pytest.mark.parametrize(
    ("sm", "says"),
    [
        ((5, 2), "SM 5.2: no recipe: TensorRT 8.6 no longer builds for it"),
        ((6, 2), "SM 6.2: no recipe: TensorRT comes with JetPack"),
        ((8, 7), "SM 8.7: no recipe: TensorRT comes with JetPack"),
        ((13, 0), "SM 13.0: no recipe yet"),
    ],
)
def test_cards_without_a_recipe(sm: tuple[int, int], says: str) -> None:
    verdict = check(Report(sm=sm))
    assert verdict.recipe is None
    (refusal,) = verdict.refusals
    assert refusal.startswith(says)


def test_no_gpu() -> None:
    assert check(Report(python="3.11.7", torch="2.15.0+cpu")).refusals == ()
    (refusal,) = check(Report(torch="2.3.1+cpu", driver="535.1")).refusals
    assert refusal == "torch: expected a build that sees the GPU of driver 535.1, got 2.3.1+cpu"


def test_wrong_plans_are_user_errors() -> None:
    with pytest.raises(ConfigError, match="precision: expected one of fp32, fp16, int8, got half"):
        check(PASCAL, Plan(precision="half"))
    with pytest.raises(ConfigError, match="mode: expected one of gather"):
        check(PASCAL, Plan(mode="sparse"))
    with pytest.raises(ConfigError, match=r"tensorrt: expected a version such as 8\.6\.1, got new"):
        check(replace(PASCAL, tensorrt="new"))


@pytest.mark.parametrize(
    ("name", "sm"),
    [
        ("GTX 1080", (6, 1)),
        ("gtx1080", (6, 1)),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1)),
        ("GTX 1080 with Max-Q Design", (6, 1)),
        ("GeForce GTX 1060 6GB", (6, 1)),
        ("Tesla P100-PCIE-16GB", (6, 0)),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", (8, 9)),
        ("NVIDIA A100-SXM4-80GB", (8, 0)),
        ("Jetson Nano", (5, 3)),
    ],
)
def test_names_of_cards(name: str, sm: tuple[int, int]) -> None:
    assert find_card(name) == sm


def test_unknown_cards_and_capabilities() -> None:
    with pytest.raises(ConfigError, match=r"gpu: .*\(did you mean 'gtx 1080'\?\).* got GTX 1081"):
        find_card("GTX 1081")
    with pytest.raises(ConfigError, match="gpu: expected a card of the table, or its compute capability"):
        find_card("Radeon VII")
    assert read_sm("6.1") == (6, 1)
    assert read_sm("12.0") == (12, 0)
    for wrong in ("6", "sm_61", "6.1.2", "six"):
        with pytest.raises(ConfigError, match=r"sm: expected a compute capability such as 6\.1"):
            read_sm(wrong)


def test_every_card_of_the_table_gets_a_recipe_or_a_reason() -> None:
    for name, sm in CARDS.items():
        verdict = check(Report(sm=sm))
        assert (verdict.recipe is None) == bool(verdict.refusals), name
        assert "no recipe yet" not in str(verdict.refusals), name


def test_every_row_has_a_source_and_recipes_do_not_overlap() -> None:
    for recipe in RECIPES:
        rows = (*recipe.parts.values(), recipe.numbers)
        assert all(row.take and row.source for row in rows)
        assert {"python", "torch", "tensorrt", "driver", "opset", "mode"} <= set(recipe.parts)
        assert recipe.opsets[0] <= 17 <= recipe.opsets[1]
        assert "fp32" in recipe.precisions
    spans = sorted(r.sm for r in RECIPES)
    assert all(first[1] < second[0] for first, second in pairwise(spans))
    assert not [sm for sm in WITHOUT if any(r.sm[0] == sm == r.sm[1] for r in RECIPES)]


def test_ranges() -> None:
    allowed = Range((8, 6), (8, 7))
    assert [allowed.holds(v) for v in ((8, 5, 3), (8, 6), (8, 6, 1), (8, 7), (10, 0))] == [0, 1, 1, 0, 0]
    assert Range((2, 8), cuda="12.6").holds((2, 9), "12.6")
    assert not Range((2, 8), cuda="12.6").holds((2, 9), None)


# this machine ---------------------------------------------------------------------------------------------------------


def test_this_machine_is_read_without_importing_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(preflight, "_version", {"tensorrt-cu12": "10.1.0", "numpy": "2.0.0"}.get)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import would raise
    report = machine()
    assert (report.tensorrt, report.numpy, report.onnxruntime) == ("10.1.0", "2.0.0", None)
    assert report.torch == torch.__version__
    assert report.python == ".".join(map(str, sys.version_info[:3]))
    assert (report.sm is None) == (report.gpu is None) == (not torch.cuda.is_available())


def test_a_gpu_is_read_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _i: "NVIDIA GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _i: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_60", "sm_70"])
    report = machine()
    assert (report.gpu, report.sm, report.arches) == ("NVIDIA GeForce GTX 1080", (6, 1), ("sm_60", "sm_70"))


def test_tensorrt_without_package_metadata_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_version", lambda _name: None)
    monkeypatch.setattr(preflight.util, "find_spec", lambda _name: None)
    assert machine().tensorrt is None
    monkeypatch.setattr(preflight.util, "find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    assert machine().tensorrt == "8.6.1"


def test_driver_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version"
    monkeypatch.setattr(preflight, "DRIVER_FILE", file)
    assert machine().driver is None
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC 12.3"
    )
    assert machine().driver == "535.183.01"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs)\nGCC version: 13.3.0"
    )
    assert machine().driver == "580.65.06"
    file.write_text("nothing of the kind")
    assert machine().driver is None
