"""``dsmoe-yolo reference preview``."""

from __future__ import annotations

from pathlib import Path

from ultra_dsmoe.commands.arguments import DATA
from ultra_dsmoe.commands.opening import output_file, print_notes
from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data.labelled import class_names, read_set
from ultra_dsmoe.data.reference.choice import KEY, SECTION, chosen
from ultra_dsmoe.data.reference.spec import ALIGN
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.explain.reference_pairs import SHOWN, notes, pairs_of
from ultra_dsmoe.files import write_files
from ultra_dsmoe.parsing import Command, Given, Option, one_of, text, whole

PICTURE = "reference-pairs.png"
TRIED = "affine"  # shown where a data set lays nothing


def preview(options: Given) -> int:
    """Draw pairs of a data set and say what is wrong with them."""
    out, split = output_file(options.get("out", PICTURE), (".png",)), options.get("split", "train")
    content = read_set(options["data"])
    spec = chosen(content, Path(content["path"]), options.get(KEY))
    if spec is None:
        given = f"{options['data']} without" if KEY not in options else f"{KEY}={options[KEY]}"
        raise ConfigError(SECTION, f"{SECTION}: in the data YAML, or {KEY}=", given)
    align = options.get("align", spec.align if spec.align != ALIGN[0] else TRIED)
    pairs = pairs_of(content, split, spec, align, options.get("pairs", SHOWN))
    from ultra_dsmoe.explain.plots.reference_pairs import draw

    title = f"{Path(options['data']).name}, {split}: images and their references"
    picture = draw(pairs, class_names(content), align, title)
    print_notes(notes(pairs), write_files(out.absolute().parent, {out.name: picture}))
    return 0


PREVIEW = Command(
    "reference preview",
    """Draws images of a data set beside their known-good references: labels, the reference as it is and as it is laid
on the image, and what differs in both cases, with mismatch (0 same product, 1 another one) and quality of the
registration. A look at it tells whether 'reference:' in the data YAML means what it should.""",
    {
        "data": Option(text, "data YAML"),
        "split": Option(one_of(SPLITS), "|".join(SPLITS), "train"),
        "pairs": Option(whole(1, SHOWN), "how many, spread over the split", str(SHOWN)),
        "align": Option(one_of(ALIGN), "|".join(ALIGN), f"that of the data YAML, or {TRIED} where that is none"),
        KEY: Option(text, "folder, CSV, picture or {pattern: ..., file: ...}", "'reference:' of the data YAML"),
        "out": Option(text, "picture to write, a .png file", PICTURE),
    },
    preview,
    DATA,
)
