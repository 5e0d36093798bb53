"""``dsmoe-yolo data sizes``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ultra_dsmoe.commands.arguments import DATA
from ultra_dsmoe.commands.opening import output_file, print_notes
from ultra_dsmoe.constants import MAX_SEED, MIN_PIXELS
from ultra_dsmoe.data import box_sizes as sizes
from ultra_dsmoe.data.box_sizes import Advice, Boxes, Clusters
from ultra_dsmoe.evaluate.text_table import align_columns
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, text, whole

PICTURE = "box-sizes.png"


def run(options: Given) -> int:
    """Print what the sizes ask for, and draw them."""
    out = output_file(options.get("out", PICTURE), (".png",))
    boxes = sizes.read_boxes(options["data"], options.get("imgsz", sizes.IMGSZ))
    clusters = sizes.cluster(boxes.sizes, options.get("clusters"), options.get("seed", 0))
    from ultra_dsmoe.explain.plots.box_sizes import draw

    picture = draw(boxes, clusters, f"Box sizes of {Path(options['data']).name} at imgsz={boxes.imgsz}")
    for line in lines(boxes, clusters, sizes.advise(boxes)):
        print(line)
    write_files(out.absolute().parent, {out.name: picture})
    count = len(clusters.centres)
    fewer = "clusters" not in options and count < sizes.CLUSTERS
    print_notes([f"clusters: {count} instead of {sizes.CLUSTERS}, there are no more box sizes"] if fewer else [], [out])
    return 0


def lines(boxes: Boxes, clusters: Clusters, advice: Advice) -> Iterator[str]:
    """Yield what is printed."""
    split = ", ".join(f"{n} {name}" for name, n in boxes.per_split.items())
    native = np.median(boxes.longest)
    yield f"{len(boxes.sizes)} boxes ({split}) in {len(boxes.longest)} images, longer side {native:.0f} px (median)"
    pairs = zip(clusters.centres, clusters.shares, strict=True)
    rows = [[str(i), "", f"{w:.1f}", f"{h:.1f}", f"{100 * s:.1f} %", ""] for i, ((w, h), s) in enumerate(pairs, 1)]
    yield align_columns([["centre", "", "width", "height", "boxes", ""], *rows])
    for kind, levels in zip(("with P2", "without"), advice.levels, strict=True):
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in levels.items())
        yield f"levels {kind}: {shares} (by size: {sizes.CELLS} to {2 * sizes.CELLS} strides)"
    judged = "pays" if advice.p2 else "does not pay"
    yield (
        f"P2: {judged}; {100 * advice.tiny:.1f} % of the boxes are below {sizes.TINY} px at imgsz={boxes.imgsz}, limit "
        f"{100 * sizes.P2_PAYS:.0f} %" + (" (model=dsmoe-p2.yaml)" if advice.p2 else "")
    )
    yield _image_size(boxes, advice, native)
    quantile, most = advice.reach
    enough = "enough" if advice.reg_max <= sizes.REG_MAX else f"not enough, {advice.reg_max} would be"
    yield (
        f"reg_max: the heads' {sizes.REG_MAX} is {enough}; from centre to side it is {quantile:.1f} strides for "
        f"{100 * sizes.REACH_QUANTILE:.1f} % of the boxes, {most:.1f} at most"
    )


def _image_size(boxes: Boxes, advice: Advice, native: float) -> str:
    """Return the line about the image size."""
    plain, with_p2 = advice.imgsz
    small = f"{100 * sizes.SMALL_QUANTILE:.0f} % of the boxes are below {advice.small:.1f} px at {boxes.imgsz}"
    line = f"imgsz: at least {plain}, or {with_p2} with P2, to make that {sizes.TINY} px, or {sizes.TINY // 2}; {small}"
    return line + (f"; above the images' own {native:.0f} px no detail is gained" if plain > native else "")


COMMAND = Command(
    "data sizes",
    """Clusters the sizes of all labelled boxes after the resize to imgsz, and says on which levels they lie, whether
a P2 head pays, which image size brings the small ones to a fair size, and what reg_max the large ones need. Draws a
picture.""",
    {
        "data": Option(text, "data YAML"),
        "imgsz": Option(whole(MIN_PIXELS, 8192), "image size to look at", str(sizes.IMGSZ)),
        "clusters": Option(whole(1, 64), "centres of K-means", f"{sizes.CLUSTERS}, fewer if there are fewer sizes"),
        "seed": Option(whole(0, MAX_SEED), "of the first centres", "0"),
        "out": Option(text, "picture to write, a .png file", PICTURE),
    },
    run,
    DATA,
)
