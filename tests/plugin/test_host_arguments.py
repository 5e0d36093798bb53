"""Arguments of the host's that only we check."""

from __future__ import annotations

import numpy as np
import pytest

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.plugin.host_arguments import CHECKS, check

GOOD = [
    *(("train", "batch", value) for value in (1, 16, -1, 0.7, np.int64(4), None)),
    *(("val", "classes", value) for value in (0, [0, 2], (1,), np.array([1]), None)),
    *(("train", "device", value) for value in ("cpu", "0", 0, [0, 1], "0,1", "cuda:0", "mps", -1, "", None)),
    *(("predict", "imgsz", value) for value in (32, [32, 64], (32, 64), "640", None)),
    ("export", "format", "onnx"),
    *(("train", "freeze", value) for value in (0, 10, [0, 3], (1,), ["23.cv2", 4], [], None)),
    *(("train", "cache", value) for value in (True, False, "ram", "disk", "RAM", "lmdb", None)),
    *(("train", "scale", value) for value in (0, 0.5, 1, (0.5, 1.5), [1, 2])),
    *(("predict", "embed", value) for value in (3, [3, 4], None)),
]
BAD = [
    *(("train", "batch", value) for value in (0, -2, 1.5, "x", True)),
    *(("predict", "batch", value) for value in (0, -1, 0.5)),
    *(("val", "classes", value) for value in ("spur", -1, 1.5, ["spur"], [-1], True)),
    *(("train", "device", value) for value in ("gpu", "tpu", "word")),
    *(("predict", "imgsz", value) for value in (0, -5, 2.5, [0, 64], ["x"])),
    *(("export", "format", value) for value in (5, True)),
    *(("train", "freeze", value) for value in ("abc", "23.cv2", 2.5, -1, True, ["abc"], [-1], [1.5])),
    *(("train", "cache", value) for value in ("rom", 5, "yes")),
    *(("train", "scale", value) for value in ("word", -1, (0.5,), (0.5, "x"), True)),
    *(("predict", "embed", value) for value in ("abc", -1, [1.5])),
]


@pytest.mark.parametrize(("verb", "key", "value"), GOOD)
def test_what_suits(verb: str, key: str, value: object) -> None:
    check(verb, {key: value, "foo": "bar"})


@pytest.mark.parametrize(("verb", "key", "value"), BAD)
def test_what_does_not(verb: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as e:
        check(verb, {key: value})
    assert str(e.value).startswith(f"{key}: expected {CHECKS[key][0]}, got ")
