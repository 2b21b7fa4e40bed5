"""The verdict of a report: the recommended candidate against the best baseline, and what the noise leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.analysis.selection import BaselineComparison, measurement
from nas.numbers import fixed
from nas.study.records import Measurement, StudyInfo, TrialRecord, TrialState
from nas.study.timing_doubts import timing_doubt
from reports.formatting import brief, plural
from reports.noise import doubt_of
from reports.sentences import TRAINED_ONCE, baseline_words, doubt_meanings
from reports.statistics import SearchState, search_state
from reports.summary import StudySummary

NO_DIFFERENCE = "no difference shown"
UNKNOWN = "unknown"  # in place of a throughput whose timing cannot be trusted


@dataclass(frozen=True)
class Tile:
    """One number of the summary: what it is, its value, and a note below it."""

    label: str
    value: str
    note: str


def headline(
    info: StudyInfo, summary: StudySummary, run: str, retraining: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Say which candidate is recommended and why, how it compares with the best baseline, and what the front is.

    Where one of the timings behind these sentences cannot be trusted, a sentence before them says so, and no ratio is
    given that uses it. Where retraining took the recommendation back, the first sentence says that.

    Args:
        info: description of the study.
        summary: numbers of the study.
        run: folder of the study, for the commands.
        retraining: results, as `reports.retraining.read_retraining` returns them.
    """
    worse, doubt = overtaken(summary, retraining, run), doubt_sentence(summary, run)
    first = (worse[0],) if worse else ()
    return first + ((doubt,) if doubt else ()) + _result_sentences(info, summary)


def doubt_sentence(summary: StudySummary, run: str) -> str:
    """Say that the speeds are unknown, and what measures them; "" where all timings behind it can be trusted."""
    found = summary.recommendation
    compared = [trial for c in summary.comparisons if c for trial in (c.found, c.baseline)]
    doubtful = [t for t in (*([found.trial] if found else ()), *compared) if doubt_of(t)]
    if not doubtful:
        return ""
    timings = sum(summary.verdicts.values())
    which = f"None of the {timings} timings can be trusted"
    if summary.doubtful < timings:
        names = " and of ".join(dict.fromkeys(brief(t.name, 40) for t in doubtful))
        which = f"Of {timings} timings, {summary.doubtful} cannot be trusted, with that of {names}"
    return (
        f"{which} ({doubt_meanings(doubtful)}): take speeds as unknown until they are measured on an idle machine with "
        f"{remeasure_command(run)}."
    )


def _result_sentences(info: StudyInfo, summary: StudySummary) -> tuple[str, ...]:
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
    if result.doubtful:
        return Tile(label, UNKNOWN, "the timings cannot be trusted")
    interval = f"{result.speedup_low:.2f} to {result.speedup_high:.2f}"
    if result.shows_difference:
        return Tile(label, f"{result.speedup:.2f}×", interval)
    return Tile(label, NO_DIFFERENCE, f"the 95 % interval of the ratio, {interval}, includes 1")


def _score_tile(summary: StudySummary, baseline: str) -> Tile:
    _, result = summary.comparisons
    if result is None:
        return Tile(f"score at a throughput as high as that of {baseline}", "–", "no candidate is as fast")
    found = brief(result.found.name)
    label = f"score of {found}, which was timed as fast as {baseline} or faster"
    if _is_one_pair(summary):
        label = f"score of {found} against {baseline}"
    return Tile(label, f"{_printed_gain(result):+z.3f}", "no interval: each trained once")


def _printed_gain(result: BaselineComparison) -> float:
    """Return the difference of the two scores as printed, so that a reader who subtracts them finds the same."""
    return round(result.found.final_score, 3) - round(result.baseline.final_score, 3)


def _is_one_pair(summary: StudySummary) -> bool:
    """Tell whether one candidate is both the fastest with a score as high and the best that is as fast."""
    at_equal_score, at_equal_speed = summary.comparisons
    return bool(at_equal_score and at_equal_speed and at_equal_score.found == at_equal_speed.found)


def recommended(info: StudyInfo, summary: StudySummary) -> str:
    """Return the recommended model's numbers in one line; "" where no model is recommended.

    Numbers of a doubtful timing have a dagger, and no ratio to the reference is given.
    """
    if summary.recommendation is None:
        return ""
    trial = summary.recommendation.trial
    m, doubtful = measurement(trial), bool(doubt_of(trial))
    dagger = " †" if doubtful else ""
    size = "" if trial.params is None else f"; {trial.params / 1e6:.2f} M parameters"
    macs = "" if trial.macs is None else f"; {trial.macs / 1e6:.1f} M MACs"
    times = "" if doubtful else f", {m.ratio:.2f} times that of the reference, {brief(m.reference, 40)}"
    steps = f" after {trial.rungs[-1].steps} training steps" if info.teachers else ""
    return (
        f"score {fixed(trial.final_score, 3)}{steps}; throughput {m.throughput_img_s:,.0f} images/s "
        f"(batch {m.batch}){dagger}{times}; latency {m.latency_ms:.2f} ms (batch 1){dagger}{size}{macs}"
    )


def retrain_command(run: str) -> str:
    """Return the command that retrains the front of a study with other seeds."""
    return f"backbone-nas retrain {run}"


def remeasure_command(run: str) -> str:
    """Return the command that times the front of a study again."""
    return f"backbone-nas remeasure {run}"


def before_export(
    info: StudyInfo, summary: StudySummary, retraining: Mapping[str, Any] | None, run: str
) -> tuple[tuple[str, str], ...]:
    """Return what is in doubt about the recommended model, each with the command that settles it."""
    if summary.recommendation is None:
        return ()
    trial, settled_by = summary.recommendation.trial, []
    retrained = {c["trial"] for c in retraining["candidates"]} if retraining else set()
    if info.teachers and trial.number not in retrained:
        steps = trial.rungs[-1].steps
        settled_by.append(
            (f"It was trained once, for {steps} steps; train it longer, with other seeds:", retrain_command(run))
        )
    if worse := overtaken(summary, retraining, run):
        settled_by.append(worse)
    if doubt := doubt_of(trial):
        settled_by.append(
            (f"† Its timing cannot be trusted ({doubt}); measure it on an idle machine:", remeasure_command(run))
        )
    return tuple(settled_by)


def overtaken(summary: StudySummary, retraining: Mapping[str, Any] | None, run: str) -> tuple[str, str] | None:
    """Say that a baseline scores higher than the recommended model after both were retrained, and what to do then.

    Args:
        summary: numbers of the study.
        retraining: results, as `reports.retraining.read_retraining` returns them.
        run: folder of the study, for the command.

    Returns:
        A sentence and a command; None where no retrained baseline scores higher, or the model was not retrained.
    """
    if summary.recommendation is None or retraining is None:
        return None
    trial = summary.recommendation.trial
    scored = [c for c in retraining["candidates"] if c["score"] is not None]
    baselines = [c for c in scored if c["change"] == "baseline"]
    own = next((c for c in scored if c["trial"] == trial.number), None)
    best = max(baselines, key=lambda c: c["score"], default=None)
    if own is None or best is None or own["score"] >= best["score"]:
        return None
    text = f"Retrained for {retraining['steps']:,} steps, {brief(trial.name)} scores {fixed(own['score'], 3)}, less "
    text += f"than the baseline {brief(best['name'])}, {fixed(best['score'], 3)}"
    timed = [c for c in scored if c["measurement"] and not timing_doubt(Measurement.from_dict(c["measurement"]))]
    as_high = [c for c in timed if c not in baselines and c["score"] >= best["score"]]
    fastest = max(as_high, key=lambda c: c["measurement"]["ratio"], default=None)
    if fastest is None:
        return f"{text}; no retrained candidate with a timing that can be trusted scores as high.", retrain_command(run)
    text += f". The fastest retrained candidate that scores as high is trial {fastest['trial']}: "
    text += fixed(fastest["score"], 3)
    sentence = f"{text} at {fastest['measurement']['ratio']:.2f} times the throughput of the reference."
    return sentence, _export(run, fastest["trial"])


def export_command(summary: StudySummary, run: str) -> str:
    """Return the command that exports the recommended model; "" where no model is recommended."""
    if summary.recommendation is None:
        return ""
    return _export(run, summary.recommendation.trial.number)


def _export(run: str, number: int) -> str:
    return f"backbone-nas export {run} --trials {number} --format timm --out winner"


def result_line(summary: StudySummary) -> str:
    """Return the result in one line for the terminal."""
    text = f"{summary.evaluated} evaluated, front of {len(summary.front)}, hypervolume {fixed(summary.hypervolume, 4)}"
    best, _ = summary.comparisons
    if best is None:
        return text
    speed = f"{best.speedup:.2f} times its throughput" if best.shows_difference else f"{NO_DIFFERENCE} in throughput"
    if best.doubtful:
        speed = f"throughput {UNKNOWN}, as timings cannot be trusted"
    return f"{text}; {brief(best.found.name)} scores at least as high as {brief(best.baseline.name)}: {speed}"


def _model_words(trial: TrialRecord, info: StudyInfo) -> str:
    reference = f"the throughput of the reference, {brief(info.reference)}"
    return f"{brief(trial.name)} (score {_score_and_times(trial, reference)})"


def _score_and_times(trial: TrialRecord, what: str = "") -> str:
    """Return "0.512 at 1.30 times `what`"; without the ratio where the timing cannot be trusted."""
    score = fixed(trial.final_score, 3)
    return score if doubt_of(trial) else f"{score} at {measurement(trial).ratio:.2f} times {what}".rstrip()


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
    timed = "timed as " if doubt_of(fastest.trial) else ""
    return (
        f"{start} The Pareto front has {len(summary.front)} models, from {brief(best.name)} with the highest score "
        f"({_score_and_times(best.trial, reference)}) to {brief(fastest.name)}, {timed}the fastest "
        f"({_score_and_times(fastest.trial, reference if doubt_of(best.trial) else '')})."
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
            f"No candidate scores as high as {best} ({fixed(baseline.score, 3)}). The highest score of a candidate is "
            f"that of {_model_words(found.trial, info)}."
        )
    scores = f"({fixed(result.found.final_score, 3)} against {fixed(baseline.score, 3)})"
    name = _capital(brief(result.found.name))
    if result.doubtful:
        return f"{name} scores at least as high as {best} {scores}, and was timed as the fastest of such candidates."
    words = _throughput_words(result, info, "; it combines those of both timings")
    return f"{name} is the fastest candidate that scores at least as high as {best} {scores}. {words}"


def _score_sentence(info: StudyInfo, summary: StudySummary) -> str:
    (_, result), baseline = summary.comparisons, summary.best_baseline
    assert baseline is not None
    name = brief(baseline.name)
    if result is None:
        return f"No candidate was timed as fast as {name}."
    difference = _printed_gain(result)
    gain = f"{abs(difference):.3f} {'higher' if difference >= 0 else 'lower'} than the baseline’s"
    sentence = f"It also has the highest score of the candidates that were timed as fast as {name} or faster, {gain}."
    speed = ""
    if not _is_one_pair(summary):
        sentence = (
            f"Of the candidates that were timed as fast as {name} or faster, {brief(result.found.name)} has the "
            f"highest score, {fixed(result.found.final_score, 3)}, {gain}."
        )
        speed = "" if result.doubtful else _throughput_words(result, info)
    return " ".join(filter(None, (sentence, speed, TRAINED_ONCE if info.teachers else "")))


def _throughput_words(result: BaselineComparison, info: StudyInfo, how: str = "") -> str:
    """Give a trusted throughput relative to the baseline and to the reference, or say that it does not differ.

    Args:
        result: comparison of a candidate with the best baseline.
        info: description of the study.
        how: explanation of the interval, for its first mention.
    """
    name, reference = brief(result.baseline.name), brief(info.reference)
    interval = f"{result.speedup_low:.2f} to {result.speedup_high:.2f}"
    if not result.shows_difference:
        return (
            f"No difference in throughput from {name} is shown: the 95 % interval of their ratio, {interval}, includes "
            f"1{how}."
        )
    times = f"{result.speedup:.2f} times that of {name} (95 % interval {interval}{how})"
    if result.baseline.name != info.reference:
        times += f" and {measurement(result.found).ratio:.2f} times that of the reference, {reference}"
    return f"Its throughput is {times}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
