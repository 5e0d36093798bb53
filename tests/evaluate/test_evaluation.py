"""Passes of the host's validator: none is counted in which the host dropped images."""

from __future__ import annotations

import inspect
import time

import pytest
from ultralytics.models.yolo.detect import DetectionValidator

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.evaluate.evaluation import NMS_SECONDS, NMS_SECONDS_PER_IMAGE, Collector


@pytest.mark.parametrize(("took", "dropped"), [(2.1, False), (2.3, True)])
def test_starved_machine(monkeypatch: pytest.MonkeyPatch, took: float, dropped: bool) -> None:
    """Four images may take 2.2 seconds; after that the host leaves the rest of them without boxes."""
    clock = [100.0]

    def slow(self: DetectionValidator, preds: list[str]) -> list[str]:
        clock[0] += took
        return preds

    monkeypatch.setattr(DetectionValidator, "postprocess", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    collector = Collector.__new__(Collector)
    if not dropped:
        assert collector.postprocess(list("abcd")) == list("abcd")
        return
    with pytest.raises(DSMoEError, match=r"^NMS: expected at most 2\.2 s for the .* smaller batch\), got 2\.3 s$"):
        collector.postprocess(list("abcd"))


def test_limit_is_the_hosts() -> None:
    from ultralytics.utils import nms

    given = inspect.signature(nms.non_max_suppression).parameters["max_time_img"].default
    assert given == NMS_SECONDS_PER_IMAGE
    assert f"time_limit = {NMS_SECONDS} + max_time_img * bs" in inspect.getsource(nms.non_max_suppression)
