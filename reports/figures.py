"""The report's interactive charts: Altair specifications whose data sets are named and filled in by the page.

Colours are CSS custom properties, so one picture serves the light, the dark and the printed page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reports.importance import Importance
from reports.points import BASELINE, FRONT, INFEASIBLE, LOOKS, SERIES, FigureData, Rise, Scatter

INK, FAINT, GRID, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
FRONT_HEIGHT_PX = 420
SMALL_HEIGHT_PX = 170
CURVE_HEIGHT_PX = 240
MATTERING = 12  # choices in the picture of what matters
IMPORTANCE_TIPS = (("share", "share"), ("low", "95 % from"), ("high", "95 % to"))
MANY = 1500  # points: whiskers of the dominated ones would be a smear
NARROW_PX = 420  # on a phone, point labels would overlap and a legend in one row would be cut off


def charts(data: FigureData) -> dict[str, dict[str, Any]]:
    """Vega-Lite specifications by the name of the figure; figures without any data are left out."""
    built: dict[str, Any] = {
        "front": front_chart(data) if data.points and data.single is None else None,
        "teachers": teacher_chart(data) if data.teachers else None,
        "ledger": ledger_chart(data) if data.ledger else None,
    }
    return {name: _themed(chart).to_dict() for name, chart in built.items() if chart is not None}


def multiples(data: FigureData) -> dict[str, dict[str, Any]]:
    """Specifications of the small charts that stand in rows: quality against metrics, explained variance by steps."""
    built = {f"metric-{i}": metric_chart(i, scatter) for i, scatter in enumerate(data.metrics)}
    built |= {f"rise-{i}": rise_chart(i, rise) for i, rise in enumerate(data.rises)}
    built |= curve_charts(data)
    return {name: _themed(chart.properties(height=CURVE_HEIGHT_PX if "curve" in name else SMALL_HEIGHT_PX)).to_dict() for name, chart in built.items()}


def metric_chart(which: int, scatter: Scatter) -> Any:
    """Quality against one metric."""
    points = alt.Chart(alt.NamedData(name="metrics"), title=scatter.label)
    marks = _kinds(
        points.transform_filter(f"datum.which == {which}").mark_point(strokeWidth=1.2, size=30), legend=False
    )
    return marks.encode(
        x=alt.X("quality:Q", title="quality", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        tooltip=[_tip("net", "net"), _tip("quality", "quality", ".3f"), _tip("value", scatter.label, ".3f")],
    )


def rise_chart(which: int, rise: Rise) -> Any:
    """Explained variance of one teacher by distillation steps, a line a net."""
    steps = sorted({point[3] for point in rise.points})
    domain = [steps[0] / 1.2, steps[-1] * 1.2]
    lines = alt.Chart(alt.NamedData(name="rises"), title=rise.teacher).transform_filter(f"datum.which == {which}")
    names = [FRONT, BASELINE]
    return lines.mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=1.2, opacity=0.75).encode(
        x=alt.X(
            "steps:Q",
            title="steps",
            scale=alt.Scale(type="log", domain=domain, nice=False),
            axis=alt.Axis(values=steps, format="d"),
        ),
        y=alt.Y("quality:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        detail="number:N",
        color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=[LOOKS[k].css for k in names]), legend=None),
        tooltip=[_tip("net", "net"), _tip("steps", "steps", "d"), _tip("quality", "explained variance", ".3f")],
    )


def front_chart(data: FigureData) -> Any:
    """Throughput against quality: points by kind, intervals, the front's steps, the reference point."""
    x, y = _axes(data)
    points = alt.Chart(alt.NamedData(name="points"))
    trained = points.transform_filter("isValid(datum.quality)")
    size = 58 if len(data.points) <= MANY else 26
    marks = _kinds(trained.mark_point(strokeWidth=1.5, opacity=0.9, size=size)).encode(
        x=x, y=y, tooltip=_front_tooltip(data), **_third(data)
    )
    never_trained = _kinds(
        points.transform_filter("!isValid(datum.quality)").mark_point(strokeWidth=1.5, size=80)
    ).encode(x=x, y=alt.value(FRONT_HEIGHT_PX - 6), tooltip=_front_tooltip(data))
    with_whiskers = trained
    if len(data.points) > MANY:
        with_whiskers = trained.transform_filter(alt.FieldOneOfPredicate("kind", [FRONT, BASELINE]))
    whiskers = with_whiskers.mark_rule(color=FAINT, opacity=0.55).encode(x="ratio_low:Q", x2="ratio_high:Q", y=y)
    steps = (
        alt.Chart(alt.NamedData(name="staircase"))
        .mark_line(interpolate="step-before", color=LOOKS["on the front"].css, strokeWidth=1.5, opacity=0.8)
        .encode(x=x, y=y, order="order:O")
    )
    named = trained.transform_filter("datum.label != ''")
    place = {"align": "left", "dx": 8, "dy": -8, "fontSize": 11, "opacity": alt.ExprRef(f"width < {NARROW_PX} ? 0 : 1")}
    halo = named.mark_text(color=PAPER, stroke=PAPER, strokeWidth=4, strokeJoin="round", **place)
    labels = [layer.encode(x=x, y=y, text="label:N") for layer in (halo, named.mark_text(color=INK, **place))]
    layers = [steps, whiskers, labels[0], never_trained, marks, labels[1], *_directions(data, x, y)]
    picked = alt.Chart(alt.NamedData(name="picked")).mark_point(size=260, strokeWidth=2.5, color=INK, filled=False)
    layers.append(picked.encode(x=x, y=y))
    return alt.layer(*layers).properties(height=FRONT_HEIGHT_PX)


def curve_charts(data: FigureData) -> dict[str, Any]:
    """Hypervolume by trainings and by the study's clock, with what random search and the baselines come to."""
    if not data.curve:
        return {}
    by = {"curve": _curve(data, "evaluations", "architectures evaluated", "d")}
    if any(seconds is not None for _, seconds, _ in data.curve):
        by["curve-seconds"] = _curve(data, "seconds", "seconds since the study began", ",d")
    return by


def _curve(data: FigureData, field: str, title: str, number_format: str) -> Any:
    colour = LOOKS["on the front"].css
    what = "hypervolume" if data.single is None else f"best {data.single.label} over the reference"
    curve = alt.Chart(alt.NamedData(name="curve")).encode(
        x=alt.X(f"{field}:Q", title=title, axis=alt.Axis(tickMinStep=1, format=number_format, labelOverlap=True)),
        y=alt.Y("hypervolume:Q", title=f"{what}, higher is better", scale=alt.Scale(zero=True)),
    )
    steps = curve.transform_filter("datum.improved").mark_point(filled=True, size=30, color=colour, opacity=1)
    tips = [
        _tip("evaluations", "evaluations", "d"),
        _tip("hypervolume", "hypervolume", ".4f"),
        _tip("seconds", "seconds", ",.0f"),
    ]
    layers = [curve.mark_line(interpolate="step-after", color=colour, strokeWidth=2), steps.encode(tooltip=tips)]
    if data.chance and field == "evaluations":
        chance = alt.Chart(alt.NamedData(name="chance")).mark_line(color=LOOKS[INFEASIBLE].css, strokeDash=[2, 3])
        layers.append(chance.encode(x="evaluations:Q", y="hypervolume:Q", tooltip=tips[:2]))
    if data.baseline_hypervolume > 0:
        level = alt.Chart(alt.Data(values=[{"y": data.baseline_hypervolume, "text": "baselines alone"}]))
        layers.append(level.mark_rule(color=LOOKS["baseline"].css, strokeDash=[5, 4], strokeWidth=1.5).encode(y="y:Q"))
        words = level.mark_text(align="right", dx=-6, dy=11, color=LOOKS["baseline"].css)
        layers.append(words.encode(y="y:Q", x=alt.value("width"), text="text:N"))
    return alt.layer(*layers)


def teacher_chart(data: FigureData) -> Any:
    """Explained variance per teacher and head, for the front and the baselines, best net first."""
    nets = list(dict.fromkeys(row[0] for row in data.teachers))
    teachers = list(dict.fromkeys(row[1] for row in data.teachers))
    legend = alt.Legend(title=None, orient="top", columns=_columns(len(teachers)))
    colours = [SERIES[i % len(SERIES)][0] for i in range(len(teachers))]
    return (
        alt.Chart(alt.NamedData(name="teachers"))
        .mark_point(filled=True, size=64, opacity=0.85)
        .encode(
            x=alt.X("quality:Q", title="explained variance of the teacher's features", scale=alt.Scale(zero=False)),
            y=alt.Y("net:N", title=None, sort=nets, axis=alt.Axis(grid=True, labelLimit=150)),
            color=alt.Color(
                "teacher:N",
                scale=alt.Scale(domain=teachers, range=colours),
                legend=legend,
            ),
            shape=alt.Shape("head:N", legend=alt.Legend(title=None, orient="bottom")),
            tooltip=[
                _tip("net", "net"),
                _tip("teacher", "teacher"),
                _tip("head", "head"),
                _tip("quality", "explained variance", ".3f"),
            ],
        )
        .properties(height=24 * len(nets))
    )


def trained_again(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the finalists: quality in the study against the mean of longer trainings."""
    if not rows:
        return {}
    points = alt.Chart(alt.NamedData(name="finals"))
    x = alt.X("short:Q", title="quality in the study", scale=alt.Scale(zero=False))
    y = alt.Y("long:Q", title="mean of the longer trainings", scale=alt.Scale(zero=False))
    names, looks = ["finalist", "baseline"], [LOOKS[FRONT], LOOKS[BASELINE]]
    legend = alt.Legend(title=None, orient="top")
    marks = points.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        y=y,
        color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=[k.css for k in looks]), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[k.vega_shape for k in looks]), legend=legend),
        tooltip=[_tip("net", "net"), _tip("short", "in the study", ".3f"), _tip("long", "trained again", ".3f")],
    )
    bars = points.mark_rule(color=FAINT).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q")
    words = points.mark_text(align="left", dx=8, dy=-7, color=INK, fontSize=10).encode(x=x, y=y, text="number:N")
    return {"finals": _themed(alt.layer(bars, marks, words).properties(height=CURVE_HEIGHT_PX)).to_dict()}


def importance_charts(choices: Sequence[Importance]) -> dict[str, dict[str, Any]]:
    """A chart an objective: what share of its differences each choice accounts for."""
    objectives = list(dict.fromkeys(i.objective for i in choices))
    return {f"importance-{i}": _importance_chart(name, choices) for i, name in enumerate(objectives)}


def _importance_chart(objective: str, choices: Sequence[Importance]) -> dict[str, Any]:
    order = [i.choice for i in sorted(choices, key=lambda i: -i.share) if i.objective == objective][:MATTERING]
    rows = alt.Chart(alt.NamedData(name="importances"), title=objective).transform_filter(
        alt.FieldEqualPredicate("objective", objective) & alt.FieldOneOfPredicate("choice", order)
    )
    y = alt.Y("choice:N", title=None, sort=order, axis=alt.Axis(labelLimit=130))
    x = alt.X("share:Q", title="share", axis=alt.Axis(format=".0%", tickCount=5))
    tips = [_tip("choice", "choice"), *(_tip(f, words, ".3f") for f, words in IMPORTANCE_TIPS)]
    bars = rows.mark_bar(color=LOOKS[FRONT].css, cornerRadius=2, height={"band": 0.6}).encode(x=x, y=y, tooltip=tips)
    whiskers = rows.mark_rule(color=INK).encode(x="low:Q", x2="high:Q", y=y)
    return dict(_themed(alt.layer(bars, whiskers).properties(height=22 * len(order))).to_dict())


def ledger_chart(data: FigureData) -> Any:
    """Seconds per purpose."""
    order = [purpose for purpose, _ in data.ledger]
    bars = alt.Chart(alt.NamedData(name="ledger")).encode(
        x=alt.X("seconds:Q", title="seconds"),
        y=alt.Y("purpose:N", title=None, sort=order, axis=alt.Axis(labelLimit=150)),
        tooltip=[_tip("purpose", "purpose"), _tip("seconds", "seconds", ",.1f")],
    )
    return bars.mark_bar(color=LOOKS["on the front"].css, cornerRadius=2, height={"band": 0.66}).properties(
        height=28 * len(order)
    )


def _axes(data: FigureData) -> tuple[Any, Any]:
    kind = "log" if data.speed.log else "linear"
    options = {"base": 2} if data.speed.log else {"zero": False}
    x = alt.X(
        "ratio:Q",
        title=f"{data.speed.label} ({data.speed.unit}), higher is better",
        scale=alt.Scale(type=kind, domain=list(data.ratio_range), nice=False, **options),
        axis=alt.Axis(format=".3~g", labelOverlap=True, titleFontSize=alt.ExprRef(f"width < {NARROW_PX} ? 9 : 11")),
    )
    y = alt.Y(
        "quality:Q",
        title=f"{data.quality.label}, higher is better",
        scale=alt.Scale(domain=list(data.quality_range), nice=False, zero=False),
    )
    return x, y


def _kinds(chart: Any, legend: bool = True) -> Any:
    """Shape, outline and filling by the kind of point; one merged legend."""
    names, looks = list(LOOKS), list(LOOKS.values())
    entries = alt.Legend(title=None, orient="top", columns=_columns(len(names)), symbolSize=70) if legend else None
    return chart.encode(
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[k.vega_shape for k in looks]), legend=entries),
        stroke=alt.Stroke("kind:N", scale=alt.Scale(domain=names, range=[k.css for k in looks]), legend=entries),
        fill=alt.Fill(
            "kind:N",
            scale=alt.Scale(domain=names, range=[k.css if k.filled else "transparent" for k in looks]),
            legend=entries,
        ),
    )


def _third(data: FigureData) -> dict[str, Any]:
    """A third objective is the size of a mark: larger is better."""
    if data.third is None:
        return {}
    scale = alt.Scale(zero=False, range=[16, 260])
    return {"size": alt.Size("third:Q", scale=scale, title=data.third.label, legend=alt.Legend(orient="bottom"))}


def _front_tooltip(data: FigureData) -> list[Any]:
    return [
        _tip("net", "net"),
        _tip("kind", "state"),
        _tip("quality", data.quality.label, ".3f"),
        _tip("ratio", data.speed.label, ".3f"),
        _tip("ratio_low", "95 % from", ".3f"),
        _tip("ratio_high", "95 % to", ".3f"),
        _tip("img_s", "images/s", ",.1f"),
        *([] if data.third is None else [_tip("third", data.third.label, ".3f")]),
    ]


def _directions(data: FigureData, x: Any, y: Any) -> list[Any]:
    """Where better lies, and the hypervolume's reference point where it is in range."""
    corner = {"ratio": data.ratio_range[1], "quality": data.quality_range[1], "text": "better ↗"}
    better = alt.Chart(alt.Data(values=[corner])).mark_text(
        align="right", dx=-8, dy=14, color=FAINT, fontStyle="italic"
    )
    layers = [better.encode(x=x, y=y, text="text:N")]
    if data.reference_inside:
        point = {"ratio": data.speed.reference, "quality": data.quality.reference, "text": "reference point"}
        chart = alt.Chart(alt.Data(values=[point]))
        layers.append(chart.mark_point(shape="square", size=50, color=FAINT, filled=False).encode(x=x, y=y))
        layers.append(chart.mark_text(align="left", dx=8, dy=-8, color=FAINT).encode(x=x, y=y, text="text:N"))
    return layers


def _columns(entries: int) -> Any:
    return alt.ExprRef(f"width < {NARROW_PX} ? 2 : {entries}")


def _tip(field: str, title: str, number_format: str | None = None) -> Any:
    if number_format is None:
        return alt.Tooltip(f"{field}:N", title=title)
    return alt.Tooltip(f"{field}:Q", title=title, format=number_format)


def _themed(chart: Any) -> Any:
    text = {"labelColor": INK, "titleColor": INK, "labelFont": FONT, "titleFont": FONT, "titleFontWeight": 500}
    return (
        chart.properties(width="container", background="transparent", autosize={"type": "fit-x", "contains": "padding"})
        .configure(font=FONT, aria=False)  # the tables are the text alternative; thousands of labels are none
        .configure_view(stroke=None)
        .configure_title(color=INK, font=FONT, fontSize=12, fontWeight=500, anchor="start")
        .configure_axis(gridColor=GRID, domainColor=GRID, tickColor=GRID, titlePadding=10, **text)
        .configure_legend(symbolBaseFillColor=INK, symbolBaseStrokeColor=INK, **text)
        .configure_text(font=FONT)
    )
