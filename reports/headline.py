"""The first sentences of a report.

They say which candidate is recommended, how it compares with the best baseline, and what doubts remain.
`nas.analysis.recommendation` decides; this module only words the decision.
"""

from __future__ import annotations

from nas.analysis.recommendation import (
    BaselineComparison,
    Recommendation,
    evidence_words,
    race_words,
    unused_words,
)
from nas.analysis.trial_choice import measurement
from nas.numbers import fixed, plural
from nas.study.records import StudyInfo, TrialRecord, TrialState
from nas.study.timing_doubts import timing_doubt
from reports.export_advice import remeasure_command
from reports.formatting import brief, capitalized, significant
from reports.score_gain import printed_gain, told_apart
from reports.scored_trials import ScoredTrial, value_of
from reports.search_course import SearchState, search_state
from reports.sentences import baseline_words, doubt_meanings, trained_once
from reports.summary import StudySummary

NO_DIFFERENCE = "no difference shown"
MAX_NAMED = 3  # models of the best value, in the line for the terminal
UNKNOWN = "unknown"  # in place of a throughput whose timing cannot be trusted


def headline(info: StudyInfo, summary: StudySummary, run: str) -> tuple[str, ...]:
    """Say which candidate is recommended and why, how it compares with the best baseline, and what the front is.

    Where one of the timings behind these sentences cannot be trusted, a sentence before them says so, and no ratio is
    given that uses it.

    Args:
        info: description of the study.
        summary: numbers of the study.
        run: folder of the study, for the commands.
    """
    first = doubt_sentence(info, summary, run), _hopeless_race_sentence(info)
    return (*filter(None, first), *_result_sentences(info, summary))


def doubt_sentence(info: StudyInfo, summary: StudySummary, run: str) -> str:
    """Say that the speeds are unknown, and what measures them; "" where all timings behind it can be trusted."""
    found = summary.recommendation
    compared = [model.trial for c in summary.comparisons if c for model in c.timed]
    doubtful = [t for t in (*([found.trial] if found else ()), *compared) if timing_doubt(t.measurement)]
    if not doubtful:
        return ""
    timings = sum(summary.verdicts.values())
    which = f"None of the {plural(timings, 'timing')} can be trusted" if timings > 1 else "The timing cannot be trusted"
    if summary.doubtful < timings:
        names = " and of ".join(dict.fromkeys(brief(t.name, 40) for t in doubtful))
        which = f"Of {plural(timings, 'timing')}, {summary.doubtful} cannot be trusted, among them that of {names}"
    command = remeasure_command(info, summary, run)
    until = f" until you have measured them again on an idle machine with {command}" if command else ""
    return f"{which} ({doubt_meanings(doubtful)}). Treat the speeds as unknown{until}."


def _result_sentences(info: StudyInfo, summary: StudySummary) -> tuple[str, ...]:
    front = _front_sentence(info, summary)
    if summary.recommendation is None:
        return (front,)
    if summary.recommendation.race is not None:
        return race_sentence(summary.recommendation), front
    if summary.recommendation.best_baseline is None:
        found = summary.recommendation
        model = _model_words(found.trial, fixed(found.model.score, 3), info)
        kind = "retrained score" if summary.recommendation.retrained else "score"
        why = f"The highest {kind} is that of {model}. No baseline was trained to the last rung, so none is compared."
        return why, front
    found = summary.recommendation
    sentences = _speed_sentence(info, summary), _score_sentence(info, summary), front
    compared = tuple(filter(None, sentences))
    if found.fastest_as_good is None or found.fastest_as_good.candidate.number == found.model.number:
        return compared
    return _highest_sentence(info, found), *compared


def why_no_difference(result: BaselineComparison, how: str = "") -> str:
    """Say why the timings show no difference in throughput; `how` explains the interval."""
    interval = f"{result.speedup_low:.2f} to {result.speedup_high:.2f}"
    if result.speedup_low <= 1 <= result.speedup_high:
        return f"the 95 % interval of the ratio, {interval}, includes 1{how}"
    ratio = f"the ratio, {result.speedup:.2f} (95 % interval {interval}{how})"
    return (
        f"{ratio}, differs from 1 by no more than the noise "
        f"(the reference, timed against itself: {100 * result.floor:.1f} %)"
    )


def is_one_pair(summary: StudySummary) -> bool:
    """Tell whether one candidate is both the fastest with a score as high and the best that is as fast."""
    fastest_as_good, best_as_fast = summary.comparisons
    return bool(fastest_as_good and best_as_fast and fastest_as_good.candidate.number == best_as_fast.candidate.number)


def recommended(info: StudyInfo, summary: StudySummary) -> str:
    """Return the recommended model's numbers in one line; "" where no model is recommended.

    Numbers of a doubtful timing have a dagger, and no ratio to the reference is given.
    """
    if summary.recommendation is None:
        return ""
    model = summary.recommendation.model
    trial, m = model.trial, model.measurement
    doubtful = bool(timing_doubt(m))
    dagger = " †" if doubtful else ""
    size = "" if trial.params is None else f"; {trial.params / 1e6:.2f} M parameters"
    macs = "" if trial.macs is None else f"; {trial.macs / 1e6:.1f} M MACs"
    times = "" if doubtful else f", {m.ratio:.2f} times that of the reference, {brief(m.reference, 40)}"
    steps = "" if info.replayed else f" after {trial.rungs[-1].steps} training steps"
    if summary.recommendation.retrained:
        steps = f" ({_trainings(model.seeds, model.steps)})"
    return (
        f"score {fixed(model.score, 3)}{steps}; throughput {m.throughput_img_s:,.0f} images/s "
        f"(batch {m.batch}){dagger}{times}; latency {m.latency_ms:.2f} ms (batch 1){dagger}{size}{macs}"
    )


def _trainings(seeds: int, steps: int) -> str:
    mean = f"mean of {seeds} longer trainings" if seeds > 1 else "one longer training"
    return f"{mean}, {steps:,} steps{' each' * (seeds > 1)}"


def result_line(info: StudyInfo, summary: StudySummary) -> str:
    """Return the result in one line for the terminal, with the evidence behind it."""
    evaluated = plural(summary.evaluated, "architecture", "architectures")
    text = f"{evaluated} evaluated, front of {len(summary.front)}, hypervolume {fixed(summary.hypervolume, 4)}"
    if len(info.objectives) == 1:
        best_models = " and ".join(brief(s.name) for s in summary.front[:MAX_NAMED]) or "none"
        text = f"{evaluated} evaluated, best by {brief(info.objectives[0].label)}: {best_models}"
    found, (best, _) = summary.recommendation, summary.comparisons
    if found is None:
        return text
    if found.race is not None:
        return f"{text}; {brief(found.model.name)} {race_words(found)}"
    evidence = brief(evidence_words(found), 300)
    if found.best_baseline is None:
        retrained = f"; {brief(found.model.name)} has the highest retrained score ({evidence})"
        return text + (retrained if found.retrained else "")
    baseline = brief(found.best_baseline.name)
    if best is None:
        return f"{text}; no {_kind(found)} scores as high as {baseline} ({evidence})"
    if best.candidate.number != found.model.number:
        score, as_baseline = told_apart(found.model.score, found.best_baseline.score)
        name = brief(found.model.name)
        return f"{text}; {name} has the highest score: {score} against {as_baseline} of {baseline} ({evidence})"
    speed = f"{best.speedup:.2f} times its throughput" if best.shows_difference else f"{NO_DIFFERENCE} in throughput"
    if best.doubtful:
        speed = f"throughput {UNKNOWN}, as timings cannot be trusted"
    return f"{text}; {brief(best.candidate.name)} scores at least as high as {baseline}: {speed} ({evidence})"


def _model_words(trial: TrialRecord, score: str, info: StudyInfo) -> str:
    reference = f"the throughput of the reference, {brief(info.reference)}"
    return f"{brief(trial.name)} (score {_score_and_times(trial, score, reference)})"


def _score_and_times(trial: TrialRecord, score: str, what: str = "") -> str:
    """Return "0.512 at 1.30 times `what`"; without the ratio where the timing cannot be trusted."""
    if timing_doubt(trial.measurement):
        return score
    return f"{score} at {measurement(trial).ratio:.2f} times {what}".rstrip()


def _front_sentence(info: StudyInfo, summary: StudySummary) -> str:
    stopped = summary.counts.get(TrialState.STOPPED, 0)
    evaluated = plural(summary.evaluated, "architecture was evaluated", "architectures were evaluated")
    if not summary.front:
        return _no_front_sentence(info, summary, evaluated)
    early = f"; {plural(stopped, 'was', 'were')} early-stopped" if stopped else ""
    start = f"{capitalized(evaluated)}{early}."
    reference = f"the throughput of {brief(info.reference)}"
    best, found = max(summary.front, key=lambda s: s.score), summary.recommendation
    timings = " and the newest timings" if summary.remeasured else ""
    by_search = f" by the search’s scores (after {info.rung_steps[-1]:,} steps){timings}"
    of_search = by_search if found and found.retrained else ""
    best_model = _model_words(best.trial, fixed(best.score, 3), info)
    if len(info.objectives) == 1:
        return f"{start} The best by {brief(info.objectives[0].label)} is {best_model}."
    if len(summary.front) == 1:
        return f"{start} The Pareto front{of_search} is one model, {best_model}."
    end, is_what, value = _other_end(info, summary)
    highest = _score_and_times(best.trial, fixed(best.score, 3), reference)
    start = f"{start} The Pareto front{of_search} has {len(summary.front)} models"
    if end.trial.number == best.trial.number:
        return f"{start}; {brief(best.name)} has the highest score ({highest}{value}) and is {is_what}."
    what = reference if timing_doubt(best.trial.measurement) else ""
    at_the_end = _score_and_times(end.trial, fixed(end.score, 3), what)
    return (
        f"{start}, from {brief(best.name)} with the highest score ({highest}) to {brief(end.name)}, {is_what} "
        f"({at_the_end}{value})."
    )


def _other_end(info: StudyInfo, summary: StudySummary) -> tuple[ScoredTrial, str, str]:
    """Return the front's fastest model, or its best by the first objective that is not the score, and what it is.

    The last text is the objective's value: "; parameters 312,000", "" of a throughput.
    """
    fastest = summary.front[0]
    if any(objective.name == "throughput" for objective in info.objectives):
        return fastest, "timed as the fastest" if timing_doubt(fastest.trial.measurement) else "the fastest", ""
    axis, objective = next((i, o) for i, o in enumerate(info.objectives) if o.name != "score")
    end, label = max(summary.front, key=lambda s: s.values[axis]), brief(objective.label)
    value = f"{significant(value_of(end.trial, objective.name))} {brief(objective.unit, 40)}".rstrip()
    return end, f"the best by {label}", f"; {label} {value}"


def _no_front_sentence(info: StudyInfo, summary: StudySummary, evaluated: str) -> str:
    state = search_state(info, summary.evaluated, summary.counts.get(TrialState.RUNNING, 0))
    lost = f"{summary.lost_baselines} of {plural(len(info.baselines), 'baseline')} failed"
    done = len(summary.baselines) + summary.lost_baselines
    if not summary.evaluated and done < len(info.baselines):
        counts = f"{done} of {len(info.baselines)} done{f'; {lost}' if summary.lost_baselines else ''}"
        if state is SearchState.RUNNING:
            return f"The {baseline_words(info)} are being measured and trained ({counts}); the candidates follow."
        return f"The search ended while the {baseline_words(info)} were being measured and trained ({counts})."
    ended = [(n, state.word) for state, n in summary.counts.items() if n and state is not TrialState.COMPLETE]
    others = [f"{n if i else plural(n, 'candidate')} {word}" for i, (n, word) in enumerate(ended)]
    untrained = summary.evaluated and not summary.counts.get(TrialState.COMPLETE)
    none = ", none of them to the last rung" if untrained else ""
    why = " The report lists the reasons under “Failed and infeasible trials”." if summary.reasons else ""
    trials = "; ".join(filter(None, (", ".join(others), lost if summary.lost_baselines else ""))) or "no trials"
    place = "in the ranking" if len(info.objectives) == 1 else "on a Pareto front"
    yet = "" if state in (SearchState.FINISHED, SearchState.ENDED_EARLY) else " yet"
    return f"No candidate is {place}{yet}: {evaluated}{none} ({trials}).{why}"


def _speed_sentence(info: StudyInfo, summary: StudySummary) -> str:
    found = summary.recommendation
    assert found is not None
    result, baseline, kind = found.fastest_as_good, found.best_baseline, _kind(found)
    assert baseline is not None
    best = f"the best of the {baseline_words(info)}, {brief(baseline.name)}"
    if result is None:
        score, as_baseline = told_apart(found.model.score, baseline.score)
        return (
            f"No {kind} scores as high as {best} ({as_baseline}). The highest score of a {kind} is that of "
            f"{_model_words(found.trial, score, info)}."
        )
    half = None if is_one_pair(summary) else result.half_width(found.scatter)  # of one pair the next sentence has it
    exact = "" if half is None else f"; the 95 % interval of this difference is ± {half:.3f}"
    scores = f"({fixed(result.candidate.score, 3)} against {fixed(baseline.score, 3)}{exact})"
    name = brief(result.candidate.name)
    if result.doubtful:
        return f"Of the {kind}s that score at least as high as {best}, {name} was timed as the fastest {scores}."
    timings = "the timing" if result.against_reference else "both timings"
    words = _throughput_words(result, info, f", from the noise of {timings}, not of the scores")
    return f"{capitalized(name)} is the fastest {kind} that scores at least as high as {best} {scores}. {words}"


def _hopeless_race_sentence(info: StudyInfo) -> str:
    """Say that a race trained no candidate, because none was likely to win; "" where it trained one."""
    if info.race is None or not info.race.decided or info.race.best is not None:
        return ""
    steps = f"{info.race.decides_at:,} steps"
    return f"No candidate is likely to be as good as the target after {steps}: the race trained none to the end."


def race_sentence(found: Recommendation) -> str:
    """Name the model that a race decided for, with its evidence."""
    return f"{capitalized(brief(found.model.name))} {race_words(found)}."


def _highest_sentence(info: StudyInfo, found: Recommendation) -> str:
    """Say why the recommended candidate is not the fastest that scores as high as the best baseline."""
    assert found.best_baseline is not None
    return (
        f"{capitalized(brief(found.model.name))} has the highest score, {fixed(found.model.score, 3)} against "
        f"{fixed(found.best_baseline.score, 3)} of the best of the {baseline_words(info)}, "
        f"{brief(found.best_baseline.name)}. Throughput is no objective of this search."
    )


def _score_sentence(info: StudyInfo, summary: StudySummary) -> str:
    found = summary.recommendation
    assert found is not None
    assert found.best_baseline is not None
    result, kind, name = found.best_as_fast, _kind(found), brief(found.best_baseline.name)
    if result is None:
        return f"No {kind} was timed as fast as {name}."
    difference = printed_gain(result)
    gain = f"is {abs(difference):.3f} {'higher' if difference >= 0 else 'lower'} than that of the baseline"
    sentence = (
        f"{capitalized(brief(result.candidate.name))} also has the highest score of the {kind}s that were timed as "
        f"fast as {name} or faster. It {gain}."
    )
    speed = ""
    if not is_one_pair(summary):
        sentence = (
            f"Of the {kind}s that were timed as fast as {name} or faster, {brief(result.candidate.name)} has the "
            f"highest score: {fixed(result.candidate.score, 3)}, which {gain}."
        )
        speed = "" if result.doubtful else _throughput_words(result, info)
    return " ".join(filter(None, (sentence, speed, _scores_words(info, found, result))))


def _kind(found: Recommendation) -> str:
    return "retrained candidate" if found.retrained else "candidate"


def _scores_words(info: StudyInfo, found: Recommendation, result: BaselineComparison) -> str:
    """Say which trainings the compared scores are from, and how exact they are; "" of published scores."""
    if not found.retrained:
        why = unused_words(found)
        once = "" if info.replayed else trained_once(info)
        return once and " ".join(filter(None, (once, capitalized(why) + "." if why else "")))
    half = result.half_width(found.scatter)
    exact = "they have no interval" if half is None else f"the 95 % interval of the difference in score is ± {half:.3f}"
    kind = "means of longer trainings" if result.candidate.seeds > 1 else "those of longer trainings"
    seeds = "one seed" if result.candidate.seeds == 1 else f"{result.candidate.seeds} seeds"
    return f"These scores are {kind} ({seeds}, {result.candidate.steps:,} steps); {exact}."


def _throughput_words(result: BaselineComparison, info: StudyInfo, how: str = "") -> str:
    """Give a trusted throughput relative to the baseline and to the reference, or say that it does not differ.

    Args:
        result: comparison of a candidate with the best baseline.
        info: description of the study.
        how: explanation of the interval, for its first mention.
    """
    name, reference = brief(result.baseline.name), brief(info.reference)
    if not result.shows_difference:
        return f"No difference in throughput from {name} is shown: {why_no_difference(result, how)}."
    interval = f"{result.speedup_low:.2f} to {result.speedup_high:.2f}"
    times = f"{result.speedup:.2f} times that of {name} (95 % interval {interval}{how})"
    if result.baseline.name != info.reference:
        times += f" and {result.candidate.ratio:.2f} times that of the reference, {reference}"
    return f"Its throughput is {times}."
