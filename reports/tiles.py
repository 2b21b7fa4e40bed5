"""The numbers at the top of a report: throughput and score against the best baseline, and the size of the front."""

from __future__ import annotations

from dataclasses import dataclass

from nas.analysis.recommendation import BaselineComparison
from nas.study.records import StudyInfo
from reports.formatting import brief
from reports.headline import NO_DIFFERENCE, UNKNOWN, is_one_pair, why_no_difference
from reports.score_gain import printed_gain
from reports.summary import StudySummary


@dataclass(frozen=True)
class Tile:
    """One number of the summary: what it is, its value, and a note below it."""

    label: str
    value: str
    note: str


def tiles(info: StudyInfo, summary: StudySummary) -> tuple[Tile, ...]:
    """Return the numbers of the summary: throughput and score against the best baseline, and the size of the front."""
    front = _front_tile(info, summary)
    if summary.best_baseline is None or not summary.complete:
        return (front,)
    found = summary.recommendation
    if found is not None and found.race is not None and found.best_baseline is None:
        label = f"score of {brief(found.model.name)} after {found.race.steps:,} steps"
        return Tile(label, f"{found.model.score:.3f}", f"race: chance {found.race.chance or 0.0:.2f}"), front
    best = summary.recommendation and summary.recommendation.best_baseline
    name = brief((best or summary.best_baseline).name)
    return _speed_tile(summary, name), _score_tile(summary, name), front


def _front_tile(info: StudyInfo, summary: StudySummary) -> Tile:
    """Return the size of the front; of a study with one objective, the best model, or how many are equally good."""
    source = "; by the search’s scores and the newest timings" if summary.remeasured else ""
    size, note = len(summary.front), f"of {summary.evaluated} evaluated{source}"
    if len(info.objectives) > 1:
        return Tile("models on the Pareto front" if size != 1 else "model on the Pareto front", str(size), note)
    if size == 1:
        return Tile(f"best by {brief(info.objectives[0].label)}", brief(summary.front[0].name), note)
    return Tile("models share the best value" if size else "models in the ranking", str(size), note)


def _speed_tile(summary: StudySummary, baseline: str) -> Tile:
    result, _ = summary.comparisons
    if result is None:
        return Tile(f"throughput at a score as high as that of {baseline}", "–", "no candidate scores as high")
    name = brief(result.candidate.name)
    label = f"throughput of {name} relative to {baseline}"
    if not is_one_pair(summary):
        label += ", which scores no higher"
    if result.doubtful:
        return Tile(label, UNKNOWN, "the timings cannot be trusted")
    scores = "" if is_one_pair(summary) else f"; score: {printed_gain(result):+z.3f} ({_gain_note(result, summary)})"
    interval = f"{result.speedup_low:.2f} to {result.speedup_high:.2f}"
    if result.shows_difference:
        return Tile(label, f"{result.speedup:.2f}×", f"throughput: 95 % interval {interval}{scores}")
    return Tile(label, NO_DIFFERENCE, f"{why_no_difference(result)}{scores}")


def _score_tile(summary: StudySummary, baseline: str) -> Tile:
    _, result = summary.comparisons
    if result is None:
        return Tile(f"score at a throughput as high as that of {baseline}", "–", "no candidate is as fast")
    name = brief(result.candidate.name)
    label = f"score of {name} minus that of {baseline}"
    if not is_one_pair(summary):
        label += ", which is no faster"
    return Tile(label, f"{printed_gain(result):+z.3f}", _gain_note(result, summary))


def _gain_note(result: BaselineComparison, summary: StudySummary) -> str:
    """Return the interval of a difference of scores, or say why there is none."""
    found = summary.recommendation
    if found is None or not found.retrained:
        return "no interval: each trained once"
    if found.race is not None:
        return f"race: chance {found.race.chance or 0.0:.2f}"
    half = result.half_width(found.scatter)
    return "retrained with one seed: no interval" if half is None else f"retrained; 95 % interval ± {half:.3f}"
