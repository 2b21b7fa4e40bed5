"""Choose trials of a study: complete ones, those to retrain or to remeasure, the one a user names. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.analysis import BEST, WHICH
from nas.analysis.noise import CandidateEstimate, assumed_scatter, front_chances
from nas.study import pareto
from nas.study.ending import unfinished
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
