"""``dsmoe-yolo pictures``."""

from __future__ import annotations

from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.commands import pair_pictures
from ultra_dsmoe.commands.arguments import CHECKPOINT, evaluation_options
from ultra_dsmoe.commands.opening import opened, print_notes
from ultra_dsmoe.commands.routing import SHUFFLES_OPTION
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.evaluate.class_evaluation import open_checkpoint
from ultra_dsmoe.evaluate.evaluation import quiet
from ultra_dsmoe.explain.attention import IMAGES, attention_files
from ultra_dsmoe.explain.bands import band_files
from ultra_dsmoe.explain.pictures import disk_files, gate_files
from ultra_dsmoe.explain.poincare_anchors import read_taxonomy
from ultra_dsmoe.explain.routing_map import SHUFFLES
from ultra_dsmoe.files import write_files
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.parsing import Command, Given, Option, text, whole

SHOWN = "experts, hyperbolic distances, attention or bands"


def run(options: Given) -> int:
    """Draw all that a checkpoint can show in one pass over a split."""
    if options["model"].endswith(".pt") and isinstance((yolo := open_checkpoint(options["model"])).model, PairModel):
        return pair_pictures.run(yolo, options)
    if "before" in options:
        raise ConfigError("before", "this key with a classifier that texts teach", options["before"])
    evaluation, folder = opened(options, "pictures", SHOWN)
    with quiet():
        content = check_det_dataset(evaluation.args["data"])
    taxonomy = read_taxonomy(content)
    shuffles, seed = options.get("shuffles", SHUFFLES), options.get("seed", 0)
    parts = [
        *gate_files(evaluation, content, shuffles, seed),
        disk_files(evaluation, taxonomy, seed),
        attention_files(evaluation, options.get("images", IMAGES)),
        band_files(evaluation, options.get("images", IMAGES)),
    ]
    written = {name: made for files, _ in parts for name, made in files.items()}
    if not written:
        raise ConfigError("model", f"a network with {SHOWN}", str(evaluation.path))
    print_notes([note for _, notes in parts for note in notes], write_files(folder, written))
    return 0


COMMAND = Command(
    "pictures",
    """Draws what a checkpoint with layers of ours does on a data set: routing_map.png (defect classes against experts,
as 'dsmoe-yolo routing' does), routing_sizes.png (defect sizes against experts) poincare_disk.png (class anchors and
taxonomy), attention_<image>.png (what neck and class branches weigh where) and bands_<image>.png (low and high band of
a frequency enhancement, with its gates), with their numbers as CSV beside them. What the net has not is left out: of a
T- or S-model the attention is drawn, of a GASNet-style one the bands. Of a classifier that texts teach:
pair_vectors.png (pictures and texts before and after), pair_weights.png (how both are weighed) and pairs.png; data is
then the folder of the set.""",
    {
        **evaluation_options("pictures"),
        "shuffles": SHUFFLES_OPTION,
        "before": Option(text, "checkpoint of a classifier before its alignment", "an untrained net"),
        "images": Option(whole(1, 50), "how many attention and bands are drawn on, by classes in turn", str(IMAGES)),
    },
    run,
    CHECKPOINT,
)
