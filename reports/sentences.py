"""The report's sentences and captions: what a study found, with its numbers, and what the noise does not allow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from nas.analysis.selection import BaselineComparison
from nas.study.records import Objective, StudyInfo, TrialState
from reports.figure_data import FigureData
from reports.formatting import brief, plural
from reports.metrics import MetricSummary, scores_spatial
from reports.noise import disturbance, disturbances
from reports.scored_trials import OBJECTIVE_WORDS
from reports.statistics import SearchState, search_state
from reports.summary import StudySummary

CONTROL = "A control of the same length is a second study with the sampler “random”; backbone-nas compare shows both."


def score_definition(info: StudyInfo) -> str:
    """Define the distillation score of a study."""
    features = "their spatial features" if scores_spatial(info) else "their features, averaged over heads"
    return (
        f"The distillation score, or score, is the mean over teachers of the explained variance (R²) of {features}, "
        "on held-out images. At 1 a model copies the distillation targets exactly; at 0 it predicts no better than "
        "their mean."
    )


def headline(info: StudyInfo, summary: StudySummary) -> tuple[str, ...]:
    """Say in three paragraphs what the front is, and how it compares with the best baseline in speed and score."""
    first = _front_sentence(info, summary)
    if summary.best_baseline is None:
        return first, "No baseline was trained to the last rung, so there is no comparison."
    if not summary.complete:
        return (first,)
    return first, _speed_sentence(summary), _score_sentence(summary)


def _front_sentence(info: StudyInfo, summary: StudySummary) -> str:
    stopped = summary.counts.get(TrialState.STOPPED, 0)
    evaluated = plural(summary.evaluated, "architecture was evaluated", "architectures were evaluated")
    if not summary.front:
        return _no_front_sentence(summary, evaluated)
    early = f"; {plural(stopped, 'was', 'were')} early-stopped" if stopped else ""
    start = f"{evaluated[0].upper()}{evaluated[1:]}{early}."
    reference = f"the throughput of {brief(info.reference)}"
    fastest, best = summary.front[0], max(summary.front, key=lambda s: s.score)
    if len(info.objectives) == 1:
        label = brief(info.objectives[0].label)
        return (
            f"{start} The best by {label} is {brief(best.name)}, with a score of {best.score:.3f} at "
            f"{best.ratio:.2f} times {reference}."
        )
    if len(summary.front) == 1:
        return (
            f"{start} The Pareto front is one model, {brief(best.name)}, with a score of {best.score:.3f} at "
            f"{best.ratio:.2f} times {reference}."
        )
    return (
        f"{start} The Pareto front has {len(summary.front)} models. The fastest reaches "
        f"{fastest.ratio:.2f} times {reference} at a score of {fastest.score:.3f}; the highest score is "
        f"{best.score:.3f}, at {best.ratio:.2f} times {reference}."
    )


def _no_front_sentence(summary: StudySummary, evaluated: str) -> str:
    words = {TrialState.STOPPED: "early-stopped"}
    others = [
        f"{n} {words.get(state, state.value)}"
        for state, n in summary.counts.items()
        if n and state is not TrialState.COMPLETE
    ]
    untrained = summary.evaluated and not summary.counts.get(TrialState.COMPLETE)
    none = ", none of them to the last rung" if untrained else ""
    return f"There is no Pareto front: {evaluated}{none} ({', '.join(others) or 'no trials'})."


def _speed_sentence(summary: StudySummary) -> str:
    (result, _), baseline = summary.comparisons, summary.best_baseline
    assert baseline is not None
    name = brief(baseline.name)
    if result is None:
        return f"No model scores as high as the best baseline, {name} ({baseline.score:.3f})."
    return (
        f"The fastest model that scores at least as high as the best baseline, {name}, is {brief(result.found.name)} "
        f"({result.found.final_score:.3f} against {baseline.score:.3f}). It has {_speedup(result)}."
    )


def _score_sentence(summary: StudySummary) -> str:
    (_, result), baseline = summary.comparisons, summary.best_baseline
    assert baseline is not None
    name = brief(baseline.name)
    if result is None:
        return f"No model is as fast as {name}."
    gain = "higher" if result.score_gain >= 0 else "lower"
    return (
        f"The highest score at the throughput of {name} or above is {result.found.final_score:.3f}, by "
        f"{brief(result.found.name)}, which is {abs(result.score_gain):.3f} {gain} than that of the baseline. "
        f"This model has {_speedup(result)}."
    )


def _speedup(result: BaselineComparison) -> str:
    text = (
        f"{result.speedup:.2f} times the throughput of the baseline "
        f"(95 % intervals combined: {result.speedup_low:.2f} to {result.speedup_high:.2f})"
    )
    disturbed = disturbances((result.found, result.baseline))
    if not disturbed:
        return text
    return f"{text}. Measurements were disturbed ({brief(disturbed)}): this interval cannot be trusted"


def noise(info: StudyInfo, summary: StudySummary) -> str:
    """Say what the measured intervals allow to conclude about a front of score and throughput; "" of any other."""
    two_axes = {o.name for o in info.objectives} == {"score", "throughput"}
    if not summary.front or not two_axes or summary.half_width is None:
        return ""
    ties = "No two neighbors on the front have overlapping intervals."
    if len(summary.front) == 1:
        ties = "The front has no neighbors to compare."
    if summary.tied_neighbors:
        pairs = plural(summary.tied_neighbors, "pair", "pairs")
        ties = f"{pairs} of neighbors on the front cannot be distinguished by throughput."
    near = plural(len(summary.near), "dominated model is", "dominated models are")
    return (
        f"{noise_floor_sentence(summary)}The 95 % intervals of the throughput have a median half-width of "
        f"{100 * summary.half_width:.2f} %. {ties} {near[0].upper()}{near[1:]} within the noise of the front. "
        "Each model was trained once, so scores have no interval, and small differences in score prove nothing."
    )


def noise_floor_sentence(summary: StudySummary) -> str:
    """Say how far apart two equal models are measured; "" where the reference was not measured against itself."""
    aa = summary.self_comparison
    if aa is None:
        return ""
    verdict = disturbance(aa.trial)
    disturbed = f" That measurement was disturbed ({verdict}): its interval cannot be trusted." if verdict else ""
    return (
        f"Measured against itself (A/A), {brief(aa.name)} reached {aa.ratio:.3f} times its own throughput "
        f"({aa.ratio_low:.3f} to {aa.ratio_high:.3f}): differences within this range are ties.{disturbed} "
    )


def progress(info: StudyInfo, summary: StudySummary, made: datetime) -> str | None:
    """Say how far an unfinished study is; None for a study that has spent its budget and runs no trial.

    Args:
        info: description of the study.
        summary: numbers of the study.
        made: UTC time of the report.
    """
    budget = info.config.get("budget")
    running = summary.counts.get(TrialState.RUNNING, 0)
    search = search_state(info, summary.evaluated, running)
    if search is SearchState.FINISHED:
        return None
    short = isinstance(budget, int) and summary.evaluated < budget
    done = f"{summary.evaluated} of {budget}" if short else str(summary.evaluated)
    trials = f", {plural(running, 'trial was', 'trials were')} running" if running else ""
    state = f"{done} evaluations were complete{trials} at {made:%Y-%m-%d %H:%M:%S} UTC"
    if search is SearchState.RUNNING:
        return f"Unfinished: {state}. The search rewrites this file while it runs; reload it to see more."
    if search is SearchState.ENDED_EARLY:
        reason = brief(info.sessions[-1].get("ending"), 300)
        return f"Ended early: {state}. The search stopped before its budget was spent: {reason}."
    return f"Unfinished: {state}. No search was running; --resume continues it."


def agreement(metrics: Sequence[MetricSummary]) -> tuple[str, ...]:
    """Say which metrics the distillation score agrees with, and which metrics are too close to chance to tell."""
    known = [m for m in metrics if m.tau is not None]
    if not known:
        return (
            ("Too few models were trained to the last rung to compare their scores with metrics.",) if metrics else ()
        )
    agreeing = [m for m in known if m.agrees]
    weak = [m for m in known if m.agrees_weakly]
    opposed = [m for m in known if m.contradicts]
    unclear = [m for m in known if m not in (*agreeing, *weak, *opposed)]
    sentences = []
    if agreeing:
        sentences.append(f"The score ranks the models as these metrics do: {_taus(agreeing)}.")
    if weak:
        sentences.append(f"It agrees weakly, but by more than chance, with these: {_taus(weak)}.")
    if opposed:
        sentences.append(f"Warning: it ranks the models in the opposite order of these: {_taus(opposed)}.")
    if unclear:
        most = max(m.models for m in unclear)
        sentences.append(f"From {most} models no agreement can be shown with these: {_taus(unclear)}.")
    return (*sentences, *(sentence for m in metrics if (sentence := _chance_sentence(m))))


def _taus(metrics: Sequence[MetricSummary]) -> str:
    return ", ".join(f"{brief(m.label)} (τ {m.tau:.2f})" for m in metrics)


def _chance_sentence(metric: MetricSummary) -> str:
    label, teacher = brief(metric.label), brief(metric.teacher)
    if metric.teacher_near_chance:
        values = f"{metric.teacher_value:.3f} against {metric.chance:.3f}"
        return f"For {label}, even the best teacher, {teacher}, is near chance on these images ({values})."
    if metric.models_near_chance:
        values = f"at most {metric.best:.3f} against {metric.chance:.3f}"
        best = "" if metric.teacher is None else f" The best teacher, {teacher}, reaches {metric.teacher_value:.3f}."
        return f"For {label}, all models are near chance ({values}).{best}"
    return ""


def result_line(summary: StudySummary) -> str:
    """Return the result in one line for the terminal."""
    text = f"{summary.evaluated} evaluated, front of {len(summary.front)}, hypervolume {summary.hypervolume:.4f}"
    best, _ = summary.comparisons
    if best is None:
        return text
    return (
        f"{text}; {brief(best.found.name)}: score of {brief(best.baseline.name)} at {best.speedup:.2f}x its throughput"
    )


def front_caption(data: FigureData) -> str:
    """Explain the marks in the chart of the Pareto front."""
    third = ""
    if data.third:
        better = " (lower is better)" if data.third.minimize else ""
        third = f" The size of a mark shows its {brief(data.third.label)}{better}."
    return (
        "Each point is a candidate; bars are 95 % intervals of the relative throughput. Early-stopped candidates are "
        "drawn at the score of the rung they reached and cannot be compared with the others. Crosses at the bottom "
        "broke a hard limit or could not be measured, and were never trained."
        f"{third} Click a point to open its card."
    )


def curve_caption(info: StudyInfo, data: FigureData) -> str:
    """Explain the lines in the charts of the hypervolume."""
    if data.single is not None:
        text = f"The best {brief(data.single.label)} above the reference ({data.single.reference:g}), "
    else:
        axes = ", ".join(f"{_word(o)} {o.reference:g}" for o in info.objectives)
        doublings = f"; {_logarithmic(info)} in doublings" if _logarithmic(info) else ""
        text = f"Hypervolume above the reference point ({axes}{doublings}), "
    text += "in the order in which evaluations finished."
    return text + (" Dotted: the expectation of random search." if data.random_start else "")


def learning_caption(info: StudyInfo) -> str:
    """Explain the lines in the charts of explained variance by steps."""
    features = "spatial features" if scores_spatial(info) else "features, averaged over heads,"
    return (
        f"Explained variance of each teacher’s {features} at every rung, for models on the Pareto front and baselines."
    )


def footer(info: StudyInfo, summary: StudySummary) -> str:
    """Say how throughput was measured, if it was, and which objectives the hypervolume counts in doublings."""
    timed = f"Relative throughput is the ratio of interleaved timings of a model and of {brief(info.reference)}. "
    counted = f"The hypervolume counts {_logarithmic(info)} in doublings. "
    doublings = len(info.objectives) > 1 and _logarithmic(info)
    return ("" if summary.half_width is None else timed) + (counted if doublings else "")


def _logarithmic(info: StudyInfo) -> str:
    return " and ".join(_word(o) for o in info.objectives if o.log)


def _word(objective: Objective) -> str:
    names = {"throughput": "throughput", **OBJECTIVE_WORDS}
    return names.get(objective.name) or brief(objective.label)


def random_control(info: StudyInfo, summary: StudySummary) -> str:
    """Say which part of the hypervolume curve is a control by random search."""
    sampler = brief(info.config.get("sampler", "unknown"))
    if sampler == "random":
        return "This study is a random search: its curve is the control for other searches."
    start = summary.random_start
    if start is None:
        return (
            f"This study contains no random control: its sampler, {sampler}, drew no trial at random, or has drawn "
            f"nothing else yet. {CONTROL}"
        )
    return (
        f"The sampler, {sampler}, drew the first {len(start.trials)} evaluations at random. They are a control for as "
        f"many trainings and reached a hypervolume of {start.expected[-1]:.4f}. This study contains no random search "
        f"of more trainings. {CONTROL}"
    )
