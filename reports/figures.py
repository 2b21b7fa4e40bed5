"""The report's interactive charts: Altair specifications whose data sets are named and filled in by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reports.front_figure import front_chart
from reports.importance import Importance
from reports.points import BASELINE, FRONT, INFEASIBLE, LOOKS, SERIES, FigureData, Rise, Scatter
from reports.theme import FAINT, INK, columns, kinds, themed, tip
from reports.wording import brief

SMALL_HEIGHT_PX = 170
CURVE_HEIGHT_PX = 240
RETRAINED_QUALITY = "mean of the longer trainings"
MATTERING = 12  # choices in the picture of what matters
IMPORTANCE_TIPS = (("share", "share"), ("low", "95 % from"), ("high", "95 % to"))


def charts(data: FigureData) -> dict[str, dict[str, Any]]:
    """Vega-Lite specifications by the name of the figure; figures without any data are left out."""
    built: dict[str, Any] = {
        "front": front_chart(data) if data.points and data.single is None else None,
        "teachers": teacher_chart(data) if data.teachers else None,
        "ledger": ledger_chart(data) if data.ledger else None,
    }
    return {name: themed(chart).to_dict(validate=False) for name, chart in built.items() if chart is not None}


def multiples(data: FigureData) -> dict[str, dict[str, Any]]:
    """Specifications of the small charts that stand in rows: quality against metrics, explained variance by steps."""
    built = {f"metric-{i}": metric_chart(i, scatter) for i, scatter in enumerate(data.metrics)}
    built |= {f"rise-{i}": rise_chart(i, rise) for i, rise in enumerate(data.rises)}
    built |= curve_charts(data)
    return {
        name: themed(chart.properties(height=CURVE_HEIGHT_PX if "curve" in name else SMALL_HEIGHT_PX)).to_dict(
            validate=False
        )
        for name, chart in built.items()
    }


def metric_chart(which: int, scatter: Scatter) -> Any:
    """Quality against one metric."""
    points = alt.Chart(alt.NamedData(name="metrics"), title=scatter.label)
    marks = kinds(points.transform_filter(f"datum.which == {which}").mark_point(strokeWidth=1.2, size=30), legend=False)
    return marks.encode(
        x=alt.X("quality:Q", title="quality", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        tooltip=[tip("net", "net"), tip("quality", "quality", ".3f"), tip("value", scatter.label, ".3f")],
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
        tooltip=[tip("net", "net"), tip("steps", "steps", "d"), tip("quality", "explained variance", ".3f")],
    )


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
    what = "hypervolume" if data.single is None else f"best {brief(data.single.label)}"
    curve = alt.Chart(alt.NamedData(name="curve")).encode(
        x=alt.X(f"{field}:Q", title=title, axis=alt.Axis(tickMinStep=1, format=number_format, labelOverlap=True)),
        y=alt.Y("hypervolume:Q", title=f"{what}, higher is better", scale=alt.Scale(zero=True)),
    )
    steps = curve.transform_filter("datum.improved").mark_point(filled=True, size=30, color=colour, opacity=1)
    tips = [
        tip("evaluations", "evaluations", "d"),
        tip("hypervolume", "hypervolume", ".4f"),
        tip("seconds", "seconds", ",.0f"),
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
    legend = alt.Legend(title=None, orient="top", columns=columns(len(teachers)))
    colours = [SERIES[i % len(SERIES)][0] for i in range(len(teachers))]
    return (
        alt.Chart(alt.NamedData(name="teachers"))
        .mark_point(filled=True, size=64, opacity=0.85)
        .encode(
            x=alt.X(
                "quality:Q",
                title="explained variance of the teacher's features",
                scale=alt.Scale(zero=False),
                axis=alt.Axis(tickCount=8),
            ),
            y=alt.Y("net:N", title=None, sort=nets, axis=alt.Axis(grid=True, labelLimit=150)),
            color=alt.Color(
                "teacher:N",
                scale=alt.Scale(domain=teachers, range=colours),
                legend=legend,
            ),
            shape=alt.Shape("head:N", legend=alt.Legend(title=None, orient="bottom")),
            tooltip=[
                tip("net", "net"),
                tip("teacher", "teacher"),
                tip("head", "head"),
                tip("quality", "explained variance", ".3f"),
            ],
        )
        .properties(height=24 * len(nets))
    )


def retraining_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the retrained candidates: quality in the study against the mean of longer trainings."""
    if not rows:
        return {}
    points = alt.Chart(alt.NamedData(name="retraining"))
    x = alt.X("short:Q", title="quality in the study", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8))
    y = alt.Y("long:Q", title=RETRAINED_QUALITY, scale=alt.Scale(zero=False))
    names, looks = ["retrained", "baseline"], [LOOKS[FRONT], LOOKS[BASELINE]]
    legend = alt.Legend(title=None, orient="top")
    marks = points.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        y=y,
        color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=[k.css for k in looks]), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[k.vega_shape for k in looks]), legend=legend),
        tooltip=[tip("net", "net"), tip("short", "in the study", ".3f"), tip("long", "trained again", ".3f")],
    )
    bars = points.mark_rule(color=FAINT).encode(x=x, y=alt.Y("low:Q", title=RETRAINED_QUALITY), y2="high:Q")
    words = points.mark_text(align="left", dx=8, dy=-7, color=INK, fontSize=10).encode(x=x, y=y, text="number:N")
    return {
        "retraining": themed(alt.layer(bars, marks, words).properties(height=CURVE_HEIGHT_PX)).to_dict(validate=False)
    }


def importance_charts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A chart an objective: what share of its differences each choice accounts for."""
    return {
        f"importance-{which}": _importance_chart(which, [row for row in rows if row["which"] == which])
        for which in sorted({row["which"] for row in rows})
    }


def importance_rows(choices: Sequence[Importance]) -> list[dict[str, Any]]:
    """Of `importance_charts`: of each objective the choices that matter most."""
    objectives = list(dict.fromkeys(i.objective for i in choices))
    return [
        {
            "which": which,
            "objective": brief(name, 60),
            "choice": brief(i.choice, 60),
            "share": i.share,
            "low": i.low,
            "high": i.high,
        }
        for which, name in enumerate(objectives)
        for i in sorted((i for i in choices if i.objective == name), key=lambda i: -i.share)[:MATTERING]
    ]


def _importance_chart(which: int, drawn: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    order = [row["choice"] for row in drawn]
    rows = alt.Chart(alt.NamedData(name="importances"), title=drawn[0]["objective"]).transform_filter(
        f"datum.which == {which}"
    )
    y = alt.Y("choice:N", title=None, sort=order, axis=alt.Axis(labelLimit=130))
    x = alt.X("share:Q", title="share of the variance", stack=None, axis=alt.Axis(format=".2~%", tickCount=4))
    tips = [tip("choice", "choice"), *(tip(f, words, ".3f") for f, words in IMPORTANCE_TIPS)]
    bars = rows.mark_bar(color=LOOKS[FRONT].css, cornerRadius=2, height={"band": 0.6}).encode(x=x, y=y, tooltip=tips)
    whiskers = rows.mark_rule(color=INK).encode(x="low:Q", x2="high:Q", y=y)
    return dict(themed(alt.layer(bars, whiskers).properties(height=22 * len(order))).to_dict(validate=False))


def ledger_chart(data: FigureData) -> Any:
    """Seconds per purpose."""
    order = [purpose for purpose, _ in data.ledger]
    bars = alt.Chart(alt.NamedData(name="ledger")).encode(
        x=alt.X("seconds:Q", title="seconds", axis=alt.Axis(tickCount=8, labelOverlap=True)),
        y=alt.Y("purpose:N", title=None, sort=order, axis=alt.Axis(labelLimit=150)),
        tooltip=[tip("purpose", "purpose"), tip("seconds", "seconds", ",.1f")],
    )
    return bars.mark_bar(color=LOOKS["on the front"].css, cornerRadius=2, height={"band": 0.66}).properties(
        height=28 * len(order)
    )
