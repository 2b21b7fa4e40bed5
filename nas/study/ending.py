"""Whether a study has ended, and how: by its budget, its sessions and the ending that the last one recorded."""

from __future__ import annotations

from nas.numbers import plural
from nas.study.loop import CONVERGED
from nas.study.proposer import NOTHING_NEW, SPACE_EXHAUSTED
from nas.study.records import StudyInfo, StudyRecord, TrialState


def is_finished(info: StudyInfo, evaluated: int, running: int) -> bool:
    """Tell whether a study with these numbers of trials has spent its budget and runs no trial."""
    return not running and not _has_budget_left(info, evaluated)


def _has_budget_left(info: StudyInfo, evaluated: int) -> bool:
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
    if not _has_budget_left(study.info, evaluated):
        return f"unfinished: {plural(evaluated, 'architecture')} evaluated"
    return f"unfinished: {evaluated} of {plural(study.info.config['budget'], 'architecture')} evaluated"
