"""The argument parser of our commands: wrong words are a user error in one line, as any other."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from ultra_dsmoe.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Python's parser, which prints its usage and exits with 2 where words do not suit it; sub-commands get it too."""

    def error(self, message: str) -> NoReturn:
        """Raise what the parser has to say.

        Raises:
            ConfigError: Always.
        """
        if found := re.fullmatch(r"argument ([^:]+): (.*)", message, re.DOTALL):
            raise ConfigError(found[1], "a value that it can have", found[2])
        if found := re.fullmatch(r"the following arguments are required: (.*)", message, re.DOTALL):
            raise ConfigError(found[1], "a value", "none")
        raise ConfigError(self.prog, f"the words of '{self.prog} --help'", message)
