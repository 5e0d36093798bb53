"""Data sets: packaged data YAMLs, the generated boards and hits, unpacking and converting of archives."""

from __future__ import annotations

from typing import Any

from ultra_dsmoe.data.packaged import refuse_missing


def provide_pcb_demo(data: dict[str, Any], references: bool = False) -> None:
    """Generate the boards of pcb-demo.yaml or pcb-demo-ref.yaml; called by their ``download`` lines.

    Args:
        data: The host's data dictionary, with ``path`` resolved.
        references: Whether with known-good boards.
    """
    from ultra_dsmoe.data.boards import demo  # late: the other sets need no OpenCV drawing code

    demo.provide(data, references)


__all__ = ["provide_pcb_demo", "refuse_missing"]
