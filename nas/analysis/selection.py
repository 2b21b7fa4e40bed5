"""Select trials of a study: complete ones, those to retrain or to remeasure, the one a user names. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nas.analysis import BEST, WHICH
from nas.analysis.noise import CandidateEstimate, assumed_scatter, front_chances
from nas.numbers import plural
from nas.study import pareto
from nas.study.loop import CONVERGED
from nas.study.proposer import NOTHING_NEW, SPACE_EXHAUSTED
from nas.study.records import Measurement, StudyInfo, StudyRecord, TrialRecord, TrialState
from search_space import SPACES

NEGLIGIBLE_CHANCE = 0.05  # a candidate with a smaller chance is no near miss
NEAR_RANKS = 2  # non-dominated layers behind the front that may come to the front on another device
MIN_ID_DIGITS = 8  # fewer digits are a trial's number, not an arch_id's beginning

NO_COMPLETE_TRIAL = "the study has no trial that was measured and trained to its last rung"


class SelectionError(ValueError):
    """No trial can be selected, or the requested one does not exist; the message is one line for people."""


def complete(study: StudyRecord) -> tuple[TrialRecord, ...]:
    """Return the trials and baselines with both objectives: trained to the last rung, measured, finite numbers."""
    rungs = len(study.info.rung_steps)
    return tuple(t for t in study.trials if t.state is TrialState.COMPLETE and len(t.rungs) >= rungs and _has_both(t))


def complete_candidates(study: StudyRecord) -> tuple[TrialRecord, ...]:
    """Return the complete trials that are no baselines; SelectionError where there is none."""
    candidates = tuple(t for t in complete(study) if not t.baseline)
    if not candidates:
        raise nothing_complete(study)
    return candidates


def check_trained(info: StudyInfo) -> None:
    """Raise SelectionError where a study is a replay's: it has no teachers and no images to train with."""
    if info.replayed:
        raise SelectionError("a replay's study has nothing to train: its results are from a table")


def check_measured(info: StudyInfo) -> None:
    """Raise SelectionError where a study is a replay's of networks that cannot be built here."""
    if info.replayed and info.config.get("space") not in SPACES:
        raise SelectionError("a replay's study has nothing to measure: its results are from a table")


def is_finished(info: StudyInfo, evaluated: int, running: int) -> bool:
    """Tell whether a study with these numbers of trials has spent its budget and runs no trial."""
    return not running and not has_budget_left(info, evaluated)


def has_budget_left(info: StudyInfo, evaluated: int) -> bool:
    """Tell whether fewer architectures were evaluated than the budget allows."""
    budget = info.config.get("budget")
    return isinstance(budget, int) and evaluated < budget


def is_open(info: StudyInfo) -> bool:
    """Tell whether a session runs, or was killed and no later one has ended: neither has recorded its length."""
    return any(session.get("wall_s") == 0 and not session.get("killed") for session in info.sessions)


def is_exhausted(info: StudyInfo) -> bool:
    """Tell whether the last session ended because no new architecture was left to evaluate."""
    return _ended_with(info, (SPACE_EXHAUSTED, NOTHING_NEW))


def _ended_with(info: StudyInfo, reasons: tuple[str, ...]) -> bool:
    ending = info.sessions[-1].get("ending") if info.sessions else None
    return not is_open(info) and isinstance(ending, str) and ending.startswith(reasons)


def unfinished(study: StudyRecord) -> str:
    """Say how many architectures an unfinished study has evaluated; "" of a finished one.

    A search that has converged, or found no new architecture, is finished although some of its budget is left.
    """
    sampled = [t for t in study.trials if not t.baseline]
    evaluated, running = sum(t.counts for t in sampled), sum(t.state is TrialState.RUNNING for t in sampled)
    ended = not running and _ended_with(study.info, (SPACE_EXHAUSTED, NOTHING_NEW, CONVERGED))
    if ended or is_finished(study.info, evaluated, running):
        return ""
    if not has_budget_left(study.info, evaluated):
        return f"unfinished: {plural(evaluated, 'architecture')} evaluated"
    return f"unfinished: {evaluated} of {plural(study.info.config['budget'], 'architecture')} evaluated"


def nothing_complete(study: StudyRecord) -> SelectionError:
    """Return the error of a study that has no complete trial; it says whether the study is unfinished."""
    return SelectionError("; ".join(filter(None, (NO_COMPLETE_TRIAL, unfinished(study)))))


def _has_both(trial: TrialRecord) -> bool:
    m = trial.measurement
    return m is not None and bool(trial.rungs) and math.isfinite(trial.final_score) and 0 < m.ratio < math.inf


def ratio(trial: TrialRecord) -> float:
    """Return the throughput ratio of a complete trial."""
    return measurement(trial).ratio


def measurement(trial: TrialRecord) -> Measurement:
    """Return the measurement of a complete trial."""
    assert trial.measurement is not None
    return trial.measurement


_THREADS = re.compile(r", (\d+) thread(?:s|\(s\))?$")  # at the end of a device and of a runtime


def setting_words(m: Measurement) -> str:
    """Return a measurement's device, runtime, threads and batch: "AMD EPYC; fp32, eager; 1 measuring thread; batch 16".

    Records name the threads twice, with the CPU and with the runtime.
    """
    words = (without_threads(m.device), without_threads(m.arm), measuring_threads(m), f"batch {m.batch}")
    return "; ".join(filter(None, words))


def measuring_threads(m: Measurement) -> str:
    """Return the threads of a timed network, as "1 measuring thread"; "" where the record has none."""
    threads = _THREADS.search(m.arm)
    return "" if threads is None else f"{plural(int(threads[1]), 'measuring thread')}"


def without_threads(text: str) -> str:
    """Return a recorded device or runtime without the threads at its end."""
    return _THREADS.sub("", text)


@dataclass(frozen=True)
class FrontCandidate:
    """A candidate at the study's last rung, with its chance to be on the front."""

    trial: TrialRecord
    on_front: bool
    chance: float


def front_candidates(study: StudyRecord) -> tuple[FrontCandidate, ...]:
    """Return the complete candidates, the likeliest to be on the front first; SelectionError where there is none."""
    trials = complete_candidates(study)
    front = front_numbers(trials)
    estimates = [CandidateEstimate.of([t.final_score], measurement(t)) for t in trials]
    chances = front_chances(estimates, assumed_scatter(study.info))
    candidates = [FrontCandidate(t, t.number in front, chance) for t, chance in zip(trials, chances, strict=True)]
    return tuple(sorted(candidates, key=lambda c: (-c.chance, c.trial.number)))


def front_numbers(trials: Sequence[TrialRecord]) -> set[int]:
    """Return the numbers of those complete trials that are on the front of score and speed."""
    return {trials[i].number for i in pareto.front([(t.final_score, ratio(t)) for t in trials])} if trials else set()


def candidates_to_retrain(candidates: Sequence[FrontCandidate], near: int) -> tuple[FrontCandidate, ...]:
    """Return the whole front, and at most `near` others whose chance is not negligible, the likeliest first."""
    misses = [c for c in candidates if not c.on_front and c.chance >= NEGLIGIBLE_CHANCE]
    return tuple(c for c in candidates if c.on_front or c in misses[:near])


def promising_stopped(study: StudyRecord, count: int) -> tuple[TrialRecord, ...]:
    """Return the early-stopped candidates that came closest to the front, `count` of each rung at which some ended.

    The closest is the one whose score falls least short of the best complete candidate that is at least as fast; both
    scores are those of the rung at which it ended. One that is faster than all of those falls short of nothing. The
    throughput of a candidate that was not measured is the predicted one.
    """
    finished = [(ratio(t), t) for t in complete(study) if not t.baseline]
    by_rung: dict[int, list[tuple[float, TrialRecord]]] = {}
    for trial in study.trials:
        speed = trial.measurement.ratio if trial.measurement else trial.predicted_ratio
        if trial.state is not TrialState.STOPPED or trial.baseline or not trial.rungs or speed is None:
            continue
        rung = len(trial.rungs) - 1
        rivals = [t.rungs[rung].score for other, t in finished if other >= speed]
        own = trial.rungs[rung].score
        shortfall = max(rivals, default=own) - own
        by_rung.setdefault(rung, []).append((shortfall, trial))
    chosen = (sorted(found, key=lambda item: (item[0], item[1].number))[:count] for _, found in sorted(by_rung.items()))
    return tuple(trial for found in chosen for _, trial in found)


def trials_to_remeasure(study: StudyRecord, which: str) -> tuple[TrialRecord, ...]:
    """Return the trials that `which` names (of WHICH, or comma-separated numbers) and all baselines, in study order.

    Raises:
        SelectionError: the study has no complete candidate, or `which` names none.
    """
    candidates = complete_candidates(study)
    trials = complete(study)
    if which == "all":
        return trials
    numbers = _in_layers(candidates, NEAR_RANKS if which == "near" else 0) if which in WHICH else _named(trials, which)
    return tuple(t for t in trials if t.baseline or t.number in numbers)


def _in_layers(candidates: Sequence[TrialRecord], last: int) -> set[int]:
    layers = pareto.ranks([(t.final_score, ratio(t)) for t in candidates])
    return {t.number for t, rank in zip(candidates, layers, strict=True) if rank <= last}


def _named(trials: Sequence[TrialRecord], which: str) -> set[int]:
    try:
        numbers = {int(part) for part in which.split(",")}
    except ValueError:
        raise SelectionError(
            f"--trials: {which!r}: must be {', '.join(WHICH)} or comma-separated trial numbers"
        ) from None
    if missing := sorted(numbers - {t.number for t in trials}):
        raise SelectionError(f"--trials: trial {missing[0]} was not measured and trained to the last rung")
    return numbers


def find_by_name(study: StudyRecord, which: str, flag: str = "--trial") -> TrialRecord:
    """Return the trial that `which` names: a trial's number or name, or the beginning of one architecture's id.

    Digits alone are a number, unless there are MIN_ID_DIGITS or more of them.

    Args:
        study: the study.
        which: the trial's number, its name ("trial 7" or that of a baseline), or the beginning of an arch_id.
        flag: the option that an error names.

    Raises:
        SelectionError: there is no such trial, or there are several.
    """
    trials = [t for t in study.trials if t.state is not TrialState.DUPLICATE]
    digits = which.isascii() and which.isdigit()
    if named := [t for t in trials if t.name == which or (digits and t.number == int(which))]:
        return named[0]
    is_prefix = which and (not digits or len(which) >= MIN_ID_DIGITS)
    matching = [t for t in trials if is_prefix and t.arch_id.startswith(which)]
    if not matching:
        raise SelectionError(
            f"{flag}: the study has no trial {which!r}; give a number, a baseline's name, the beginning of an arch_id,"
            f" or {BEST}"
        )
    if len(ids := sorted({t.arch_id for t in matching})) > 1:
        some = f"{', '.join(ids[:4])}{', ...' * (len(ids) > 4)}"
        raise SelectionError(f"{flag}: {which!r} begins several arch_ids: {some}; give more of one")
    return max(matching, key=lambda t: len(t.rungs))
