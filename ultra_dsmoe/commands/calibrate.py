"""``dsmoe-yolo calibrate``."""

from __future__ import annotations

from ultra_dsmoe.commands.arguments import CHECKPOINT, evaluation_options
from ultra_dsmoe.commands.opening import output_file, print_notes, progress
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.paired_bootstrap import BOOT, HEAD, base_cells
from ultra_dsmoe.evaluate.text_table import align_columns
from ultra_dsmoe.explain import sharpness
from ultra_dsmoe.explain.paraphrases import sentence
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, text, whole


def run(options: Given) -> int:
    """Fit, print what it is worth, write the checkpoint."""
    evaluation = Evaluation(options)
    path = evaluation.path
    out = output_file(options.get("out", str(path.with_stem(f"{path.stem}-calibrated"))), (".pt",))
    if out.resolve() == path.resolve():
        raise ConfigError("out", "another file than the checkpoint that is read", str(out))
    found = sharpness.calibrate(
        evaluation, options.get("boot", BOOT), options.get("seed", 0), progress=progress("sharpness")
    )
    print(align_columns(sharpness.cells(found)))
    readings = [sentence(change, *ends) for change, ends in zip(found.effect.change, found.effect.ranges, strict=True)]
    trained = ["as trained", "", *base_cells(found.base), ""]
    fitted = [f"x {found.factor:.2f}", "", *found.effect.cells(), f"mAP50 {readings[0]}, mAP50-95 {readings[1]}"]
    print(f"\non the other half:\n{align_columns([['sharpness', '', *HEAD, ''], trained, fitted])}")
    if found.factor == 1:
        readings = ["the trained sharpness is the best: the file written is as it was"]
    else:
        readings = [f"temperature of the gate: {', '.join(f'{tau:.4f}' for tau in found.taus)}"]
    files = write_files(out.parent, {out.name: sharpness.checkpoint_with(path, found.taus)})
    print_notes([*found.notes, *readings], files)
    return 0


COMMAND = Command(
    "calibrate",
    """Fits how sharply the gate of a DS-MoE checkpoint weighs its experts: one half of the validation images chooses
the sharpness with the highest mAP50-95, the other half says what it is worth. The same experts are chosen, only their
weights change. Writes a checkpoint with it.""",
    {
        **evaluation_options("calibrate"),
        "boot": Option(whole(100, 100_000), "bootstrap resamples", str(BOOT)),
        "out": Option(text, "checkpoint to write", "the model's name with -calibrated"),
    },
    run,
    CHECKPOINT,
)
