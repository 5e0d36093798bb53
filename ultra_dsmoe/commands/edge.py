"""``dsmoe-yolo edge lint | check | build``: from an exported file to what an NVIDIA box runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ultra_dsmoe.constants import MODES
from ultra_dsmoe.edge import preflight
from ultra_dsmoe.edge.preflight import Plan, Report, Verdict
from ultra_dsmoe.edge.recipes import MODE, OPSET, PRECISIONS, Recipe
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.parsing import Command, Given, Option, one_of, text, whole, yes_no
from ultra_dsmoe.runtime.engine import BUILD as BUILD  # the box's own command, listed with these

SOFTWARE = ("python", "torch", "tensorrt", "driver")


def lint_file(options: Given) -> int:
    """Print one line per finding."""
    try:
        from ultra_dsmoe.edge.lint import lint, load, opset
    except ModuleNotFoundError as e:
        raise ConfigError("onnx", "the package: pip install 'ultra-dsmoe[edge]'", "none") from e
    model = load(options["file"])
    findings = lint(model, dynamic=options.get("dynamic", False))
    for finding in findings:
        print(finding)
    faults = sum(f.is_fault for f in findings)
    counted = f"{faults} fault{'s' * (faults != 1)}" if faults else "no fault"
    name = Path(options["file"]).name
    print(f"{name}: {len(model.graph.node)} nodes, opset {opset(model)}: {counted} for TensorRT 8.6")
    return int(faults > 0)


def check(options: Given) -> int:
    """Print the recipe, then what speaks against it."""
    report = _report(options)
    plan = Plan(options.get("precision", "fp32"), options.get("opset", OPSET), options.get("mode", MODE))
    verdict = preflight.check(report, plan)
    for line in _lines(report, verdict):
        print(line)
    return int(bool(verdict.refusals))


def _report(options: Given) -> Report:
    """Return the report of the box that the options describe, of this machine where they name no card.

    Raises:
        ConfigError: If they name it twice.
    """
    given = {name: options[name] for name in SOFTWARE if name in options}
    gpu, capability = options.get("gpu"), options.get("sm")
    if gpu and capability:
        raise ConfigError("sm", "either gpu= or sm=", f"gpu={gpu} sm={capability}")
    if gpu or capability:
        sm = preflight.read_sm(capability) if capability else preflight.find_card(str(gpu))
        return Report(gpu=gpu, sm=sm, **given)
    report = preflight.machine()
    if "torch" in given:  # what is known of the installed one no longer counts
        report = replace(report, cuda=None, arches=())
    return replace(report, **given)


def _lines(report: Report, verdict: Verdict) -> Iterator[str]:
    """Yield what is printed."""
    has = [f"{name} {value}" for name in (*SOFTWARE, "onnxruntime") if (value := getattr(report, name)) is not None]
    sm = "" if report.sm is None else f"SM {report.sm[0]}.{report.sm[1]}"
    yield ", ".join([report.gpu or (sm and "card") or "no NVIDIA GPU", *filter(None, [sm]), *has])
    if verdict.recipe is not None:
        yield from _recipe_lines(verdict.recipe)
    elif report.sm is None:
        yield "an engine is built on the box that runs it: dsmoe-yolo edge check gpu=NAME prints the recipe of a box"
        yield f"here: yolo export format=onnx opset={OPSET}, run by ONNX Runtime; or format=openvino"
    yield from (f"caution: {line}" for line in verdict.cautions)
    yield from (f"refused: {line}" for line in verdict.refusals)
    if verdict.recipe is not None and not verdict.refusals:
        yield "nothing speaks against it"


def _recipe_lines(recipe: Recipe) -> Iterator[str]:
    """Yield the rows of a recipe and the commands."""
    yield f"recipe for {recipe.family}, from documentation, not from a run on such a card:"
    for name, part in {**recipe.parts, "precision": recipe.numbers}.items():
        yield f"  {name:<10} {part.take}{part.why and f'; {part.why}'}  [{part.source}]"
    yield "install on the box:"
    yield from (f"  {line}" for line in recipe.install)
    yield "export and lint on any machine, build on the box:"
    yield f"  yolo export model=best.pt data=DATA.yaml format=onnx opset={OPSET} dsmoe_moe={MODE}"
    yield "  dsmoe-yolo edge lint best.onnx"
    yield "  python -m ultra_dsmoe.runtime.engine best.onnx"


LINT = Command(
    "edge lint",
    "Says what TensorRT 8.6 would refuse or misread in an ONNX file; exit code 1 if there is a fault.",
    {
        "file": Option(text, "ONNX file"),
        "dynamic": Option(yes_no, "whether inputs with axes of open size are meant", "False", flag=True),
    },
    lint_file,
    {"file": "an ONNX file as first argument, such as best.onnx"},
)
CHECK = Command(
    "edge check",
    "Prints the recipe of a card and refuses what cannot work on it; exit code 1 if machine or plan cannot work.",
    {
        "gpu": Option(text, 'card of the box, such as gpu="GTX 1080"', "this machine's"),
        "sm": Option(text, "the same by its compute capability, such as 6.1", "that of gpu"),
        **{name: Option(text, f"version of {name} on the box, to be checked too", "not checked") for name in SOFTWARE},
        "precision": Option(one_of(PRECISIONS), "|".join(PRECISIONS), "fp32"),
        "opset": Option(whole(1), "of the export", str(OPSET)),
        "mode": Option(one_of(MODES), "dsmoe_moe of the export", MODE),
    },
    check,
)
