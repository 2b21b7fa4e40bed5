"""The chart of the Pareto front: throughput against score, with intervals, labels, and sizes by a further objective."""

from __future__ import annotations

import json
from typing import Any

import altair as alt

from nas.study.records import Objective
from reports.chart_style import FAINT, FRONT_HEIGHT_PX, INK, PAPER, RATIO_TICKS, by_kind, tip
from reports.figure_data import BASELINE, FRONT, MARKS, STOPPED, FigureData
from reports.formatting import brief
from reports.label_sides import OFFSET_PX

NARROW_PX = 420  # a phone
WIDE_LABELS_PX = 640  # narrower charts have the labels that were placed for a phone
FURTHER_FORMAT = ",.4~r"  # four digits, no exponent
MANY_POINTS = 1500  # the intervals of more dominated trials would hide everything else
SHOW_STOPPED = "show_stopped"  # parameter of the chart: whether early-stopped candidates are drawn
_WIDE = alt.ExprRef(f"width < {NARROW_PX} ? 0 : 1")  # opacity of what a phone has no room for


def front_chart(data: FigureData) -> Any:
    """Draw throughput against score: points by kind, intervals, the front's steps, comparison networks.

    The page sets the parameter `SHOW_STOPPED`; without it, early-stopped candidates are hidden.
    """
    x, y = _axes(data)
    points = alt.Chart(alt.NamedData(name="points")).transform_filter(
        f"{SHOW_STOPPED} || datum.kind != {json.dumps(STOPPED)}"
    )
    trained = points.transform_filter("isValid(datum.score)")
    never_trained = by_kind(
        points.transform_filter("!isValid(datum.score)").mark_point(strokeWidth=1.5, size=80), _legend(data)
    ).encode(x=x, y=alt.value(FRONT_HEIGHT_PX - 6), tooltip=_tooltip(data))
    with_intervals = trained.transform_filter("isValid(datum.ratio_low)")
    if len(data.points) > MANY_POINTS:
        with_intervals = with_intervals.transform_filter(alt.FieldOneOfPredicate("kind", [FRONT, BASELINE]))
    intervals = with_intervals.mark_rule(color=FAINT, opacity=0.55, clip=True).encode(
        x="ratio_low:Q", x2="ratio_high:Q", y=y
    )
    steps = (
        alt.Chart(alt.NamedData(name="staircase"))
        .mark_line(interpolate="step-before", color=MARKS[FRONT].css, strokeWidth=1.5, opacity=0.8)
        .encode(x=x, y=y, order="order:O")
    )
    labeled = alt.Chart(alt.NamedData(name="labels"))
    place = {
        "align": alt.ExprRef("datum.right > 0 ? 'left' : datum.right < 0 ? 'right' : 'center'"),
        "baseline": "middle",
        "dx": alt.ExprRef(f"{OFFSET_PX} * datum.right"),
        "dy": alt.ExprRef("-datum.rise_px"),
        "fontSize": 11,
        "opacity": alt.ExprRef(f"datum.narrow == (width < {WIDE_LABELS_PX}) ? 1 : 0"),
    }
    halo = labeled.mark_text(color=PAPER, stroke=PAPER, strokeWidth=4, strokeJoin="round", **place)
    labels = [layer.encode(x=x, y=y, text="text:N") for layer in (halo, labeled.mark_text(color=INK, **place))]
    ring = trained.transform_filter(f"datum.number == {-1 if data.recommended is None else data.recommended}")
    picked = alt.Chart(alt.NamedData(name="picked")).mark_point(size=260, strokeWidth=2.5, color=INK, filled=False)
    layers = [
        *_scale_rules(data, x),
        steps,
        intervals,
        labels[0],
        never_trained,
        *_marks(data, trained, x, y),
        ring.mark_point(size=200, strokeWidth=1.8, color=MARKS[FRONT].css, filled=False).encode(x=x, y=y),
        labels[1],
        _direction(data, x, y),
        picked.encode(x=x, y=y),
    ]
    chart = alt.layer(*layers).add_params(alt.param(name=SHOW_STOPPED, value=False))
    return chart.properties(height=FRONT_HEIGHT_PX)


def _axes(data: FigureData) -> tuple[Any, Any]:
    kind = "log" if data.throughput.log else "linear"
    options = {"base": 2} if data.throughput.log else {"zero": False}
    x = alt.X(
        "ratio:Q",
        title=[data.throughput_title, "higher is better"],
        scale=alt.Scale(type=kind, domain=list(data.ratio_range), nice=False, **options),
        axis=alt.Axis(
            format=RATIO_TICKS,
            labelOverlap=True,
            titleLimit=620,
            titleFontSize=alt.ExprRef(f"width < {NARROW_PX} ? 9 : 11"),
        ),
    )
    y = alt.Y(
        "score:Q",
        title=f"{data.score_word}, higher is better",
        scale=alt.Scale(domain=_score_domain(data), nice=False, zero=False),
    )
    return x, y


def _score_domain(data: FigureData) -> list[Any]:
    """Return the ends of the score's axis, which reaches further down while early-stopped candidates are shown."""
    ends = zip(data.score_range_of_all, data.score_range, strict=True)
    return [alt.ExprRef(f"{SHOW_STOPPED} ? {with_them:.6g} : {without:.6g}") for with_them, without in ends]


def _legend(data: FigureData) -> Any:
    """Return the legend of the kinds in the front's chart; early-stopped candidates are named while they are shown."""
    present = {point.kind for point in data.points}
    kinds = [kind for kind in MARKS if kind in present]
    shown = [kind for kind in kinds if kind != STOPPED]
    return alt.Legend(
        title=None,
        orient="top",
        symbolSize=70,
        values=alt.ExprRef(f"{SHOW_STOPPED} ? {json.dumps(kinds)} : {json.dumps(shown)}"),
    )


def _scale_rules(data: FigureData, x: Any) -> list[Any]:
    """Draw a vertical line with its name for each comparison network that lies inside the axis."""
    if not any(model.inside for model in data.scale):
        return []
    models = alt.Chart(alt.NamedData(name="scale"))
    rule = models.mark_rule(color=FAINT, strokeDash=[1, 3], strokeWidth=1.2)
    # At the bottom, above the crosses: the front and its labels are at the top.
    place = {"angle": 270, "align": "left", "baseline": "bottom", "dx": 18, "dy": -3, "fontSize": 10, "opacity": _WIDE}
    halo = models.mark_text(color=PAPER, stroke=PAPER, strokeWidth=4, strokeJoin="round", **place)
    names = (halo, models.mark_text(color=FAINT, **place))
    tips = [tip("name", "measured only"), tip("ratio", data.throughput.label, ".3f")]
    return [
        rule.encode(x=x, tooltip=tips),
        *(name.encode(x=x, y=alt.value(FRONT_HEIGHT_PX), text="name:N") for name in names),
    ]


def _marks(data: FigureData, trained: Any, x: Any, y: Any) -> list[Any]:
    """Draw the trained candidates; the size of a mark is the first further objective; marks without it are small."""
    size: Any = alt.value(58)
    if len(data.points) > MANY_POINTS:  # then the front and the baselines must be larger, not only on top
        size = alt.when(alt.FieldOneOfPredicate("kind", [FRONT, BASELINE])).then(alt.value(64)).otherwise(alt.value(22))
    layers = [(trained, size)]
    for objective in data.further[:1]:
        kind = {"type": "log", "base": 2} if objective.log else {"zero": False}
        scale, legend = alt.Scale(range=[16, 260], **kind), alt.Legend(orient="bottom", format=FURTHER_FORMAT)
        sized = alt.Size("further_0:Q", scale=scale, title=_title(objective), legend=legend)
        without = trained.transform_filter("!isValid(datum.further_0)")
        layers = [(without, alt.value(40)), (trained.transform_filter("isValid(datum.further_0)"), sized)]
    tips = _tooltip(data)
    return [
        by_kind(points.mark_point(strokeWidth=1.5, opacity=0.9, clip=True), _legend(data)).encode(
            x=x, y=y, tooltip=tips, size=size
        )
        for points, size in layers
    ]


def _title(objective: Objective) -> str:
    unit = f" ({objective.unit})" if objective.unit else ""
    return f"{brief(objective.label)}{unit}, {'lower' if objective.minimize else 'higher'} is better"


def _tooltip(data: FigureData) -> list[Any]:
    return [
        tip("name", "candidate"),
        tip("kind", "status"),
        tip("score", data.score_word, ".3f"),
        tip("ratio", data.throughput.label, ".3f"),
        tip("note", "throughput"),
        tip("ratio_low", "95 % from", ".3f"),
        tip("ratio_high", "95 % to", ".3f"),
        tip("img_s", "images/s", ",.1f"),
        *(tip(f"further_{i}", _title(objective), FURTHER_FORMAT) for i, objective in enumerate(data.further)),
    ]


def _direction(data: FigureData, x: Any, y: Any) -> Any:
    """Mark the direction of improvement."""
    corner = {"ratio": data.ratio_range[1], "score": data.score_range[1], "text": "better ↗"}
    better = alt.Chart(alt.Data(values=[corner])).mark_text(
        align="right", dx=-8, dy=14, color=FAINT, fontStyle="italic"
    )
    return better.encode(x=x, y=y, text="text:N")
