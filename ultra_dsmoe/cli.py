"""``dsmoe-yolo``: the host's command line with the plugin on, plus our own sub-commands.

The script's name ends in ``yolo`` because the host decides by that whether pictures are saved.
"""

from __future__ import annotations

import sys
from importlib import import_module

import ultra_dsmoe  # noqa: F401  # puts the plugin into the host also where torch has no entry points (before 2.5)
from ultra_dsmoe.plugin.entry import one_line_errors

SUBCOMMANDS = {
    "data": "ultra_dsmoe.data.cli",
    "edge": "ultra_dsmoe.export.cli",
    "knockout": "ultra_dsmoe.explain.knockout",
    "routing": "ultra_dsmoe.explain.routing_map",
    "topk": "ultra_dsmoe.explain.topk",
}


def main() -> int:
    """Run a sub-command of ours or hand the command line to the host.

    Returns:
        The exit code.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    with one_line_errors():
        if name in SUBCOMMANDS:
            return import_module(SUBCOMMANDS[name]).main(sys.argv[2:]) or 0
        from ultralytics.cfg import entrypoint

        entrypoint()
    return 0


if __name__ == "__main__":
    sys.exit(main())
