"""The report's interactive charts: Altair specifications with named data sets, which the page fills in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reports.chart_style import FAINT, INK, RATIO_TICKS, Specification, by_kind, count_axis, specification, tip
from reports.evidence_data import CANDIDATE
from reports.figure_data import (
    BASELINE,
    BEST,
    DOMINATED,
    FRONT,
    MARKS,
    SERIES,
    FigureData,
    LearningCurves,
    MetricScatter,
)
from reports.formatting import brief
from reports.front_chart import front_chart
from reports.importance import Importance
from reports.scored_trials import SCORE_WORD

CURVE_HEIGHT_PX = 240
SMALL_HEIGHT_PX = 170
MAX_CHOICES = 12  # in a chart of importance
VARIANCE_EXPLAINED = "explained variance"
OTHERS = "other candidates"
RETRAINED_SCORE = "mean score of the longer trainings"


def page_charts(data: FigureData) -> dict[str, Specification]:
    """Return the large charts by name; charts without data are left out."""
    built: dict[str, Any] = {
        "front": front_chart(data) if data.points and data.single is None else None,
        "teachers": _teacher_chart(data) if data.teachers else None,
        "time-spent": _time_chart(data) if data.time_spent else None,
        "score-curves": _score_curves_chart(data) if data.score_curves else None,
    }
    return {name: specification(chart) for name, chart in built.items() if chart is not None}


def small_charts(data: FigureData) -> dict[str, Specification]:
    """Return the small charts that stand in rows: score against metrics, learning curves, hypervolume."""
    small = {f"metric-{i}": _metric_chart(i, scatter) for i, scatter in enumerate(data.metrics)}
    small |= {f"learning-{i}": _learning_chart(i, curves) for i, curves in enumerate(data.learning_curves)}
    built = {name: chart.properties(height=SMALL_HEIGHT_PX) for name, chart in small.items()}
    built |= {name: chart.properties(height=CURVE_HEIGHT_PX) for name, chart in _hypervolume_charts(data).items()}
    return {name: specification(chart) for name, chart in built.items()}


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
        tooltip=[tip("name", "model"), tip("short", "score in the study", ".3f"), tip("long", "retrained", ".3f")],
    )
    bars = points.mark_rule(color=FAINT).encode(x=x, y=alt.Y("low:Q", title=RETRAINED_SCORE), y2="high:Q")
    named = points.transform_filter(alt.datum.kind == BASELINE)  # candidates lie too close: their tooltips name them
    # Above the bar, and to the left, where the points of lower scores lie lower; marks are drawn over labels.
    above = alt.Y("high:Q", title=RETRAINED_SCORE)
    labels = named.mark_text(align="right", dx=4, dy=-6, color=INK, fontSize=10).encode(x=x, y=above, text="name:N")
    return {"retraining": specification(alt.layer(labels, bars, marks).properties(height=CURVE_HEIGHT_PX))}


def race_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Specification]:
    """Return the chart of the scores after the race's length: trained ones filled, predicted ones hollow."""
    if not rows:
        return {}
    points = alt.Chart(alt.NamedData(name="race"))
    x = alt.X("ratio:Q", title="throughput / reference, higher is better", scale=alt.Scale(type="log", base=2))
    x.axis = alt.Axis(format=RATIO_TICKS, labelOverlap=True)
    y = alt.Y("score:Q", title="score after the race’s length", scale=alt.Scale(zero=False))
    kinds = [CANDIDATE, BASELINE]
    looks = [MARKS[FRONT], MARKS[BASELINE]]
    legend = alt.Legend(title=None, orient="top")
    encoded = {
        "x": x,
        "y": y,
        "color": alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[s.css for s in looks]), legend=legend),
        "shape": alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[s.vega_shape for s in looks]), legend=legend),
        "tooltip": [tip("name", "model"), tip("score", "score", ".3f"), tip("ratio", "throughput", ".3f"),
                    tip("trained", "trained")],
    }  # fmt: skip
    trained, predicted = points.transform_filter("datum.trained"), points.transform_filter("!datum.trained")
    layers = [
        points.transform_filter("datum.on_front")
        .mark_line(interpolate="step-before", color=MARKS[FRONT].css, opacity=0.6)
        .encode(x=x, y=y, order="ratio:Q"),
        predicted.mark_rule(color=FAINT, opacity=0.35).encode(x=x, y="low:Q", y2="high:Q"),
        predicted.mark_point(size=40, strokeWidth=1.2, opacity=0.7).encode(**encoded),
        trained.mark_point(filled=True, size=90, opacity=1).encode(**encoded),
        points.transform_filter("datum.named")
        .mark_text(align="left", dx=7, dy=-6, color=INK, fontSize=10)
        .encode(x=x, y=y, text="name:N"),
    ]
    return {"race": specification(alt.layer(*layers).properties(height=CURVE_HEIGHT_PX))}


def importance_rows(importances: Sequence[Importance], words: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the data set of `importance_charts`: the most important choices for each objective.

    Args:
        importances: of the choices.
        words: what the objectives are called, by name.
    """
    objectives = list(dict.fromkeys(i.objective for i in importances))
    return [
        {
            "which": which,
            "objective": brief(words[name], 60),
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
                tip("name", "model"),
                tip("teacher", "teacher"),
                tip("head", "head"),
                tip("score", VARIANCE_EXPLAINED, ".3f"),
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
        tooltip=[tip("purpose", "purpose"), tip("seconds", "seconds", ",.1f")],
    )
    return bars.mark_bar(color=MARKS[FRONT].css, cornerRadius=2, height={"band": 0.66}).properties(
        height=28 * len(order)
    )


def _metric_chart(which: int, scatter: MetricScatter) -> Any:
    """Draw the distillation score against one metric."""
    points = alt.Chart(alt.NamedData(name="metrics"), title=scatter.label).transform_filter(f"datum.which == {which}")
    return by_kind(points.mark_point(strokeWidth=1.2, size=30)).encode(
        x=alt.X("score:Q", title=SCORE_WORD, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
        tooltip=[tip("name", "model"), tip("score", SCORE_WORD, ".3f"), tip("value", scatter.label, ".3f")],
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
            strokeDash=alt.StrokeDash("kind:N", scale=alt.Scale(domain=kinds, range=[[1, 0], [5, 3]]), legend=None),
            tooltip=[tip("name", "model"), tip("steps", "steps", "d"), tip("score", VARIANCE_EXPLAINED, ".3f")],
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
    y = alt.Y("score:Q", title=f"{data.score_word}, higher is better", scale=alt.Scale(zero=False))
    tips = [tip("name", "candidate"), tip("status", "status"), tip("steps", "steps", "d")]
    tips.append(tip("score", data.score_word, ".3f"))
    legend = alt.Legend(
        title=None,
        orient="top",
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=2,
        labelExpr=f"datum.label == '{FRONT}' ? '{BEST}' : datum.label" if data.single else alt.Undefined,
    )
    layers = []
    for kind in kinds:
        _, width, opacity = looks[kind]
        of_kind = lines.transform_calculate(
            shown=f"indexof({json.dumps(kinds)}, datum.kind) < 0 ? {json.dumps(OTHERS)} : datum.kind",
            status=f"datum.kind == '{FRONT}' ? '{BEST}' : datum.kind" if data.single else "datum.kind",
        ).transform_filter(f"datum.shown == {json.dumps(kind)}")
        color = alt.Color("shown:N", scale=alt.Scale(domain=kinds, range=colors), legend=legend)
        mark = of_kind.mark_line(strokeWidth=width, opacity=opacity, point=alt.OverlayMarkDef(size=12, opacity=opacity))
        layers.append(mark.encode(x=x, y=y, detail="number:N", color=color, tooltip=tips))
    return alt.layer(*layers).properties(height=CURVE_HEIGHT_PX)


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


def _hypervolume_chart(data: FigureData, field: str, title: str, axis: Any) -> Any:
    """Draw the hypervolume and the level of the baselines."""
    color = MARKS[FRONT].css
    curve = alt.Chart(alt.NamedData(name="curve")).encode(
        x=alt.X(f"{field}:Q", title=title, axis=axis),
        y=alt.Y("hypervolume:Q", title=f"{data.curve_label}, higher is better", scale=alt.Scale(zero=True)),
    )
    steps = curve.transform_filter("datum.improved").mark_point(filled=True, size=30, color=color, opacity=1)
    tips = [
        tip("evaluations", "evaluations", "d"),
        tip("hypervolume", "hypervolume", ".4f"),
        tip("seconds", "seconds", ",.0f"),
    ]
    layers = [curve.mark_line(interpolate="step-after", color=color, strokeWidth=2), steps.encode(tooltip=tips)]
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
        tip("choice", "choice"),
        tip("share", "share", ".3f"),
        tip("low", "95 % from", ".3f"),
        tip("high", "95 % to", ".3f"),
    ]
    bars = chart.mark_bar(color=MARKS[FRONT].css, cornerRadius=2, height={"band": 0.6}).encode(x=x, y=y, tooltip=tips)
    intervals = chart.mark_rule(color=INK).encode(x="low:Q", x2="high:Q", y=y)
    return specification(alt.layer(bars, intervals).properties(height=22 * len(order)))
