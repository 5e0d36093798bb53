"""Former names that go on working for a while, and the warning that names the one of today.

Each says from which version on it is gone, and a test fails once that version is there. Standard library alone, since
every command has it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass


@dataclass(frozen=True)
class Former:
    """What has taken the place of a former name.

    Attributes:
        today: The name of today.
        goes: The first version without the former name, two minor versions behind the last that had it alone.
    """

    today: str
    goes: str

    def warn(self, name: str, kind: type[Warning] = FutureWarning, stacklevel: int = 1) -> None:
        """Say that ``name`` is the former name; Python shows a warning once per place and text.

        Args:
            name: The former name, as it was given.
            kind: `FutureWarning` for whoever runs a command, `DeprecationWarning` for whoever writes Python.
            stacklevel: Whose line the warning points at; 1 is the caller's.
        """
        text = f"'{name}' is called '{self.today}' now; the former name is gone from version {self.goes} on"
        warnings.warn(text, kind, stacklevel=stacklevel + 1)
