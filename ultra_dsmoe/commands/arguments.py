"""Keys that several commands share."""

from __future__ import annotations

from ultra_dsmoe.constants import MAX_SEED, MIN_PIXELS, SPLITS
from ultra_dsmoe.parsing import Option, one_of, text, whole

CHECKPOINT = {"model": "a DS-MoE checkpoint as first argument, such as best.pt"}
DATA = {"data": "a data YAML as first argument, such as neu-det.yaml"}


def evaluation_options(folder: str) -> dict[str, Option]:
    """Return the keys of a command that looks at a checkpoint on a split of its data; results go to ``folder``."""
    return {
        "model": Option(text, "checkpoint, such as best.pt"),
        "data": Option(text, "data YAML", "the one the checkpoint was trained on"),
        "imgsz": Option(whole(MIN_PIXELS), "image size in pixels", "as trained"),
        "batch": Option(whole(1), "images per batch", "16"),
        "split": Option(one_of(SPLITS), "|".join(SPLITS), "val"),
        "device": Option(text, "cpu, 0, ...", "the first GPU, or cpu"),
        "dsmoe_reference": Option(text, "known-good pictures of a net that compares", "`reference:` of the data YAML"),
        "seed": Option(whole(0, MAX_SEED), "of whatever is drawn at random", "0"),
        "out": Option(text, "folder of the results", f"{folder}/ in the checkpoint's run folder"),
    }
