"""What is refused of a data YAML before the host makes a run folder for it."""

from __future__ import annotations

from typing import Any

from ultra_dsmoe.errors import DataError


def require_classes(data: Any) -> None:
    """Refuse a data YAML, or one of several, that names no class.

    Args:
        data: The host's ``data`` argument; what is no YAML file on this disk is left to the host.

    Raises:
        DataError: If its ``names`` are empty, or missing beside ``nc: 0``.
    """
    from ultralytics.utils import YAML, checks

    for name in map(str, data if isinstance(data, (list, tuple)) else [data]):
        if not name.endswith((".yaml", ".yml")) or "://" in name:
            continue
        file = checks.check_file(name, hard=False)
        content = YAML.load(file) if file else {}
        names = content.get("names")
        if names in ({}, [], "") or (names is None and content.get("nc") == 0):
            raise DataError("names", f"at least one class in {name}", "nc: 0" if names is None else names)
