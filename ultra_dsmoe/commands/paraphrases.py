"""``dsmoe-yolo text paraphrases``."""

from __future__ import annotations

from ultra_dsmoe.commands.arguments import CHECKPOINT, evaluation_options
from ultra_dsmoe.commands.opening import opened, print_notes, progress
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.paired_bootstrap import BOOT
from ultra_dsmoe.evaluate.text_table import align_columns
from ultra_dsmoe.explain import paraphrases
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, text, whole


def several_files(key: str, value: str) -> list[str]:
    """Check names of files, separated by commas; gives them without repeats."""
    return list(dict.fromkeys(text(key, name.strip()) for name in value.split(",")))


def run(options: Given) -> int:
    """Evaluate under each wording, print the table, write it as ``paraphrases.csv``."""
    evaluation, folder = opened(options, "paraphrases")
    if "prompts" not in options:
        raise ConfigError("prompts", "YAML files of other wordings, separated by commas", "none")
    trained = paraphrases.trained_bank(evaluation)
    report = paraphrases.evaluate(
        evaluation,
        {path: paraphrases.reword(trained, path) for path in options["prompts"]},
        trained,
        boot=options.get("boot", BOOT),
        seed=options.get("seed", 0),
        progress=progress("wording"),
    )
    files = write_files(folder, {"paraphrases.csv": paraphrases.as_csv(report).encode()})
    print(align_columns(paraphrases.cells(report)))
    print_notes(report.notes, files)
    return 0


COMMAND = Command(
    "text paraphrases",
    """Evaluates a DS-MoE checkpoint with the wording it was trained on and with each of the given ones; prints a table
and writes paraphrases.csv. A class that a file leaves out keeps its wording.""",
    {
        **evaluation_options("paraphrases"),
        "prompts": Option(several_files, "YAML files {class: [texts]}, separated by commas"),
        "boot": Option(whole(100, 100_000), "bootstrap resamples", str(BOOT)),
    },
    run,
    CHECKPOINT,
)
