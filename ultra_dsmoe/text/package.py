"""Make the text vectors that are shipped beside the packaged data YAMLs.

    python -m ultra_dsmoe.text.package datasets/*.yaml encoder=auto

Our choice: float32, one file per data YAML, so that ``dsmoe_text=auto`` finds on a machine without any model the same
vectors as the machine that made them. A file holds the vectors, the prompts and the encoder's id, nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ultra_dsmoe.causes import one_line_errors
from ultra_dsmoe.errors import TextError
from ultra_dsmoe.parsing import Command, Given, Option, text, yes_no
from ultra_dsmoe.text import cache
from ultra_dsmoe.text.bank import pool_prompts
from ultra_dsmoe.text.encoders import HashEncoder, TextEncoder, make_encoder
from ultra_dsmoe.text.prompts import class_prompts, read_data
from ultra_dsmoe.text.taxonomy import Taxonomy


def package_vectors(yamls: Sequence[Path], encoder: TextEncoder, folder: Path, *, prune: bool = False) -> list[Path]:
    """Encode the prompts of data YAMLs into ``folder``; all are read before anything is written.

    Args:
        yamls: Data YAMLs with ``names`` and optionally ``prompts`` and ``taxonomy``, which is checked on the way.
        encoder: The encoder; the hash encoder is refused, it needs no shipped vectors.
        folder: Where to write.
        prune: Remove the folder's vectors of all other prompts and encoders.

    Returns:
        The file of each data YAML.

    Raises:
        DataError: If a YAML cannot be read or has no names.
        TextError: If its text sections are wrong, or the encoder is the hash encoder.
    """
    if isinstance(encoder, HashEncoder):
        raise TextError("encoder", "a language model (hash vectors need no file)", encoder.id)
    sections = [read_data(path) for path in yamls]
    prompts = [class_prompts(data["names"], data.get("prompts")) for data in sections]
    for data in sections:
        Taxonomy.parse(data["names"], data.get("taxonomy"))
    files = [cache.save(folder, texts, encoder.id, pool_prompts(encoder, texts)) for texts in prompts]
    for stale in set(folder.glob("*.npz")) - set(files) if prune else ():
        stale.unlink()
    return files


def run(given: Given) -> int:
    """Write the vectors and say where they are."""
    yamls = [Path(name) for name in given["data"]]
    folder = Path(given["out"]) if "out" in given else yamls[0].parent / "vectors"
    encoder = make_encoder(given.get("encoder", "auto"))
    files = package_vectors(yamls, encoder, folder, prune=given.get("prune", False))
    for path, file in zip(yamls, files, strict=True):
        print(f"{path} -> {file} ({encoder.id})")
    return 0


COMMAND = Command(
    "ultra_dsmoe.text.package",
    "Makes the text vectors that are shipped beside the packaged data YAMLs.",
    {
        "data": Option(text, "data YAMLs with names and prompts", many=True),
        "encoder": Option(text, "sentence:<id or folder>, causal-lm:<id or folder> or auto", "auto"),
        "out": Option(text, "folder to write to", "vectors/ beside the first data YAML"),
        "prune": Option(yes_no, "whether to remove vectors of other prompts or encoders from it", "False", flag=True),
    },
    run,
    {"data": "data YAMLs as first arguments, such as datasets/*.yaml"},
    program="python -m",
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    with one_line_errors():
        return COMMAND.main(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
