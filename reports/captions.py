"""The captions of a report's charts."""

from __future__ import annotations

from nas.numbers import fixed, plural
from nas.study.objectives import on_plane
from nas.study.records import StudyInfo
from reports.figure_data import FRONT, INFEASIBLE, FigureData, thinned_front
from reports.formatting import brief, capitalized
from reports.metric_agreement import scores_spatial
from reports.score_gain import told_apart
from reports.scored_trials import objective_words, score_word
from reports.sentences import BELOW_ZERO, baseline_words, score_floor
from reports.summary import StudySummary


def search_scores(info: StudyInfo) -> str:
    """Say after how many steps the scores of the search are; "" of published scores."""
    if info.replayed:
        return ""
    return f"Scores are those of the search, after {info.rung_steps[-1]:,} training steps."


def retrained_ring(summary: StudySummary) -> str:
    """Say that the ring is by scores that the chart does not have; "" without a recommendation."""
    found = summary.recommendation
    if found is None:
        return ""
    score, against = fixed(found.model.score, 3), ""
    if found.best_baseline is not None:
        score, as_baseline = told_apart(found.model.score, found.best_baseline.score)
        against = f", the baseline {brief(found.best_baseline.name)} {as_baseline}"
    return (
        f"The ring marks the {found.word} model, by scores after longer training ({score}{against}); the chart has "
        "those of the search."
    )


def front_caption(info: StudyInfo, data: FigureData, summary: StudySummary, retrained: bool = False) -> str:
    """Say what the chart of the Pareto front shows, and explain the marks that it has.

    Args:
        info: description of the study.
        data: rows of the chart.
        summary: numbers of the study.
        retrained: whether the report has scores of longer trainings.
    """
    ringed = any(p.number == data.recommended for p in data.points)
    by_retraining = ringed and summary.recommendation is not None and summary.recommendation.retrained
    parts = [retrained_ring(summary)] if by_retraining else []
    parts += [
        f"{capitalized(score_word(info))} against throughput, relative to {brief(info.reference, 40)}. A point is a "
        "candidate, a bar the 95 % interval of its throughput."
    ]
    if scores := search_scores(info):
        longer = "; those of longer trainings are under “Can I trust this?”" if retrained else ""
        parts.append(f"{scores.removesuffix('.')}{longer}.")
    if ringed and not by_retraining:
        parts.append("The ring marks the recommended one.")
    if summary.baselines:
        parts.append(f"Diamonds are the {baseline_words(info)}.")
    floor = score_floor(info)
    if floor is not None and (low := sum(p.kind == FRONT and (p.score or 0) <= floor for p in data.points)):
        parts.append(
            f"{plural(low, 'model')} of the front {'scores' if low == 1 else 'score'} no more than the best "
            f"prediction that ignores the image ({fixed(floor, 3)})."
        )
    if any(model.inside for model in data.scale):
        names = ", ".join(brief(model.name, 40) for model in sorted(data.scale, key=lambda m: m.ratio) if model.inside)
        parts.append(f"Dotted lines are the throughputs of known networks, measured and not distilled: {names}.")
    if data.stopped:
        parts.append(
            "Early-stopped candidates are hidden at first: their scores, of the rungs that they reached, cannot be "
            "compared with the others’."
        )
    if predicted := sum(point.note is not None for point in data.points):
        parts.append(f"The throughput of {predicted} of them is predicted, not measured.")
    if any(p.kind == INFEASIBLE for p in data.points):
        parts.append("Crosses at the bottom broke a hard limit or could not be measured as the others.")
    for objective in data.further[:1]:
        better = " (lower is better)" if objective.minimize else ""
        parts.append(f"The size of a mark shows its {brief(objective.label)}{better}.")
    return " ".join((*parts, "Labels that do not fit are left out. Click a point to open its card."))


def hypervolume(info: StudyInfo, summary: StudySummary) -> str:
    """Say how large the hypervolume is, or of a study with one objective, how far its best value is."""
    if len(info.objectives) == 1 and not summary.hypervolume:
        return "No model has a value above the reference point."
    if len(info.objectives) == 1:
        return f"The best value lies {fixed(summary.hypervolume, 4)} above the reference point."
    others = ", or with a study that backbone-nas compare finds comparable" if on_plane(info.objectives) else ""
    return (
        f"The hypervolume is {fixed(summary.hypervolume, 4)}, the volume between the front and the reference point. "
        f"Compare it only within this study{others}."
    )


def score_curves_caption(data: FigureData) -> str:
    """Explain the lines in the chart of all learning curves."""
    step = data.curve_step
    some = "" if step == 1 else f" Of the other candidates, every {step}th is drawn."
    return (
        f"{capitalized(data.score_word)} of every trained candidate at each rung; a line ends where its candidate was "
        f"early-stopped.{some}"
    )


def curve_caption(info: StudyInfo, data: FigureData) -> str:
    """Explain the lines in the charts of the hypervolume."""
    if data.single is not None:
        text = f"The best {brief(data.single.label)} above the reference point ({data.single.reference:g}), "
    else:
        text = f"Hypervolume above the reference point ({_reference_point(info)}), "
    return f"{text}in the order in which evaluations finished."


def _reference_point(info: StudyInfo) -> str:
    words = objective_words(info)
    axes = ", ".join(f"{words[o.name]} {o.reference:g}" for o in info.objectives)
    return f"{axes}; {_logarithmic(info)} in doublings, log2" if _logarithmic(info) else axes


def teacher_caption(info: StudyInfo, summary: StudySummary) -> str:
    """Say which models the chart of explained variance by teacher has."""
    return f"Explained variance by teacher for {_models_with_curves(info, summary)}, best model first. {BELOW_ZERO}"


def _models_with_curves(info: StudyInfo, summary: StudySummary) -> str:
    """Name the models of the charts by teacher: the front, of which they may show only some, and the baselines."""
    shown, front = len(thinned_front(summary)), len(summary.front)
    of_front = (
        "the models on the Pareto front" if shown == front else f"{shown} of the {plural(front, 'model')} on the front"
    )
    if len(info.objectives) == 1:
        of_front = "the best model" if front == 1 else "the models that share the best value"
    return f"{of_front} and the baselines" if summary.baselines else of_front


def learning_caption(info: StudyInfo, summary: StudySummary) -> str:
    """Explain the lines in the charts of explained variance by steps."""
    features = "spatial features" if scores_spatial(info) else "features, averaged over heads,"
    dashed = " Baselines are dashed." if summary.baselines else ""
    return (
        f"Explained variance of each teacher’s {features} at every rung, for {_models_with_curves(info, summary)}."
        f"{dashed} {BELOW_ZERO}"
    )


def footer(info: StudyInfo, summary: StudySummary) -> str:
    """Say how throughput was measured, if it was, and which objectives the hypervolume counts in doublings."""
    timed = f"Relative throughput is the ratio of interleaved timings of a model and of {brief(info.reference)}. "
    counted = f"The hypervolume counts {_logarithmic(info)} in doublings. "
    doublings = len(info.objectives) > 1 and _logarithmic(info)
    return ("" if summary.half_width is None else timed) + (counted if doublings else "")


def _logarithmic(info: StudyInfo) -> str:
    words = objective_words(info)
    return " and ".join(words[o.name] for o in info.objectives if o.log)
