"""``dsmoe-yolo edge``: lint an exported file for TensorRT 8.6, check a machine before anything is trained.

Errors are raised as `ConfigError`; the calling script prints them as one line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ultra_dsmoe.edge import preflight
from ultra_dsmoe.edge.preflight import Plan, Report, Verdict
from ultra_dsmoe.edge.recipes import MODE, OPSET, PRECISIONS, Recipe
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.nn.neck.sparse_moe import MODES

SOFTWARE = ("python", "torch", "tensorrt", "driver")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dsmoe-yolo edge ...``.

    Args:
        argv: Arguments after ``edge``; those of the process if left out.

    Returns:
        The exit code: 1 if the file has a fault, or the machine or plan cannot work.

    Raises:
        ConfigError: If the command cannot be carried out.
    """
    args = _parser().parse_args(argv)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    """Build the parser of the commands."""
    parser = argparse.ArgumentParser(prog="dsmoe-yolo edge", description="Deployment on NVIDIA boxes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("lint", help="say what TensorRT 8.6 would refuse or misread in an ONNX file")
    command.add_argument("file", metavar="FILE.onnx")
    command.add_argument("--dynamic", action="store_true", help="inputs with axes of open size are meant")
    command.set_defaults(run=_lint)

    command = commands.add_parser("check", help="print the recipe of a card and refuse what cannot work on it")
    card = command.add_mutually_exclusive_group()
    card.add_argument("--gpu", metavar="NAME", help='card of the box, such as "GTX 1080"; this machine\'s if left out')
    card.add_argument("--sm", metavar="6.1", help="the same by its compute capability")
    for name in SOFTWARE:
        command.add_argument(f"--{name}", metavar="VERSION", help=f"{name} of the box, to be checked too")
    command.add_argument("--precision", choices=PRECISIONS, default="fp32", help="%(default)s")
    command.add_argument("--opset", type=int, default=OPSET, help="%(default)s")
    command.add_argument("--mode", choices=MODES, default=MODE, help="dsmoe_moe of the export (%(default)s)")
    command.set_defaults(run=_check)
    return parser


def _lint(args: argparse.Namespace) -> int:
    """Print one line per finding."""
    try:
        from ultra_dsmoe.edge.lint import lint, load, opset
    except ModuleNotFoundError as e:
        raise ConfigError("onnx", "the package: pip install 'ultra-dsmoe[edge]'", "none") from e
    model = load(args.file)
    findings = lint(model, dynamic=args.dynamic)
    for finding in findings:
        print(finding)
    faults = sum(f.is_fault for f in findings)
    counted = f"{faults} fault{'s' * (faults != 1)}" if faults else "no fault"
    name = Path(args.file).name
    print(f"{name}: {len(model.graph.node)} nodes, opset {opset(model)}: {counted} for TensorRT 8.6")
    return int(faults > 0)


def _check(args: argparse.Namespace) -> int:
    """Print the recipe, then what speaks against it."""
    report = _report(args)
    verdict = preflight.check(report, Plan(args.precision, args.opset, args.mode))
    for line in _lines(report, verdict):
        print(line)
    return int(bool(verdict.refusals))


def _report(args: argparse.Namespace) -> Report:
    """Return the report of the box that the options describe, of this machine where they name no card."""
    given = {name: value for name in SOFTWARE if (value := getattr(args, name)) is not None}
    if args.gpu or args.sm:
        sm = preflight.read_sm(args.sm) if args.sm else preflight.find_card(args.gpu)
        return Report(gpu=args.gpu, sm=sm, **given)
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
        yield "an engine is built on the box that runs it: dsmoe-yolo edge check --gpu NAME prints the recipe of a box"
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
