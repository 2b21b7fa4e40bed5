"""Which net of a study is meant. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nas.records import Study, TrialRecord, TrialState
from nas.reranking.selection import complete, is_baseline, net_name, quality

BEST = "best"
ALL_HEADS = "all"
LONGER_THAN_NUMBERS = 8  # digits


class ExportError(ValueError):
    """What cannot be exported; one line that says what to do."""


def chosen(study: Study, which: str) -> TrialRecord:
    """The trial that `which` names: "best", a trial's number, or the beginning of one architecture's id.

    Of digits alone it is a number, unless there are so many that nobody would count so far.
    """
    if which == BEST:
        return best(study)
    trials = [t for t in study.trials if t.state is not TrialState.DUPLICATE]
    digits = which.isascii() and which.isdigit()
    if digits and (found := [t for t in trials if t.number == int(which)]):
        return found[0]
    able = which and (not digits or len(which) >= LONGER_THAN_NUMBERS)
    found = [t for t in trials if able and t.arch_id.startswith(which)]
    if not found:
        raise ExportError(
            f"--trial: the study has no trial {which!r}; give a number, an arch_id's beginning, or {BEST}"
        )
    if len(ids := sorted({t.arch_id for t in found})) > 1:
        raise ExportError(f"--trial: {which!r} is the beginning of {', '.join(ids[:4])}{', ...' * (len(ids) > 4)}")
    return max(found, key=lambda t: len(t.rungs))


def best(study: Study) -> TrialRecord:
    """The report's headline: the fastest found net at least as good as the best baseline; none is, or there is no
    baseline, or throughput was no objective: the net of the highest quality. ExportError where no net is complete.
    """
    able = complete(study)
    found = [t for t in able if not is_baseline(t)]
    if not found:
        raise ExportError("the study has no net that was measured and trained to its last rung; let it go on")
    bar = max((quality(t) for t in able if is_baseline(t)), default=None)
    fast = any(objective.name == "throughput" for objective in study.info.objectives)
    as_good = [t for t in found if fast and bar is not None and quality(t) >= bar]
    if as_good:
        return max(as_good, key=lambda t: (t.measurement.ratio if t.measurement else 0.0, quality(t)))
    return max(found, key=lambda t: (quality(t), t.measurement.ratio if t.measurement else 0.0))


def standing(trial: TrialRecord, steps: Sequence[int]) -> str:
    """Why a trial has no weights, in words."""
    name = f"trial {trial.number} ({net_name(trial)})"
    if trial.state is TrialState.STOPPED and trial.rungs:
        return f"{name} was stopped after {trial.rungs[-1].steps} of {steps[-1]} steps"
    if trial.state is TrialState.COMPLETE:
        return f"{name} is complete, but its file is gone"
    return f"{name} is {trial.state.value}" + (f" ({trial.reason})" if trial.reason else "")
