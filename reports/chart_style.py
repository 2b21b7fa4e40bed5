"""The look that the Altair charts of all pages share, and the parts that several charts are made of.

Colors are CSS custom properties, so one chart serves the light, the dark and the printed page.
"""

from __future__ import annotations

from typing import Any

import altair as alt
from markupsafe import Markup

from reports.document import chart_svg
from reports.figure_data import MARKS
from reports.formatting import brief

Specification = dict[str, Any]  # Vega-Lite

INK, FAINT, GRID, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
TEXT_STYLE = {"labelColor": INK, "titleColor": INK, "labelFont": FONT, "titleFont": FONT, "titleFontWeight": 500}
FRONT_HEIGHT_PX = 420  # of the tallest chart; no axis title is longer
RATIO_TICKS = ".4~g"
MAX_COUNT_TICKS = 10  # that are given one by one
STATIC_SIZES_PX = {"wide": (860, 400), "narrow": (330, 300)}  # of a page without scripts
_FIT = {"type": "fit", "contains": "padding"}


def static_chart(chart: Any, height_share: float = 1.0) -> Markup:
    """Draw a chart as SVG for a page without scripts: once wide, and once for narrow screens.

    Args:
        chart: The chart.
        height_share: Its height as a share of the usual one.
    """
    drawn = []
    for size, (width, height) in STATIC_SIZES_PX.items():
        height = round(height * height_share)
        plain = (
            chart.properties(width=width, height=height, background="transparent", autosize=_FIT)
            .configure(font=FONT, aria=False)
            .configure_view(stroke=None)
            .configure_axis(gridColor=GRID, domainColor=FAINT, tickColor=FAINT, titleLimit=height - 60, **TEXT_STYLE)
            .configure_legend(symbolBaseFillColor=INK, **TEXT_STYLE)
            .to_dict()
        )
        drawn.append(f'<div class="chart {size}">{chart_svg(plain)}</div>')
    return Markup("".join(drawn))


def specification(chart: Any) -> Specification:
    """Return a chart as the specification that the page fills in: as wide as its place, with named data sets."""
    return dict(
        chart.properties(
            width="container",
            background="transparent",
            autosize={"type": "fit-x", "contains": "padding"},
        )
        .configure(font=FONT, aria=False)  # the tables are the text alternative; thousands of labels are none
        .configure_view(stroke=None)
        .configure_title(color=INK, font=FONT, fontSize=12, fontWeight=500, anchor="start", limit=260)
        .configure_axis(
            gridColor=GRID, domainColor=GRID, tickColor=GRID, titlePadding=10, titleLimit=FRONT_HEIGHT_PX, **TEXT_STYLE
        )
        .configure_legend(symbolBaseFillColor=INK, symbolBaseStrokeColor=INK, **TEXT_STYLE)
        .configure_text(font=FONT)
        .to_dict(validate=False)
    )


def by_kind(chart: Any, legend: Any = None) -> Any:
    """Encode the kind of a point by shape, outline and fill, with one merged legend if there is one."""
    kinds, styles = list(MARKS), list(MARKS.values())
    return chart.encode(
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[s.vega_shape for s in styles]), legend=legend),
        stroke=alt.Stroke("kind:N", scale=alt.Scale(domain=kinds, range=[s.css for s in styles]), legend=legend),
        fill=alt.Fill(
            "kind:N",
            scale=alt.Scale(domain=kinds, range=[s.css if s.filled else "transparent" for s in styles]),
            legend=legend,
        ),
    )


def tip(field: str, title: str, number_format: str | None = None) -> Any:
    """Return a line of a tooltip.

    Args:
        field: Name of the value in the data.
        title: What it is called in the tooltip.
        number_format: Format of a number; None for text.
    """
    if number_format is None:
        return alt.Tooltip(f"{field}:N", title=brief(title))
    return alt.Tooltip(f"{field}:Q", title=brief(title), format=number_format)


def count_axis(most: int) -> Any:
    """Return the axis of a count from 0 to `most`; Vega's own ticks of small counts have halves between them."""
    few = {"values": list(range(most + 1))} if most <= MAX_COUNT_TICKS else {}
    return alt.Axis(format="d", labelOverlap=True, **few)
