"""``dsmoe-yolo knockout``."""

from __future__ import annotations

from ultra_dsmoe.commands.arguments import CHECKPOINT, evaluation_options
from ultra_dsmoe.commands.opening import output_folder, print_notes, progress
from ultra_dsmoe.evaluate.class_evaluation import evaluation_of
from ultra_dsmoe.evaluate.paired_bootstrap import BOOT
from ultra_dsmoe.evaluate.text_table import align_columns
from ultra_dsmoe.explain import knockout
from ultra_dsmoe.explain.catalogue import catalogue
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, several_of, text, whole


def run(options: Given) -> int:
    """Evaluate, print the table, write it as ``knockout.csv`` and ``knockout.md``."""
    evaluation = evaluation_of(options)
    folder = output_folder(evaluation.path, options.get("out"), "knockout")
    report = knockout.evaluate(
        evaluation,
        only=options.get("only"),
        boot=options.get("boot", BOOT),
        seed=options.get("seed", 0),
        progress=progress("knock-out"),
    )
    page = knockout.markdown(report, options.line)
    files = write_files(folder, {"knockout.csv": knockout.as_csv(report).encode(), "knockout.md": page.encode()})
    print(align_columns(knockout.cells(report)))
    print_notes(report.notes, files)
    return 0


COMMAND = Command(
    "knockout",
    """Evaluates a checkpoint with layers of ours, of a detector or of a classifier that reads texts, with one thing
switched off at a time; prints a table and writes knockout.csv and knockout.md.""",
    {
        **evaluation_options("knockout"),
        "data": Option(
            text, "data YAML, or the folder of a classification set", "the one the checkpoint was trained on"
        ),
        "boot": Option(whole(100, 100_000), "bootstrap resamples", str(BOOT)),
        "only": Option(several_of(catalogue()), f"names, separated by commas: {', '.join(catalogue())}", "all"),
    },
    run,
    CHECKPOINT,
)
