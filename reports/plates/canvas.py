"""Size, style and files of a paper's figure."""

from __future__ import annotations

from textwrap import fill
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMN_INCHES = 3.5  # of a page in two columns
HEIGHT_INCHES = 2.7
DPI = 300
SMALL = 7.0  # points; nothing is smaller
# No file holds the time or the version of its maker, so that the same study gives the same file.
FORMATS: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
STYLE = {
    "text.parse_math": False,  # names may hold a "$"
    "svg.hashsalt": "reports",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
RASTERED = 2000  # points of a kind above which they are pixels even in PDF and SVG, or the file is heavy
CHARACTERS_PER_INCH = 15  # of an axis' label


def blank(columns: int = 1, height: float = HEIGHT_INCHES) -> tuple[Figure, list[Any]]:
    """An empty figure of one column's width, `height` inches high, with `columns` axes beside each other."""
    figure = Figure(figsize=(COLUMN_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def folded(label: str, inches: float) -> str:
    """An axis' label in lines that are no longer than `inches`."""
    return fill(label, int(inches * CHARACTERS_PER_INCH))
