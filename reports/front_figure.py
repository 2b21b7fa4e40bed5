"""The picture of the front: throughput against quality as an Altair specification; the page fills in its data."""

from __future__ import annotations

from typing import Any

import altair as alt

from nas.records import Objective
from reports.points import BASELINE, FRONT, LOOKS, FigureData
from reports.theme import FAINT, INK, NARROW_PX, PAPER, kinds, tip
from reports.wording import brief

FRONT_HEIGHT_PX = 420
THIRD_FORMAT = ",.4~r"  # four digits, no exponent
MANY = 1500  # points: whiskers of the dominated ones would be a smear


def front_chart(data: FigureData) -> Any:
    """Throughput against quality: points by kind, intervals, the front's steps, the reference point."""
    x, y = _axes(data)
    points = alt.Chart(alt.NamedData(name="points"))
    trained = points.transform_filter("isValid(datum.quality)")
    marks = _marks(data, trained, x, y)
    never_trained = kinds(
        points.transform_filter("!isValid(datum.quality)").mark_point(strokeWidth=1.5, size=80)
    ).encode(x=x, y=alt.value(FRONT_HEIGHT_PX - 6), tooltip=_front_tooltip(data))
    with_whiskers = trained
    if len(data.points) > MANY:
        with_whiskers = trained.transform_filter(alt.FieldOneOfPredicate("kind", [FRONT, BASELINE]))
    whiskers = with_whiskers.mark_rule(color=FAINT, opacity=0.55, clip=True).encode(
        x="ratio_low:Q", x2="ratio_high:Q", y=y
    )
    steps = (
        alt.Chart(alt.NamedData(name="staircase"))
        .mark_line(interpolate="step-before", color=LOOKS["on the front"].css, strokeWidth=1.5, opacity=0.8)
        .encode(x=x, y=y, order="order:O")
    )
    named = trained.transform_filter("datum.label != ''")
    place = {"align": "left", "dx": 8, "dy": -8, "fontSize": 11, "opacity": alt.ExprRef(f"width < {NARROW_PX} ? 0 : 1")}
    halo = named.mark_text(color=PAPER, stroke=PAPER, strokeWidth=4, strokeJoin="round", **place)
    labels = [layer.encode(x=x, y=y, text="label:N") for layer in (halo, named.mark_text(color=INK, **place))]
    layers = [steps, whiskers, labels[0], never_trained, *marks, labels[1], *_directions(data, x, y)]
    picked = alt.Chart(alt.NamedData(name="picked")).mark_point(size=260, strokeWidth=2.5, color=INK, filled=False)
    layers.append(picked.encode(x=x, y=y))
    return alt.layer(*layers).properties(height=FRONT_HEIGHT_PX)


def _axes(data: FigureData) -> tuple[Any, Any]:
    kind = "log" if data.speed.log else "linear"
    options = {"base": 2} if data.speed.log else {"zero": False}
    x = alt.X(
        "ratio:Q",
        title=f"{data.speed.label} ({data.speed.unit}), higher is better",
        scale=alt.Scale(type=kind, domain=list(data.ratio_range), nice=False, **options),
        axis=alt.Axis(
            format=".3~g", labelOverlap=True, titleLimit=620, titleFontSize=alt.ExprRef(f"width < {NARROW_PX} ? 9 : 11")
        ),
    )
    y = alt.Y(
        "quality:Q",
        title=f"{brief(data.quality.label, 52)}, higher is better",
        scale=alt.Scale(domain=list(data.quality_range), nice=False, zero=False),
    )
    return x, y


def _marks(data: FigureData, trained: Any, x: Any, y: Any) -> list[Any]:
    """The nets. A third objective is the size of a mark; who has none, stopped early, is small."""
    size: Any = alt.value(58)
    if len(data.points) > MANY:  # then who matters is larger, not only on top
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
        kinds(nets.mark_point(strokeWidth=1.5, opacity=0.9)).encode(x=x, y=y, tooltip=tips, size=size)
        for nets, size in layers
    ]


def _third_title(third: Objective) -> str:
    unit = f" ({third.unit})" if third.unit else ""
    return f"{brief(third.label)}{unit}, {'lower' if third.minimise else 'higher'} is better"


def _front_tooltip(data: FigureData) -> list[Any]:
    return [
        tip("net", "net"),
        tip("kind", "state"),
        tip("quality", data.quality.label, ".3f"),
        tip("ratio", data.speed.label, ".3f"),
        tip("ratio_low", "95 % from", ".3f"),
        tip("ratio_high", "95 % to", ".3f"),
        tip("img_s", "images/s", ",.1f"),
        *([] if data.third is None else [tip("third", _third_title(data.third), THIRD_FORMAT)]),
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
