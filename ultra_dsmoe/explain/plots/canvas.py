"""The one canvas of all pictures: its resolution, its layout, and the PNG that comes out."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine

DPI = 150


def canvas(width: float, height: float, layout: LayoutEngine | None = None) -> Figure:
    """Return an empty figure that needs no screen.

    Args:
        width: In inches.
        height: In inches.
        layout: Where axes go; matplotlib's constrained layout where omitted.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout or "constrained")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
