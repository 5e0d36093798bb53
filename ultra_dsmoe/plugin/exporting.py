"""What the export of our networks needs beside the host's own exporter."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

ONNX_FORMATS = {"onnx", "engine"}  # formats whose ONNX file takes any opset; others have their own bounds
OPSET = 17  # the newest that TensorRT 8.6 reads


def set_opset(kwargs: dict[str, Any]) -> None:
    """Choose the opset of an export, unless the user did."""
    if str(kwargs.get("format", "")).lower() in ONNX_FORMATS:
        kwargs["opset"] = kwargs.get("opset") or OPSET


@contextmanager
def traced() -> Iterator[None]:
    """Make torch's ONNX export trace the network, as newer hosts ask it to.

    The oldest hosts leave the choice to torch, whose default became another exporter with other needs.
    """
    import torch.onnx

    stock = torch.onnx.export

    @functools.wraps(stock)
    def export(*args: Any, **kwargs: Any) -> Any:
        return stock(*args, **{"dynamo": False, **kwargs})

    if "dynamo" in signature(stock).parameters:
        torch.onnx.export = export
    try:
        yield
    finally:
        torch.onnx.export = stock
