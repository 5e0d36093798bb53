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

    def text(self, name: str) -> str:
        """Return what is said of ``name``, the former name as it was given; a command prints it as a line."""
        return f"'{name}' is called '{self.today}' now; the former name is gone from version {self.goes} on"

    def warn(self, name: str, stacklevel: int = 1) -> None:
        """Warn whoever writes Python that ``name`` is the former name.

        Args:
            name: The former name, as it was given.
            stacklevel: Whose line the warning points at; 1 is the caller's.
        """
        warnings.warn(self.text(name), DeprecationWarning, stacklevel=stacklevel + 1)
