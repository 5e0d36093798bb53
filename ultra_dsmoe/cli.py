"""``dsmoe-yolo``: the host's command line with the plugin on, plus our own sub-commands.

The script's name ends in ``yolo`` because the host decides by that whether pictures are saved.
"""

from __future__ import annotations

import sys
from importlib import import_module

import ultra_dsmoe  # noqa: F401  # puts the plugin into the host also where torch has no entry points (before 2.5)
from ultra_dsmoe.plugin.entry import one_line_errors

SUBCOMMANDS = {
    "data": "ultra_dsmoe.commands.data",
    "distill-masks": "ultra_dsmoe.explain.distill_masks",
    "data sizes": "ultra_dsmoe.commands.data_sizes",
    "edge": "ultra_dsmoe.commands.edge",
    "knockout": "ultra_dsmoe.explain.knockout",
    "pictures": "ultra_dsmoe.explain.pictures",
    "routing": "ultra_dsmoe.explain.routing_map",
    "text": "ultra_dsmoe.commands.text",
    "topk": "ultra_dsmoe.explain.topk",
}


def main() -> int:
    """Run a sub-command of ours or hand the command line to the host.

    Returns:
        The exit code.
    """
    with one_line_errors():
        for words in (2, 1):  # the longer name first
            if (name := " ".join(sys.argv[1 : 1 + words])) in SUBCOMMANDS:
                return import_module(SUBCOMMANDS[name]).main(sys.argv[1 + words :]) or 0
        from ultralytics.cfg import entrypoint

        entrypoint()
    return 0


if __name__ == "__main__":
    sys.exit(main())
