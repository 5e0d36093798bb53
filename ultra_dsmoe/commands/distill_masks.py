"""``dsmoe-yolo distill-masks``."""

from __future__ import annotations

from pathlib import Path

from ultra_dsmoe.commands.arguments import CHECKPOINT, evaluation_options
from ultra_dsmoe.commands.opening import output_folder, print_notes
from ultra_dsmoe.distill.config import TEMPERATURE
from ultra_dsmoe.evaluate.evaluation import checked_device, quiet
from ultra_dsmoe.explain.distill_masks import IMAGES, dataset, level_masks, nesting_ratio
from ultra_dsmoe.explain.plots.distill_masks import draw
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, whole
from ultra_dsmoe.train.teacher import load_teacher


def run(options: Given) -> int:
    """Draw the masks of the images that show them best."""
    path, temperature = Path(options["model"]), options.get("temperature", TEMPERATURE)
    device = checked_device(options.get("device", "cpu"))
    with quiet():
        teacher = load_teacher(path, "model")
    folder = output_folder(path, options.get("out"), "distill_masks")
    images = dataset(options, teacher)
    teacher.to(device)
    order = sorted(range(len(images)), key=lambda i: -nesting_ratio(images.labels[i]["bboxes"]))
    written: dict[str, bytes] = {}
    for i in order[: options.get("images", IMAGES)]:
        item = images[i]
        image, boxes = item["img"].to(device).float() / 255, item["bboxes"].to(device)
        levels = level_masks(teacher, image, boxes, temperature)
        name = Path(item["im_file"]).stem
        title = f"What {path.name} makes its student look at: {Path(item['im_file']).name}, T = {temperature:g}"
        written[f"distill_masks_{name}.png"] = draw(item["img"].permute(1, 2, 0).numpy(), boxes.cpu(), levels, title)
    print_notes([], write_files(folder, written))
    return 0


_COMMON = evaluation_options("distill_masks")
COMMAND = Command(
    "distill-masks",
    """Draws, for every level of a teacher, what its student is told to look at: the scale mask that comes from the
boxes and the attention mask that comes from the teacher. Any detector can be the teacher. Images in which a small box
lies in a large one come first. Writes distill_masks_<image>.png.""",
    {
        "model": Option(_COMMON["model"].check, "the teacher's checkpoint"),
        "data": Option(_COMMON["data"].check, "data YAML"),
        "imgsz": Option(_COMMON["imgsz"].check, "image size, rounded up to what the teacher takes", "640"),
        "split": _COMMON["split"],
        "images": Option(whole(1, 50), "how many", str(IMAGES)),
        "temperature": Option(whole(1, 1000), "T of the attention", f"{TEMPERATURE:g}"),
        "device": Option(_COMMON["device"].check, "cpu, 0, ...", "cpu"),
        "out": _COMMON["out"],
    },
    run,
    CHECKPOINT,
)
