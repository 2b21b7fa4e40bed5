"""The comparison's pictures as SVG: fronts in one plane, hypervolumes by trainings. Colours are the page's."""

from __future__ import annotations

import re
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from nas.records import Objective
from reports.compare.sides import Side, SideBySide
from reports.page import VEGA_LITE
from reports.points import SERIES
from reports.summary import Scored
from reports.theme import FAINT, FONT, GRID, INK

SHAPES = ("circle", "diamond", "square", "triangle-up", "triangle-down", "cross")
SIZES_PX = {"wide": (860, 400), "narrow": (330, 300)}
FIT = {"type": "fit", "contains": "padding"}
MOST_DOTS = 1500  # dominated nets of a study that are drawn


def pictures(comparison: SideBySide) -> dict[str, Markup]:
    """Figure -> its SVG, once wide and once for narrow screens; figures that would show nothing are left out."""
    charts: dict[str, Any] = {}
    if comparison.reference is not None:
        charts["fronts"] = _fronts(comparison.sides, list(comparison.sides))
        charts["curve"] = _curve(comparison.sides)
    else:
        charts |= {f"front-{side.letter}": _fronts(comparison.sides, [side]) for side in comparison.sides}
    return {name: _drawn(chart) for name, chart in charts.items() if chart is not None}


def _fronts(sides: tuple[Side, ...], shown: list[Side]) -> Any:
    """Throughput against quality: each study's front as steps, its other nets faint."""
    fronts = [_row(side, net, order) for side in shown for order, net in enumerate(side.summary.front)]
    if not fronts:
        return None
    quality, speed = shown[0].study.info.objectives
    x = alt.X("speed:Q", title=_title(speed), scale=_scale(speed), axis=alt.Axis(format=".3~g", labelOverlap=True))
    y = alt.Y("quality:Q", title=_title(quality), scale=_scale(quality))
    colour, shape = _by_study(sides, shown)
    front = alt.Chart(alt.Data(values=fronts))
    others = alt.Chart(alt.Data(values=[_row(side, net, 0) for side in shown for net in _dominated(side)]))
    layers = [
        others.mark_point(size=14, opacity=0.35, filled=True).encode(x=x, y=y, color=colour, shape=shape),
        front.mark_line(interpolate="step-after", strokeWidth=1.5).encode(x=x, y=y, color=colour, order="order:O"),
        front.mark_rule(opacity=0.6).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        front.mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape),
    ]
    return alt.layer(*layers)


def _curve(sides: tuple[Side, ...]) -> Any:
    """Hypervolume over the common reference point, after so many trainings."""
    rows = [
        {"study": side.name, "trainings": n, "volume": volume}
        for side in sides
        for n, volume in [(0, 0.0), *((c.evaluations, c.hypervolume) for c in side.summary.curve)]
    ]
    if not any(row["volume"] for row in rows):
        return None
    colour, dash = _by_study(sides, list(sides))[0], alt.StrokeDash("study:N", sort=None, legend=None)
    whole = alt.Axis(tickMinStep=1, format="d")
    line = alt.Chart(alt.Data(values=rows)).mark_line(interpolate="step-after", strokeWidth=2)
    return line.encode(
        x=alt.X("trainings:Q", title="architectures trained", axis=whole),
        y=alt.Y("volume:Q", title="hypervolume, higher is better"),
        color=colour,
        strokeDash=dash,
    )


def _row(side: Side, net: Scored, order: int) -> dict[str, Any]:
    return {
        "study": side.name, "speed": net.ratio, "low": net.ratio_low, "high": net.ratio_high, "quality": net.quality,
        "order": order,
    }  # fmt: skip


def _dominated(side: Side) -> list[Scored]:
    front = {net.trial.number for net in side.summary.front}
    nets = [net for net in side.summary.complete if net.trial.number not in front]
    return nets[:: -(-len(nets) // MOST_DOTS) or 1]


def _by_study(sides: tuple[Side, ...], shown: list[Side]) -> tuple[Any, Any]:
    """Colour and shape; a study has the same in every picture."""
    place = {side.name: i for i, side in enumerate(sides)}
    names = [side.name for side in shown]
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=320) if len(shown) > 1 else None
    colours, shapes = [SERIES[place[n]][0] for n in names], [SHAPES[place[n]] for n in names]
    return (
        alt.Color("study:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
        alt.Shape("study:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
    )


def _title(objective: Objective) -> str:
    unit = f" ({objective.unit})" if objective.unit else ""
    return f"{objective.label}{unit}"


def _scale(objective: Objective) -> Any:
    return alt.Scale(type="log", base=2, nice=False, padding=12) if objective.log else alt.Scale(zero=False, padding=12)


def _drawn(chart: Any) -> Markup:
    text = {"labelColor": INK, "titleColor": INK, "labelFont": FONT, "titleFont": FONT, "titleFontWeight": 500}
    found = []
    for size, (width, height) in SIZES_PX.items():
        specification = (
            chart.properties(width=width, height=height, background="transparent", autosize=FIT)
            .configure(font=FONT, aria=False)
            .configure_view(stroke=None)
            .configure_axis(gridColor=GRID, domainColor=FAINT, tickColor=FAINT, titleLimit=height - 60, **text)
            .configure_legend(symbolBaseFillColor=INK, **text)
            .to_dict()
        )
        svg = vl_convert.vegalite_to_svg(specification, vl_version=VEGA_LITE)
        svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)
        svg = svg.replace("<svg ", '<svg aria-hidden="true" ', 1)  # the caption beside it is the text alternative
        found.append(f'<div class="chart {size}">{svg}</div>')
    return Markup("".join(found))
