"""Data sets: packaged data YAMLs, the generated boards and hits, unpacking and converting of archives."""

from __future__ import annotations

from typing import Any

from ultra_dsmoe.data.packaged import refuse_missing


def provide_pcb_demo(data: dict[str, Any]) -> None:
    """Generate the boards of pcb-demo.yaml; called by its ``download`` line.

    Args:
        data: The host's data dictionary, with ``path`` resolved.
    """
    from ultra_dsmoe.data.boards import demo  # late: the other sets need no OpenCV drawing code

    demo.provide(data)


__all__ = ["provide_pcb_demo", "refuse_missing"]
