"""The report's interactive charts: Altair specifications with named data sets, which the page fills in.

Colors are CSS custom properties, so one chart serves the light, the dark and the printed page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from markupsafe import Markup

from nas.study.records import Objective
from reports.document import chart_svg
from reports.figure_data import (
    BASELINE,
    DOMINATED,
    FRONT,
    INFEASIBLE,
    MARKS,
    SERIES,
    STOPPED,
    FigureData,
    LearningCurves,
    MetricScatter,
)
from reports.formatting import brief
from reports.importance import Importance
from reports.label_sides import OFFSET_PX
from reports.scored_trials import OBJECTIVE_WORDS
from reports.timeline import MEASURING, TRAINING, WAITING

Specification = dict[str, Any]  # Vega-Lite

INK, FAINT, GRID, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
TEXT_STYLE = {"labelColor": INK, "titleColor": INK, "labelFont": FONT, "titleFont": FONT, "titleFontWeight": 500}
NARROW_PX = 420  # a phone
WIDE_LABELS_PX = 640  # narrower charts have the labels that were placed for a phone
FRONT_HEIGHT_PX = 420
CURVE_HEIGHT_PX = 240
SMALL_HEIGHT_PX = 170
TITLE_LIMIT_PX = FRONT_HEIGHT_PX
THIRD_FORMAT = ",.4~r"  # four digits, no exponent
RATIO_TICKS = ".4~g"
MAX_COUNT_TICKS = 10  # that are given one by one
MANY_POINTS = 1500  # the intervals of more dominated trials would hide everything else
MAX_CHOICES = 12  # in a chart of importance
SCORE, VARIANCE_EXPLAINED = OBJECTIVE_WORDS["score"], "explained variance"
_WIDE = alt.ExprRef(f"width < {NARROW_PX} ? 0 : 1")  # opacity of what a phone has no room for
SHOW_STOPPED = "show_stopped"  # parameter of the front's chart: whether early-stopped candidates are drawn
OTHERS = "other candidates"
TIME_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
RETRAINED_SCORE = "mean score of the longer trainings"


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
        specification = (
            chart.properties(width=width, height=height, background="transparent", autosize=_FIT)
            .configure(font=FONT, aria=False)
            .configure_view(stroke=None)
            .configure_axis(gridColor=GRID, domainColor=FAINT, tickColor=FAINT, titleLimit=height - 60, **TEXT_STYLE)
            .configure_legend(symbolBaseFillColor=INK, **TEXT_STYLE)
            .to_dict()
        )
        drawn.append(f'<div class="chart {size}">{chart_svg(specification)}</div>')
    return Markup("".join(drawn))


def page_charts(data: FigureData) -> dict[str, Specification]:
    """Return the large charts by name; charts without data are left out."""
    built: dict[str, Any] = {
        "front": _front_chart(data) if data.points and data.single is None else None,
        "teachers": _teacher_chart(data) if data.teachers else None,
        "time-spent": _time_chart(data) if data.time_spent else None,
        "score-curves": _score_curves_chart(data) if data.score_curves else None,
        "timeline": _timeline_chart(data) if data.spans else None,
    }
    return {name: _specification(chart) for name, chart in built.items() if chart is not None}


def small_charts(data: FigureData) -> dict[str, Specification]:
    """Return the small charts that stand in rows: score against metrics, learning curves, hypervolume."""
    small = {f"metric-{i}": _metric_chart(i, scatter) for i, scatter in enumerate(data.metrics)}
    small |= {f"learning-{i}": _learning_chart(i, curves) for i, curves in enumerate(data.learning_curves)}
    built = {name: chart.properties(height=SMALL_HEIGHT_PX) for name, chart in small.items()}
    built |= {name: chart.properties(height=CURVE_HEIGHT_PX) for name, chart in _hypervolume_charts(data).items()}
    return {name: _specification(chart) for name, chart in built.items()}


def retraining_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Specification]:
    """Return the chart of retrained models: score in the study against the mean of the longer trainings."""
    if not rows:
        return {}
    points = alt.Chart(alt.NamedData(name="retraining"))
    x = alt.X("short:Q", title="score in the study", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8))
    y = alt.Y("long:Q", title=RETRAINED_SCORE, scale=alt.Scale(zero=False))
    kinds, styles = ["retrained", BASELINE], [MARKS[FRONT], MARKS[BASELINE]]
    legend = alt.Legend(title=None, orient="top")
    marks = points.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        y=y,
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[s.css for s in styles]), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[s.vega_shape for s in styles]), legend=legend),
        tooltip=[_tip("name", "model"), _tip("short", "score in the study", ".3f"), _tip("long", "retrained", ".3f")],
    )
    bars = points.mark_rule(color=FAINT).encode(x=x, y=alt.Y("low:Q", title=RETRAINED_SCORE), y2="high:Q")
    named = points.transform_filter(alt.datum.kind == BASELINE)  # candidates lie too close: their tooltips name them
    labels = named.mark_text(align="right", dx=-8, dy=-7, color=INK, fontSize=10).encode(x=x, y=y, text="name:N")
    return {"retraining": _specification(alt.layer(bars, marks, labels).properties(height=CURVE_HEIGHT_PX))}


def importance_rows(importances: Sequence[Importance]) -> list[dict[str, Any]]:
    """Return the data set of `importance_charts`: the most important choices for each objective."""
    objectives = list(dict.fromkeys(i.objective for i in importances))
    return [
        {
            "which": which,
            "objective": brief(OBJECTIVE_WORDS.get(name, name), 60),
            "choice": brief(i.choice, 60),
            "share": i.share,
            "low": i.low,
            "high": i.high,
        }
        for which, name in enumerate(objectives)
        for i in sorted((i for i in importances if i.objective == name), key=lambda i: -i.share)[:MAX_CHOICES]
    ]


def importance_charts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Specification]:
    """Return one chart per objective: the share of its variance that each choice explains."""
    return {
        f"importance-{which}": _importance_chart(which, [row for row in rows if row["which"] == which])
        for which in sorted({row["which"] for row in rows})
    }


def _specification(chart: Any) -> Specification:
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
            gridColor=GRID, domainColor=GRID, tickColor=GRID, titlePadding=10, titleLimit=TITLE_LIMIT_PX, **TEXT_STYLE
        )
        .configure_legend(symbolBaseFillColor=INK, symbolBaseStrokeColor=INK, **TEXT_STYLE)
        .configure_text(font=FONT)
        .to_dict(validate=False)
    )


def _by_kind(chart: Any, legend: Any = None) -> Any:
    """Encode the kind of a point by shape, outline and fill, with one merged legend if there is one."""
    kinds, styles = list(MARKS), list(MARKS.values())
    entries = legend
    return chart.encode(
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[s.vega_shape for s in styles]), legend=entries),
        stroke=alt.Stroke("kind:N", scale=alt.Scale(domain=kinds, range=[s.css for s in styles]), legend=entries),
        fill=alt.Fill(
            "kind:N",
            scale=alt.Scale(domain=kinds, range=[s.css if s.filled else "transparent" for s in styles]),
            legend=entries,
        ),
    )


def _front_legend(data: FigureData) -> Any:
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


def _tip(field: str, title: str, number_format: str | None = None) -> Any:
    if number_format is None:
        return alt.Tooltip(f"{field}:N", title=brief(title))
    return alt.Tooltip(f"{field}:Q", title=brief(title), format=number_format)


def _front_chart(data: FigureData) -> Any:
    """Draw throughput against score: points by kind, intervals, the front's steps, models measured for scale.

    The page sets the parameter `SHOW_STOPPED`; without it, early-stopped candidates are hidden.
    """
    x, y = _front_axes(data)
    points = alt.Chart(alt.NamedData(name="points")).transform_filter(
        f"{SHOW_STOPPED} || datum.kind != {json.dumps(STOPPED)}"
    )
    trained = points.transform_filter("isValid(datum.score)")
    never_trained = _by_kind(
        points.transform_filter("!isValid(datum.score)").mark_point(strokeWidth=1.5, size=80), _front_legend(data)
    ).encode(x=x, y=alt.value(FRONT_HEIGHT_PX - 6), tooltip=_front_tooltip(data))
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
        *_front_marks(data, trained, x, y),
        ring.mark_point(size=200, strokeWidth=1.8, color=MARKS[FRONT].css, filled=False).encode(x=x, y=y),
        labels[1],
        _front_direction(data, x, y),
        picked.encode(x=x, y=y),
    ]
    chart = alt.layer(*layers).add_params(alt.param(name=SHOW_STOPPED, value=False))
    return chart.properties(height=FRONT_HEIGHT_PX)


def _scale_rules(data: FigureData, x: Any) -> list[Any]:
    """Draw a vertical line with its name for each model that was measured for scale and lies inside the axis."""
    if not any(model.inside for model in data.scale):
        return []
    models = alt.Chart(alt.NamedData(name="scale"))
    rule = models.mark_rule(color=FAINT, strokeDash=[1, 3], strokeWidth=1.2)
    # At the bottom, above the crosses: the front and its labels are at the top.
    place = {"angle": 270, "align": "left", "baseline": "bottom", "dx": 18, "dy": -3, "fontSize": 10, "opacity": _WIDE}
    halo = models.mark_text(color=PAPER, stroke=PAPER, strokeWidth=4, strokeJoin="round", **place)
    names = (halo, models.mark_text(color=FAINT, **place))
    tips = [_tip("name", "measured only"), _tip("ratio", data.throughput.label, ".3f")]
    return [
        rule.encode(x=x, tooltip=tips),
        *(name.encode(x=x, y=alt.value(FRONT_HEIGHT_PX), text="name:N") for name in names),
    ]


def _front_axes(data: FigureData) -> tuple[Any, Any]:
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
        title=f"{SCORE}, higher is better",
        scale=alt.Scale(domain=_score_domain(data), nice=False, zero=False),
    )
    return x, y


def _score_domain(data: FigureData) -> list[Any]:
    """Return the ends of the score's axis, which reaches further down while early-stopped candidates are shown."""
    ends = zip(data.score_range_of_all, data.score_range, strict=True)
    return [alt.ExprRef(f"{SHOW_STOPPED} ? {with_them:.6g} : {without:.6g}") for with_them, without in ends]


def _front_marks(data: FigureData, trained: Any, x: Any, y: Any) -> list[Any]:
    """Draw the trained candidates; a third objective is the size of a mark, and marks without one are small."""
    size: Any = alt.value(58)
    if len(data.points) > MANY_POINTS:  # then the front and the baselines must be larger, not only on top
        size = alt.when(alt.FieldOneOfPredicate("kind", [FRONT, BASELINE])).then(alt.value(64)).otherwise(alt.value(22))
    layers = [(trained, size)]
    if data.third is not None:
        kind = {"type": "log", "base": 2} if data.third.log else {"zero": False}
        scale, legend = alt.Scale(range=[16, 260], **kind), alt.Legend(orient="bottom", format=THIRD_FORMAT)
        third = alt.Size("third:Q", scale=scale, title=_third_title(data.third), legend=legend)
        without = trained.transform_filter("!isValid(datum.third)")
        layers = [(without, alt.value(40)), (trained.transform_filter("isValid(datum.third)"), third)]
    tips = _front_tooltip(data)
    return [
        _by_kind(points.mark_point(strokeWidth=1.5, opacity=0.9, clip=True), _front_legend(data)).encode(
            x=x, y=y, tooltip=tips, size=size
        )
        for points, size in layers
    ]


def _third_title(third: Objective) -> str:
    unit = f" ({third.unit})" if third.unit else ""
    return f"{brief(third.label)}{unit}, {'lower' if third.minimize else 'higher'} is better"


def _front_tooltip(data: FigureData) -> list[Any]:
    return [
        _tip("name", "candidate"),
        _tip("kind", "status"),
        _tip("score", SCORE, ".3f"),
        _tip("ratio", data.throughput.label, ".3f"),
        _tip("note", "throughput"),
        _tip("ratio_low", "95 % from", ".3f"),
        _tip("ratio_high", "95 % to", ".3f"),
        _tip("img_s", "images/s", ",.1f"),
        *([] if data.third is None else [_tip("third", _third_title(data.third), THIRD_FORMAT)]),
    ]


def _front_direction(data: FigureData, x: Any, y: Any) -> Any:
    """Mark the direction of improvement."""
    corner = {"ratio": data.ratio_range[1], "score": data.score_range[1], "text": "better ↗"}
    better = alt.Chart(alt.Data(values=[corner])).mark_text(
        align="right", dx=-8, dy=14, color=FAINT, fontStyle="italic"
    )
    return better.encode(x=x, y=y, text="text:N")


def _teacher_chart(data: FigureData) -> Any:
    """Draw the explained variance by teacher and head for the front and the baselines, best model first."""
    names = list(dict.fromkeys(row[0] for row in data.teachers))
    teachers = list(dict.fromkeys(row[1] for row in data.teachers))
    legend = alt.Legend(title=None, orient="top")
    colors = [SERIES[i % len(SERIES)][0] for i in range(len(teachers))]
    x_title = "explained variance of the teacher's features"
    return (
        alt.Chart(alt.NamedData(name="teachers"))
        .mark_point(filled=True, size=64, opacity=0.85)
        .encode(
            x=alt.X("score:Q", title=x_title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8)),
            y=alt.Y("name:N", title=None, sort=names, axis=alt.Axis(grid=True, labelLimit=150)),
            color=alt.Color("teacher:N", scale=alt.Scale(domain=teachers, range=colors), legend=legend),
            shape=alt.Shape("head:N", legend=alt.Legend(title=None, orient="top")),
            tooltip=[
                _tip("name", "model"),
                _tip("teacher", "teacher"),
                _tip("head", "head"),
                _tip("score", VARIANCE_EXPLAINED, ".3f"),
            ],
        )
        .properties(height=24 * len(names))
    )


def _time_chart(data: FigureData) -> Any:
    """Draw the seconds spent by purpose."""
    order = [purpose for purpose, _ in data.time_spent]
    bars = alt.Chart(alt.NamedData(name="time-spent")).encode(
        x=alt.X("seconds:Q", title="seconds", axis=alt.Axis(tickCount=8, labelOverlap=True)),
        y=alt.Y("purpose:N", title=None, sort=order, axis=alt.Axis(labelLimit=150)),
        tooltip=[_tip("purpose", "purpose"), _tip("seconds", "seconds", ",.1f")],
    )
    return bars.mark_bar(color=MARKS[FRONT].css, cornerRadius=2, height={"band": 0.66}).properties(
        height=28 * len(order)
    )


def _metric_chart(which: int, scatter: MetricScatter) -> Any:
    """Draw the distillation score against one metric."""
    points = alt.Chart(alt.NamedData(name="metrics"), title=scatter.label).transform_filter(f"datum.which == {which}")
    return _by_kind(points.mark_point(strokeWidth=1.2, size=30)).encode(
        x=alt.X("score:Q", title=SCORE, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        tooltip=[_tip("name", "model"), _tip("score", SCORE, ".3f"), _tip("value", scatter.label, ".3f")],
    )


def _learning_chart(which: int, curves: LearningCurves) -> Any:
    """Draw the explained variance of one teacher by training steps, a line per model."""
    steps = sorted({point[3] for point in curves.points})
    domain = [steps[0] / 1.2, steps[-1] * 1.2]
    lines = alt.Chart(alt.NamedData(name="learning-curves"), title=curves.teacher)
    kinds = [FRONT, BASELINE]
    return (
        lines.transform_filter(f"datum.which == {which}")
        .mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=1.2, opacity=0.75)
        .encode(
            x=alt.X(
                "steps:Q",
                title="steps",
                scale=alt.Scale(type="log", domain=domain, nice=False),
                axis=alt.Axis(values=steps, format="d"),
            ),
            y=alt.Y("score:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
            detail="number:N",
            color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[MARKS[k].css for k in kinds]), legend=None),
            tooltip=[_tip("name", "model"), _tip("steps", "steps", "d"), _tip("score", VARIANCE_EXPLAINED, ".3f")],
        )
    )


def _score_curves_chart(data: FigureData) -> Any:
    """Draw the score of every candidate by training steps: the front and the baselines over all others."""
    steps = sorted({point[3] for point in data.score_curves})
    present = {kind if kind in (FRONT, BASELINE) else OTHERS for _, _, kind, _, _ in data.score_curves}
    looks = {
        OTHERS: (MARKS[DOMINATED].css, 0.8, 0.5),
        FRONT: (MARKS[FRONT].css, 1.4, 0.9),
        BASELINE: (MARKS[BASELINE].css, 2.0, 1.0),
    }
    kinds = [kind for kind in looks if kind in present]  # a layer without data would warn on the console
    colors = [looks[kind][0] for kind in kinds]
    lines = alt.Chart(alt.NamedData(name="score-curves"))
    x = alt.X(
        "steps:Q",
        title="training steps",
        scale=alt.Scale(type="log", domain=[steps[0] / 1.1, steps[-1] * 1.1], nice=False),
        axis=alt.Axis(values=steps, format="d"),
    )
    y = alt.Y("score:Q", title=f"{SCORE}, higher is better", scale=alt.Scale(zero=False))
    tips = [_tip("name", "candidate"), _tip("kind", "status"), _tip("steps", "steps", "d"), _tip("score", SCORE, ".3f")]
    legend = alt.Legend(
        title=None,
        orient="top",
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=2,
    )
    layers = []
    for kind in kinds:
        _, width, opacity = looks[kind]
        of_kind = lines.transform_calculate(
            shown=f"indexof({json.dumps(kinds)}, datum.kind) < 0 ? {json.dumps(OTHERS)} : datum.kind"
        ).transform_filter(f"datum.shown == {json.dumps(kind)}")
        color = alt.Color("shown:N", scale=alt.Scale(domain=kinds, range=colors), legend=legend)
        mark = of_kind.mark_line(strokeWidth=width, opacity=opacity, point=alt.OverlayMarkDef(size=12, opacity=opacity))
        layers.append(mark.encode(x=x, y=y, detail="number:N", color=color, tooltip=tips))
    return alt.layer(*layers).properties(height=CURVE_HEIGHT_PX)


def _timeline_chart(data: FigureData) -> Any:
    """Draw when each worker measured and trained, a row per worker."""
    lanes = 1 + max(span.lane for span in data.spans)
    kinds, colors = [MEASURING, TRAINING, WAITING], [SERIES[1][0], SERIES[0][0], GRID]
    seconds = max(span.end_s for span in data.spans)
    unit, size = next((unit, size) for unit, size in TIME_UNITS if seconds >= 3 * size or size == 1)
    bars = (
        alt.Chart(alt.NamedData(name="timeline"))
        .transform_calculate(begin=f"datum.begin_s / {size}", end=f"datum.end_s / {size}", row="datum.lane + 1")
        .mark_bar(height={"band": 0.8})
    )
    legend = alt.Legend(title=None, orient="top")
    return bars.encode(
        x=alt.X("begin:Q", title=f"{unit} since the study began", axis=alt.Axis(labelOverlap=True)),
        x2="end:Q",
        y=alt.Y("row:O", title="worker", axis=alt.Axis(labelOverlap=True)),
        color=alt.Color("doing:N", scale=alt.Scale(domain=kinds, range=colors), legend=legend),
        tooltip=[
            _tip("name", "trial"),
            _tip("doing", "doing"),
            _tip("begin_s", "from, s", ",.1f"),
            _tip("end_s", "to, s", ",.1f"),
        ],
    ).properties(height=max(60, min(26, 900 // lanes) * lanes))


def _hypervolume_charts(data: FigureData) -> dict[str, Any]:
    """Draw the hypervolume by trainings and by time."""
    if not data.curve:
        return {}
    evaluated = max(evaluations for evaluations, _, _ in data.curve)
    charts = {"curve": _hypervolume_chart(data, "evaluations", "architectures evaluated", count_axis(evaluated))}
    if any(seconds is not None for _, seconds, _ in data.curve):
        axis = alt.Axis(tickMinStep=1, format=",d", labelOverlap=True)
        charts["curve-seconds"] = _hypervolume_chart(data, "seconds", "seconds since the study began", axis)
    return charts


def count_axis(most: int) -> Any:
    """Return the axis of a count from 0 to `most`; Vega's own ticks of small counts have halves between them."""
    few = {"values": list(range(most + 1))} if most <= MAX_COUNT_TICKS else {}
    return alt.Axis(format="d", labelOverlap=True, **few)


def _hypervolume_chart(data: FigureData, field: str, title: str, axis: Any) -> Any:
    """Draw the hypervolume, what random search is expected to reach, and the level of the baselines."""
    color = MARKS[FRONT].css
    what = "hypervolume" if data.single is None else f"best {brief(data.single.label)}"
    curve = alt.Chart(alt.NamedData(name="curve")).encode(
        x=alt.X(f"{field}:Q", title=title, axis=axis),
        y=alt.Y("hypervolume:Q", title=f"{what}, higher is better", scale=alt.Scale(zero=True)),
    )
    steps = curve.transform_filter("datum.improved").mark_point(filled=True, size=30, color=color, opacity=1)
    tips = [
        _tip("evaluations", "evaluations", "d"),
        _tip("hypervolume", "hypervolume", ".4f"),
        _tip("seconds", "seconds", ",.0f"),
    ]
    layers = [curve.mark_line(interpolate="step-after", color=color, strokeWidth=2), steps.encode(tooltip=tips)]
    if data.random_start and field == "evaluations":
        random = alt.Chart(alt.NamedData(name="random-start")).mark_line(color=MARKS[INFEASIBLE].css, strokeDash=[2, 3])
        layers.append(random.encode(x="evaluations:Q", y="hypervolume:Q", tooltip=tips[:2]))
    if data.baseline_hypervolume > 0:
        color = MARKS[BASELINE].css
        level = alt.Chart(alt.Data(values=[{"y": data.baseline_hypervolume, "text": "baselines alone"}]))
        layers.append(level.mark_rule(color=color, strokeDash=[5, 4], strokeWidth=1.5).encode(y="y:Q"))
        label = level.mark_text(align="right", dx=-6, dy=11, color=INK)
        layers.append(label.encode(y="y:Q", x=alt.value("width"), text="text:N"))
    return alt.layer(*layers)


def _importance_chart(which: int, rows: Sequence[Mapping[str, Any]]) -> Specification:
    order = [row["choice"] for row in rows]
    chart = alt.Chart(alt.NamedData(name="importances"), title=rows[0]["objective"])
    chart = chart.transform_filter(f"datum.which == {which}")
    y = alt.Y("choice:N", title=None, sort=order, axis=alt.Axis(labelLimit=130))
    x = alt.X("share:Q", title="share of the variance", stack=None, axis=alt.Axis(format=".2~%", tickCount=4))
    tips = [
        _tip("choice", "choice"),
        _tip("share", "share", ".3f"),
        _tip("low", "95 % from", ".3f"),
        _tip("high", "95 % to", ".3f"),
    ]
    bars = chart.mark_bar(color=MARKS[FRONT].css, cornerRadius=2, height={"band": 0.6}).encode(x=x, y=y, tooltip=tips)
    intervals = chart.mark_rule(color=INK).encode(x="low:Q", x2="high:Q", y=y)
    return _specification(alt.layer(bars, intervals).properties(height=22 * len(order)))
