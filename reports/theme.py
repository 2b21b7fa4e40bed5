"""What the report's interactive charts share: colours, fonts, marks by the kind of a net, tooltips.

Colours are CSS custom properties, so one picture serves the light, the dark and the printed page.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from reports.points import LOOKS
from reports.wording import brief

INK, FAINT, GRID, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
NARROW_PX = 420  # on a phone, point labels would overlap and a legend in one row would be cut off
TITLE_LIMIT_PX = 420  # as high as the front is


def kinds(chart: Any, legend: bool = True) -> Any:
    """Shape, outline and filling by the kind of point; one merged legend."""
    names, looks = list(LOOKS), list(LOOKS.values())
    entries = alt.Legend(title=None, orient="top", columns=columns(len(names)), symbolSize=70) if legend else None
    return chart.encode(
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[k.vega_shape for k in looks]), legend=entries),
        stroke=alt.Stroke("kind:N", scale=alt.Scale(domain=names, range=[k.css for k in looks]), legend=entries),
        fill=alt.Fill(
            "kind:N",
            scale=alt.Scale(domain=names, range=[k.css if k.filled else "transparent" for k in looks]),
            legend=entries,
        ),
    )


def columns(entries: int) -> Any:
    return alt.ExprRef(f"width < {NARROW_PX} ? 2 : {entries}")


def tip(field: str, title: str, number_format: str | None = None) -> Any:
    if number_format is None:
        return alt.Tooltip(f"{field}:N", title=brief(title))
    return alt.Tooltip(f"{field}:Q", title=brief(title), format=number_format)


def themed(chart: Any) -> Any:
    text = {"labelColor": INK, "titleColor": INK, "labelFont": FONT, "titleFont": FONT, "titleFontWeight": 500}
    return (
        chart.properties(width="container", background="transparent", autosize={"type": "fit-x", "contains": "padding"})
        .configure(font=FONT, aria=False)  # the tables are the text alternative; thousands of labels are none
        .configure_view(stroke=None)
        .configure_title(color=INK, font=FONT, fontSize=12, fontWeight=500, anchor="start", limit=260)
        .configure_axis(
            gridColor=GRID, domainColor=GRID, tickColor=GRID, titlePadding=10, titleLimit=TITLE_LIMIT_PX, **text
        )
        .configure_legend(symbolBaseFillColor=INK, symbolBaseStrokeColor=INK, **text)
        .configure_text(font=FONT)
    )
