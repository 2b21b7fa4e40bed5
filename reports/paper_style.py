"""What the figures for papers have in common: a column's width, fonts, and files without dates."""

from __future__ import annotations

from io import BytesIO
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from nas.terminal import visible

COLUMN_INCHES = 3.5  # of a page in two columns
HEIGHT_INCHES, FRONT_HEIGHT_INCHES = 2.7, 3.1
AXES_WIDTH_INCHES, AXES_HEIGHT_INCHES = 3.0, 2.3
DPI = 300
NOTEBOOK_DPI = 160
MIN_FONT_POINTS = 7.0
MARK_POINTS = 3.5  # diameter
# No file holds a date or the version of its writer, so that the same study gives the same bytes.
FORMATS: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
STYLE = {
    "text.parse_math": False,  # names may contain a "$"
    "svg.hashsalt": "reports",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": MIN_FONT_POINTS,
    "ytick.labelsize": MIN_FONT_POINTS,
    "legend.fontsize": MIN_FONT_POINTS,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
MAX_VECTOR_POINTS = 2000  # of a kind; more are rasterized even in PDF and SVG, or the file would be heavy
CHARACTERS_PER_INCH = 15  # of an axis label


class PaperFigure(Figure):
    """A figure that a notebook shows as a picture, whether or not pyplot is imported there."""

    def savefig(self, fname: Any, **settings: Any) -> None:
        """Write the figure; an SVG with a control character of a study's text would be no XML."""
        for text in self.findobj(Text):
            text.set_text(visible(text.get_text()))  # type: ignore[attr-defined]
        super().savefig(fname, **settings)

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        with rc_context(STYLE):
            self.savefig(content, format="png", dpi=NOTEBOOK_DPI, metadata=FORMATS["png"])
        return content.getvalue()


def empty_figure(height_inches: float = HEIGHT_INCHES) -> tuple[Figure, Any]:
    """Create a figure of one column's width, with its axes."""
    figure = PaperFigure(figsize=(COLUMN_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def wrapped(label: str, inches: float) -> str:
    """Return a label in lines that fit `inches`."""
    return fill(label, int(inches * CHARACTERS_PER_INCH))
