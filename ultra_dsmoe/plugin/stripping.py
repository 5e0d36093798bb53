"""The host's ``strip_optimizer`` for trainings of ours: written beside, then renamed."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import Any

from ultra_dsmoe.plugin import host


def patch_torch_utils(module: Any) -> None:
    """Let a training of ours strip its checkpoints without a moment in which they are half; all else is the host's."""
    stock = module.strip_optimizer
    if host.is_marked(stock):
        return

    @functools.wraps(stock)
    def strip_optimizer(f: Any = "best.pt", s: Any = "", *args: Any, **kwargs: Any) -> Any:
        generations = sys.modules.get("ultra_dsmoe.train.generations")  # there is a training of ours only with it
        if generations is None or not generations.stripping_beside.get():
            return stock(f, s, *args, **kwargs)
        from ultra_dsmoe.logs import at_level

        target = Path(s or f)
        with generations.beside(target.parent) as side, at_level(module.LOGGER, logging.WARNING):
            content = stock(f, str(side / target.name), *args, **kwargs)  # quietly: it would name the file beside
        if content:
            module.LOGGER.info(f"Optimizer stripped from {f}, {target.stat().st_size / 1e6:.1f}MB")
        return content

    host.replace(module, "strip_optimizer", host.mark(strip_optimizer), everywhere=True)
