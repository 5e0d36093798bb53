"""Draw the table of k: accuracy, work and latency over the number of experts per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ultra_dsmoe.explain.plots.canvas import as_png, canvas

if TYPE_CHECKING:
    from ultra_dsmoe.explain.topk import Row

SIZE = (11, 3.8)  # inches
COLOURS = ("#0072b2", "#d55e00")  # told apart by colour-blind eyes too


def draw(rows: Sequence[Row], own: int | None, title: str) -> bytes:
    """Return the picture as PNG.

    Args:
        rows: One per k.
        own: The k that the model was trained with, marked; None for no mark.
        title: First line, such as the model's name.
    """
    figure = canvas(*SIZE)
    accuracy, work, latency = figure.subplots(1, 3)
    ks = [r.k for r in rows]
    _lines(accuracy, ks, {"mAP50": [r.map50 for r in rows], "mAP50-95": [r.map50_95 for r in rows]})
    accuracy.set_ylabel("mAP")
    _lines(work, ks, {"executed": [r.gflops for r in rows]})
    work.set_ylabel("GFLOPs of one image")
    times = {"torch": [r.torch_ms_median for r in rows], "ONNX Runtime": [r.onnx_ms_median for r in rows]}
    _lines(latency, ks, times)
    latency.set_ylabel("ms of one image, one thread (median)")
    for axes in (accuracy, work, latency):
        if own is not None:
            axes.axvline(own, color="0.6", linestyle=":", linewidth=1.2, label=f"as trained (k={own})")
        axes.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return as_png(figure)


def _lines(axes: Axes, ks: list[int], series: dict[str, list[float]]) -> None:
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(ks, values, marker="o", markersize=4, color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("experts per image, k")
    axes.set_ylim(0, 1.12 * max(max(values) for values in series.values()) or 1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
