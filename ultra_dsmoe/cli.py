"""``dsmoe-yolo``: our sub-commands; every other word goes to the host's command line, with the plugin on.

The script's name ends in ``yolo`` because the host decides by that whether pictures are saved.
"""

from __future__ import annotations

import sys
from importlib import metadata

import ultra_dsmoe  # puts the plugin into the host also where torch has no entry points (before 2.5)
from ultra_dsmoe import commands
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.plugin.entry import one_line_errors

HOST_PAGE = """
Every other word goes to Ultralytics' own command line, with this plugin on:

  dsmoe-yolo train|val|predict|track|export|benchmark key=value ...    as `yolo`, whose help is `yolo help`"""


def main() -> int:
    """Run a sub-command of ours or hand the command line to the host.

    Returns:
        The exit code.
    """
    words = sys.argv[1:]
    if not words or words[0] in ("help", "-h", "--help"):
        print(f"{commands.page()}\n{HOST_PAGE}")
        return 0
    if words in (["version"], ["--version"], ["-v"]):
        print(f"ultra-dsmoe {ultra_dsmoe.__version__}, ultralytics {metadata.version('ultralytics')}")
        return 0
    with one_line_errors(own=True):
        if (code := commands.run(words)) is not None:
            return code
        refuse_typo(words[0])
        from ultralytics.cfg import entrypoint

        entrypoint()
    return 0


def refuse_typo(word: str) -> None:
    """Refuse a first word that neither we nor the host know, but that is spelled like a sub-command.

    Raises:
        ConfigError: If it is one.
    """
    from ultralytics.cfg import MODES, TASKS

    near = None if "=" in word or word in (*MODES, *TASKS) else commands.near_miss(word)
    if near is not None:
        raise ConfigError("command", f"one of ours or of Ultralytics' (did you mean '{near}'?)", word)


if __name__ == "__main__":
    sys.exit(main())
