"""The verdict of a report: the recommended candidate against the best baseline, and what the noise leaves open."""

from __future__ import annotations

from dataclasses import dataclass

from nas.analysis.selection import BaselineComparison, measurement
from nas.study.records import StudyInfo, TrialRecord, TrialState
from reports.formatting import brief, plural
from reports.noise import disturbances
from reports.sentences import TRAINED_ONCE, baseline_words
from reports.statistics import SearchState, search_state
from reports.summary import StudySummary

NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Tile:
    """One number of the summary: what it is, its value, a note below it, and the trials whose timings it uses."""

    label: str
    value: str
    note: str
    trials: tuple[TrialRecord, ...] = ()


def headline(info: StudyInfo, summary: StudySummary) -> tuple[str, ...]:
    """Say which candidate is recommended and why, how it compares with the best baseline, and what the front is."""
    front = _front_sentence(info, summary)
    if summary.recommendation is None:
        return (front,)
    if summary.best_baseline is None:
        model = _model_words(summary.recommendation.trial, info)
        why = f"The highest score is that of {model}. No baseline was trained to the last rung, so none is compared."
        return why, front
    return _speed_sentence(info, summary), _score_sentence(info, summary), front


def tiles(info: StudyInfo, summary: StudySummary) -> tuple[Tile, ...]:
    """Return the numbers of the summary: throughput and score against the best baseline, and the size of the front."""
    what = "models share the best value" if len(info.objectives) == 1 else "models on the Pareto front"
    front = Tile(what, str(len(summary.front)), f"of {summary.evaluated} evaluated")
    if summary.best_baseline is None or not summary.complete:
        return (front,)
    name = brief(summary.best_baseline.name)
    return _speed_tile(summary, name), _score_tile(summary, name), front


def _speed_tile(summary: StudySummary, baseline: str) -> Tile:
    result, _ = summary.comparisons
    if result is None:
        return Tile(f"throughput at a score as high as that of {baseline}", "–", "no candidate scores as high")
    found = brief(result.found.name)
    label = f"throughput of {found}, which scores at least as high as {baseline}"
    if _is_one_pair(summary):
        label = f"throughput of {found} against {baseline}"
    times, interval = f"{result.speedup:.2f}×", f"{result.speedup_low:.2f} to {result.speedup_high:.2f}"
    trials = result.found, result.baseline
    if result.shows_difference:
        return Tile(label, times, interval, trials)
    return Tile(label, NO_DIFFERENCE, f"{times}, {interval}", trials)


def _score_tile(summary: StudySummary, baseline: str) -> Tile:
    _, result = summary.comparisons
    if result is None:
        return Tile(f"score at a throughput as high as that of {baseline}", "–", "no candidate is as fast")
    found = brief(result.found.name)
    label = f"score of {found}, which is as fast as {baseline} or faster"
    if _is_one_pair(summary):
        label = f"score of {found} against {baseline}"
    return Tile(label, f"{result.score_gain:+.3f}", "no interval: each trained once", (result.found, result.baseline))


def _is_one_pair(summary: StudySummary) -> bool:
    """Tell whether one candidate is both the fastest with a score as high and the best that is as fast."""
    at_equal_score, at_equal_speed = summary.comparisons
    return bool(at_equal_score and at_equal_speed and at_equal_score.found == at_equal_speed.found)


def recommended(summary: StudySummary) -> str:
    """Return the recommended model's numbers in one line; "" where no model is recommended."""
    if summary.recommendation is None:
        return ""
    trial = summary.recommendation.trial
    m = measurement(trial)
    size = "" if trial.params is None else f"; {trial.params / 1e6:.2f} M parameters"
    macs = "" if trial.macs is None else f"; {trial.macs / 1e6:.1f} M MACs"
    return (
        f"score {trial.final_score:.3f}; throughput {m.throughput_img_s:,.0f} images/s, {m.ratio:.2f} times that of "
        f"the reference, {brief(m.reference, 40)}; latency {m.latency_ms:.2f} ms{size}{macs}"
    )


def export_command(summary: StudySummary, run: str) -> str:
    """Return the command that exports the recommended model; "" where no model is recommended."""
    if summary.recommendation is None:
        return ""
    return f"backbone-nas export {run} --trials {summary.recommendation.trial.number} --format timm --out winner"


def result_line(summary: StudySummary) -> str:
    """Return the result in one line for the terminal."""
    text = f"{summary.evaluated} evaluated, front of {len(summary.front)}, hypervolume {summary.hypervolume:.4f}"
    best, _ = summary.comparisons
    if best is None:
        return text
    doubt = "" if best.shows_difference else f" ({NO_DIFFERENCE})"
    return (
        f"{text}; {brief(best.found.name)} scores at least as high as {brief(best.baseline.name)}, at "
        f"{best.speedup:.2f} times its throughput{doubt}"
    )


def _model_words(trial: TrialRecord, info: StudyInfo) -> str:
    times = f"{measurement(trial).ratio:.2f} times the throughput of the reference, {brief(info.reference)}"
    return f"{brief(trial.name)} (score {trial.final_score:.3f} at {times})"


def _front_sentence(info: StudyInfo, summary: StudySummary) -> str:
    stopped = summary.counts.get(TrialState.STOPPED, 0)
    evaluated = plural(summary.evaluated, "architecture was evaluated", "architectures were evaluated")
    if not summary.front:
        return _no_front_sentence(info, summary, evaluated)
    early = f"; {plural(stopped, 'was', 'were')} early-stopped" if stopped else ""
    start = f"{_capital(evaluated)}{early}."
    reference = f"the throughput of {brief(info.reference)}"
    fastest, best = summary.front[0], max(summary.front, key=lambda s: s.score)
    if len(info.objectives) == 1:
        return f"{start} The best by {brief(info.objectives[0].label)} is {_model_words(best.trial, info)}."
    if len(summary.front) == 1:
        return f"{start} The Pareto front is one model, {_model_words(best.trial, info)}."
    return (
        f"{start} The Pareto front has {len(summary.front)} models, from {brief(best.name)} with the highest score "
        f"({best.score:.3f} at {best.ratio:.2f} times {reference}) to {brief(fastest.name)}, the fastest "
        f"({fastest.score:.3f} at {fastest.ratio:.2f} times)."
    )


def _no_front_sentence(info: StudyInfo, summary: StudySummary, evaluated: str) -> str:
    if not summary.evaluated and len(summary.baselines) < len(info.baselines):
        done = f"{len(summary.baselines)} of {len(info.baselines)} done"
        running = summary.counts.get(TrialState.RUNNING, 0)
        if search_state(info, summary.evaluated, running) is SearchState.RUNNING:
            return f"The {baseline_words(info)} are being measured and trained ({done}); the candidates follow."
        return f"The search ended while the {baseline_words(info)} were being measured and trained ({done})."
    words = {TrialState.STOPPED: "early-stopped"}
    others = [
        f"{n} {words.get(state, state.value)}"
        for state, n in summary.counts.items()
        if n and state is not TrialState.COMPLETE
    ]
    untrained = summary.evaluated and not summary.counts.get(TrialState.COMPLETE)
    none = ", none of them to the last rung" if untrained else ""
    return f"No candidate is on a Pareto front yet: {evaluated}{none} ({', '.join(others) or 'no trials'})."


def _speed_sentence(info: StudyInfo, summary: StudySummary) -> str:
    (result, _), baseline, found = summary.comparisons, summary.best_baseline, summary.recommendation
    assert baseline is not None
    assert found is not None
    best = f"the best of the {baseline_words(info)}, {brief(baseline.name)}"
    if result is None:
        return (
            f"No candidate scores as high as {best} ({baseline.score:.3f}). The highest score of a candidate is that "
            f"of {_model_words(found.trial, info)}."
        )
    return (
        f"{_capital(brief(result.found.name))} is the fastest candidate that scores at least as high as {best} "
        f"({result.found.final_score:.3f} against {baseline.score:.3f}). {_throughput_words(result, info)}"
    )


def _score_sentence(info: StudyInfo, summary: StudySummary) -> str:
    (_, result), baseline = summary.comparisons, summary.best_baseline
    assert baseline is not None
    name = brief(baseline.name)
    if result is None:
        return f"No candidate is as fast as {name}."
    once = f" {TRAINED_ONCE}" if info.teachers else ""
    gain = f"{abs(result.score_gain):.3f} {'higher' if result.score_gain >= 0 else 'lower'} than the baseline’s"
    if _is_one_pair(summary):
        return f"It also has the highest score of the candidates that are as fast as {name} or faster, {gain}.{once}"
    return (
        f"Of the candidates that are as fast as {name} or faster, {brief(result.found.name)} has the highest score, "
        f"{result.found.final_score:.3f}, {gain}. {_throughput_words(result, info)}{once}"
    )


def _throughput_words(result: BaselineComparison, info: StudyInfo) -> str:
    """Give a candidate's throughput relative to the baseline and to the reference, and say whether they differ."""
    name, reference = brief(result.baseline.name), brief(info.reference)
    interval = f"(95 % intervals combined: {result.speedup_low:.2f} to {result.speedup_high:.2f})"
    times = f"{result.speedup:.2f} times that of {name} {interval}"
    if result.baseline.name != info.reference:
        times += f" and {measurement(result.found).ratio:.2f} times that of the reference, {reference}"
    text = f"Its throughput is {times}."
    if result.shows_difference:
        return text
    reasons = []
    if result.speedup_low <= 1 <= result.speedup_high:
        reasons.append("the interval includes 1")
    if disturbed := disturbances((result.found, result.baseline)):
        reasons.append(f"measurements were disturbed ({brief(disturbed)}), so that the interval cannot be trusted")
    return f"{text} No difference in throughput from {name} is shown: {', and '.join(reasons)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
