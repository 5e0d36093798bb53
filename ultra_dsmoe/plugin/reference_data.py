"""The host's data sets: where a call has known-good pictures, its data says so and its images come as pairs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ultra_dsmoe.plugin import host

DATASET = "YOLODataset"  # the host's class, which its modules import by name
# Whoever builds a data set holds it: in another thread the class of the host's module would be the wrong one.
_building = threading.RLock()


def patch_utils(utils: Any) -> None:
    """Let the host's ``check_det_dataset`` add the references in force to the data that it returns."""
    stock = utils.check_det_dataset
    if host.is_marked(stock):
        return

    @functools.wraps(stock)
    def check_det_dataset(*args: Any, **kwargs: Any) -> dict[str, Any]:
        from ultra_dsmoe.data.reference.in_force import attach, current

        data: dict[str, Any] = stock(*args, **kwargs)
        return attach(data, current())

    host.replace(utils, "check_det_dataset", host.mark(check_det_dataset), everywhere=True)


def patch_build(build: Any) -> None:
    """Let the host's ``build_yolo_dataset`` build our data set where the data has references."""
    stock = build.build_yolo_dataset
    if host.is_marked(stock):
        return

    @functools.wraps(stock)
    def build_yolo_dataset(cfg: Any, img_path: Any, batch: int, data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        from ultra_dsmoe.data.reference.in_force import DATA_KEY

        with _pairs(build) if DATA_KEY in data else _building:
            return stock(cfg, img_path, batch, data, *args, **kwargs)

    host.replace(build, "build_yolo_dataset", host.mark(build_yolo_dataset), everywhere=True)


def patch_exporter(exporter: Any) -> None:
    """Let images for calibration come as pairs on hosts whose exporter makes their data set itself, as 8.3 does."""
    cls = exporter.Exporter
    stock = cls.get_int8_calibration_dataloader
    if host.is_marked(stock) or DATASET not in vars(exporter):
        return

    @functools.wraps(stock)
    def get_int8_calibration_dataloader(self: Any, prefix: str = "") -> Any:
        from ultra_dsmoe.data.reference.in_force import current

        with _building if current() is None else _pairs(exporter):
            return stock(self, prefix)

    host.replace(cls, "get_int8_calibration_dataloader", host.mark(get_int8_calibration_dataloader))


@contextmanager
def _pairs(module: Any) -> Iterator[None]:
    """Let a module of the host make our data set for the length of the block; all other times it never sees it."""
    from ultra_dsmoe.data.reference.dataset import ReferenceDataset

    with _building:
        stock = vars(module)[DATASET]
        setattr(module, DATASET, ReferenceDataset)
        try:
            yield
        finally:
            setattr(module, DATASET, stock)
