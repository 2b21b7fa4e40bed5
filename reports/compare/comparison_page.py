"""The comparison of studies as one HTML file: its charts, its sentences, its settings.

The page has no script. Its policy allows its own style sheet and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from nas.analysis.trial_choice import measurement
from nas.files import atomic_write
from nas.numbers import fixed, plural
from nas.study.records import Objective, StudyInfo
from nas.study.timing_doubts import drawn_ends
from reports.chart_style import RATIO_TICKS, count_axis, static_chart
from reports.compare.comparison import MIN_RANKED, ComparedStudy, StudyComparison, StudyPair
from reports.document import asset, policy, templates
from reports.figure_data import SERIES, axis_range
from reports.formatting import flat
from reports.scored_trials import ScoredTrial
from reports.sentences import doubt_meanings

MAX_SHARED = 25  # architectures in a table
SHAPES = ("circle", "diamond", "square", "triangle-up", "triangle-down", "cross")
MAX_DOMINATED = 1500  # points drawn for a study
ONE_SEARCH = (
    "Each study is one search: another seed would have found another front, so a small difference proves nothing about "
    "samplers or settings."
)


@dataclass(frozen=True)
class SettingDifference:
    """A setting that is not the same in all studies, with its values in their order."""

    name: str
    values: tuple[str, ...]


def write_comparison(comparison: StudyComparison, out: Path) -> None:
    """Write the page to `out`, replacing an old one only once the new one is complete. Raises OSError."""
    atomic_write(out, render(comparison, draw_charts(comparison)))


def render(comparison: StudyComparison, charts: Mapping[str, Markup]) -> str:
    """Render the page as HTML.

    Args:
        comparison: numbers of the studies.
        charts: as `draw_charts` returns them; a missing one leaves no gap.
    """
    style = asset("report.css") + asset("compare.css")
    return (
        templates()
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            studies=comparison.studies,
            headline=headline(comparison),
            refusals=refusals(comparison),
            cautions=cautions(comparison),
            pictures=charts,
            differences=setting_differences(comparison.studies),
            max_shared=MAX_SHARED,
            min_ranked=MIN_RANKED,
            style=Markup(style),
            policy=policy(style),
        )
    )


def headline(comparison: StudyComparison) -> tuple[str, ...]:
    """Count the timings that cannot be trusted, and say the outcome in a few sentences per pair of studies."""
    sentences = [_doubt_sentence(each) for each in comparison.studies if each.summary.doubtful]
    sentences += [sentence for pair in comparison.pairs for sentence in _pair_sentences(comparison, pair)]
    return (*sentences, ONE_SEARCH) if comparison.comparability.same_axes else tuple(sentences)


def refusals(comparison: StudyComparison) -> tuple[str, ...]:
    """Give each reason why numbers do not compare, and what is therefore left out."""
    reasons = comparison.comparability
    left_out = "So each front has its own chart, hypervolumes are left out, and {} are compared by rank only."
    sentences = []
    if reasons.score:
        sentences.append(f"{' '.join(reasons.score)} {left_out.format('scores')}")
    if reasons.throughput:
        sentences.append(f"{' '.join(reasons.throughput)} {left_out.format('throughputs')}")
    if reasons.measurement:
        rest = " Dominance and coverage between studies are left out." if reasons.same_axes else ""
        text = "Each throughput is relative to the reference model on its own device."
        sentences.append(f"{' '.join(reasons.measurement)} {text}{rest}")
    return tuple(sentences)


def cautions(comparison: StudyComparison) -> tuple[str, ...]:
    """Name the differences besides the search, for studies whose numbers compare."""
    if not comparison.comparability.same_axes:
        return ()
    known = comparison.comparability.cautions
    if len({len(study.summary.curve) for study in comparison.studies}) < 2:
        return known
    lengths = "; ".join(f"{study.letter}: {len(study.summary.curve)}" for study in comparison.studies)
    return (*known, f"The searches evaluated different numbers of architectures: {lengths}.")


def setting_differences(studies: Sequence[ComparedStudy]) -> list[SettingDifference]:
    """Return the settings and the environment where they differ."""
    settings = [dict(flat(_settings(each.study.info))) for each in studies]
    names = dict.fromkeys(name for each in settings for name in each)
    rows = [SettingDifference(name, tuple(each.get(name, "–") for each in settings)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def _settings(info: StudyInfo) -> dict[str, Any]:
    objectives = {f"{o.name} {key}": value for o in info.objectives for key, value in o.to_dict().items()}
    return {
        "command": info.command, "objective": objectives, "reference": info.reference, "baselines": info.baselines,
        "rung_steps": info.rung_steps, "limits": info.limits, "teachers": info.teachers, "data": info.data,
        "config": info.config, "environment": info.environment, "space": info.space,
    }  # fmt: skip


def _doubt_sentence(study: ComparedStudy) -> str:
    timings, doubtful = plural(sum(study.summary.verdicts.values()), "timing", "timings"), study.summary.doubtful
    return f"Of {timings} of {study.letter}, {doubtful} cannot be trusted ({doubt_meanings(study.study.trials)})."


def _pair_sentences(comparison: StudyComparison, pair: StudyPair) -> list[str]:
    sentences = []
    if comparison.comparability.same_axes:
        sentences += [_volume_sentence(pair), *_reached_sentences(pair)]
    return [*sentences, *_rank_sentences(comparison, pair)]


def _volume_sentence(pair: StudyPair) -> str:
    a, b = pair.first, pair.other
    final = f"The final hypervolume above a common reference point is {fixed(a.summary.hypervolume, 4)} for {a.letter}"
    final += f" and {fixed(b.summary.hypervolume, 4)} for {b.letter}."
    if not pair.trainings or len(a.summary.curve) == len(b.summary.curve):
        return final
    then = f"After {plural(pair.trainings, 'training')}, the length of the shorter search, it is "
    return f"{final} {then}{fixed(pair.volumes[0], 4)} for {a.letter} and {fixed(pair.volumes[1], 4)} for {b.letter}."


def _reached_sentences(pair: StudyPair) -> list[str]:
    studies = (pair.first, pair.other)
    sentences = []
    for study, rival, reached in zip(studies, studies[::-1], pair.reached, strict=True):
        if reached is not None:
            count = f"{plural(reached, 'training')}; {rival.letter} made {len(rival.summary.curve)} in all"
            sentences.append(f"{study.letter} reached the final hypervolume of {rival.letter} after {count}.")
    return sentences


def _rank_sentences(comparison: StudyComparison, pair: StudyPair) -> list[str]:
    a, b, reasons = pair.first.letter, pair.other.letter, comparison.comparability
    if not pair.shared:
        return [f"{a} and {b} measured no architecture in common."]
    if pair.measured == pair.trained < MIN_RANKED:
        shared = plural(pair.measured, "architecture")
        return [f"{a} and {b} share {shared}: too few to compare how they rank by throughput or score."]
    sentences = []
    for what, count, tau, other_scale in (
        ("throughput", pair.measured, pair.throughput_tau, reasons.throughput or reasons.measurement),
        ("score", pair.trained, pair.score_tau, reasons.score),
    ):
        if count < MIN_RANKED:
            sentences.append(
                f"{a} and {b} share {plural(count, 'architecture')} with a {what}: too few to compare their ranks."
            )
        elif tau is None:
            sentences.append(
                f"The {count} architectures that {a} and {b} share have the same {what}, so they have no ranks."
            )
        else:
            though = "; only the ranks can be compared, not the numbers" if other_scale else ""
            sentences.append(
                f"The orders of the {count} architectures that {a} and {b} share, by {what}, agree with Kendall’s τ ="
                f" {fixed(tau, 2)}{though}."
            )
    return sentences


def draw_charts(comparison: StudyComparison) -> dict[str, Markup]:
    """Draw each chart as SVG, once wide and once for narrow screens; charts without data are left out."""
    charts: dict[str, Any] = {}
    studies = comparison.studies
    if comparison.reference is not None:
        charts["fronts"] = _fronts(studies, studies)
        charts["curve"] = _hypervolume_curves(studies)
    else:
        charts |= {f"front-{each.letter}": _fronts(studies, [each]) for each in studies}
    return {name: static_chart(chart) for name, chart in charts.items() if chart is not None}


def _fronts(studies: Sequence[ComparedStudy], shown: Sequence[ComparedStudy]) -> Any:
    """Draw throughput against score: each study's front in steps, its dominated models faintly."""
    fronts = [_row(each, model, order) for each in shown for order, model in enumerate(each.summary.front)]
    if not fronts:
        return None
    score, throughput = shown[0].study.info.objectives
    rest = [_row(each, model, 0) for each in shown for model in _dominated(each)]
    ratios = [row[end] for row in fronts for end in ("ratio", "low", "high")] + [row["ratio"] for row in rest]
    axis = alt.Axis(format=RATIO_TICKS, labelOverlap=True)
    x = alt.X("ratio:Q", title=_title(throughput), scale=_scale(throughput, ratios), axis=axis)
    y = alt.Y("score:Q", title=_title(score), scale=_scale(score, [row["score"] for row in fronts + rest]))
    color, shape = _by_study(studies, shown)
    front, dominated = alt.Chart(alt.Data(values=fronts)), alt.Chart(alt.Data(values=rest))
    layers = [
        dominated.mark_point(size=14, opacity=0.35, filled=True).encode(x=x, y=y, color=color, shape=shape),
        front.mark_line(interpolate="step-after", strokeWidth=1.5).encode(x=x, y=y, color=color, order="order:O"),
        front.mark_rule(opacity=0.6).encode(x="low:Q", x2="high:Q", y=y, color=color),
        front.mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=color, shape=shape),
    ]
    return alt.layer(*layers)


def _hypervolume_curves(studies: Sequence[ComparedStudy]) -> Any:
    """Draw the hypervolume above the common reference point by trainings."""
    rows = [
        {"study": each.name, "trainings": n, "volume": volume}
        for each in studies
        for n, volume in [(0, 0.0), *((c.evaluations, c.hypervolume) for c in each.summary.curve)]
    ]
    if not any(row["volume"] for row in rows):
        return None
    longest = max(len(each.summary.curve) for each in studies)
    color, dash = _by_study(studies, studies)[0], alt.StrokeDash("study:N", sort=None, legend=None)
    line = alt.Chart(alt.Data(values=rows)).mark_line(interpolate="step-after", strokeWidth=2)
    return line.encode(
        x=alt.X("trainings:Q", title="architectures trained", axis=count_axis(longest)),
        y=alt.Y("volume:Q", title="hypervolume, higher is better"),
        color=color,
        strokeDash=dash,
    )


def _row(study: ComparedStudy, model: ScoredTrial, order: int) -> dict[str, Any]:
    low, high = drawn_ends(measurement(model.trial))
    return {
        "study": study.name, "ratio": model.ratio, "low": low, "high": high,
        "score": model.score, "order": order,
    }  # fmt: skip


def _dominated(study: ComparedStudy) -> list[ScoredTrial]:
    front = {model.trial.number for model in study.summary.front}
    models = [model for model in study.summary.complete if model.trial.number not in front]
    return models[:: -(-len(models) // MAX_DOMINATED) or 1]


def _by_study(studies: Sequence[ComparedStudy], shown: Sequence[ComparedStudy]) -> tuple[Any, Any]:
    """Encode the study by color and shape, the same in every chart."""
    place = {each.name: i for i, each in enumerate(studies)}
    names = [each.name for each in shown]
    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=320) if len(shown) > 1 else None
    colors, shapes = [SERIES[place[n]][0] for n in names], [SHAPES[place[n]] for n in names]
    return (
        alt.Color("study:N", scale=alt.Scale(domain=names, range=colors), legend=legend),
        alt.Shape("study:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
    )


def _title(objective: Objective) -> str:
    unit = f" ({objective.unit})" if objective.unit else ""
    return f"{objective.label}{unit}"


def _scale(objective: Objective, values: Sequence[float]) -> Any:
    kind = {"type": "log", "base": 2} if objective.log else {"zero": False}
    return alt.Scale(domain=list(axis_range(values, log=objective.log)), nice=False, **kind)
