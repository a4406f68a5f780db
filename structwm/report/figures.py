"""matplotlib figures as bytes: one look for all, drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

from .style import GREY, INK, PALE

LOOK: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "structwm",
    "path.simplify_threshold": 0.5,
}


@contextmanager
def look() -> Iterator[None]:
    """matplotlib settings of every figure here, for the time of the block."""
    import matplotlib

    with matplotlib.rc_context(LOOK):
        yield


def new(width: float, height: float) -> Any:
    """An empty figure [inches] that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_bytes(figure: Any, kind: Literal["svg", "png"] = "svg") -> bytes:
    """The image; equal drawings give equal bytes."""
    stream = BytesIO()
    figure.savefig(stream, format=kind, dpi=144, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return stream.getvalue()
