"""What the noise of the throughput measurements leaves open: ties, and timings that cannot be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from nas.analysis.trial_choice import measurement
from nas.study.records import StudyInfo, TrialRecord
from nas.study.timing_doubts import noise_floor, ratio_interval_words, repeated_interval, timing_doubt
from reports.formatting import brief
from reports.scored_trials import ScoredTrial

MAX_DOUBTFUL = 0.1  # share of the measurements
MAX_NAMED = 3  # doubtful measurements; more are counted


def doubts(trials: Iterable[TrialRecord]) -> str:
    """Say which timings cannot be trusted, and why: "trial 3 contended"; "" where all can.

    Of all alike it says "all 8 contended", of many "5 of 8 contended, 1 of 8 throttled".
    """
    verdicts = {brief(t.name, 40): timing_doubt(t.measurement) for t in trials}
    counts = Counter(verdict for verdict in verdicts.values() if verdict)
    if counts.total() <= MAX_NAMED:
        return ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items() if verdict)
    if len(counts) == 1 and counts.total() == len(verdicts):
        return f"all {len(verdicts)} {next(iter(counts))}"
    return ", ".join(f"{count} of {len(verdicts)} {verdict}" for verdict, count in counts.items())


def ratio_words(trial: TrialRecord) -> tuple[str, str]:
    """Return a trial's relative throughput and its interval; with two decimals where the timing cannot be trusted."""
    m = measurement(trial)
    digits = 2 if timing_doubt(m) else 3
    return f"{m.ratio:.{digits}f}", ratio_interval_words(m, digits)


def intervals_are_known(complete: Sequence[ScoredTrial], front: Sequence[ScoredTrial]) -> bool:
    """Tell whether the intervals can show ties: all timings of the front can be trusted, and most of the others."""
    doubtful = sum(timing_doubt(s.trial.measurement) is not None for s in complete)
    return not any(timing_doubt(s.trial.measurement) for s in front) and doubtful <= MAX_DOUBTFUL * len(complete)


def floor_words(self_comparison: ScoredTrial) -> str:
    """Return the noise floor: "10.7 %"."""
    return f"{100 * noise_floor(self_comparison.trial.measurement):.1f} %"


def count_ties(front: Sequence[ScoredTrial], floor: float) -> int:
    """Count the neighbors on the front, fastest first, that differ by no more than their intervals or `floor`."""
    return sum(_gap(a, b) <= 0 or a.ratio / b.ratio - 1 <= floor for a, b in pairwise(front))


def _gap(faster: ScoredTrial, other: ScoredTrial) -> float:
    """Return how far the intervals of two ratios are apart; 0 or less where they overlap."""
    return repeated_interval(measurement(faster.trial))[0] - repeated_interval(measurement(other.trial))[1]


def near_front(
    complete: Sequence[ScoredTrial], front: Sequence[ScoredTrial], info: StudyInfo, floor: float
) -> tuple[ScoredTrial, ...]:
    """Return the dominated trials that the noise of the throughput could put on the front.

    A trial is left out where some trial of the front dominates it by more than both the intervals and `floor`. A study
    without the objective throughput has no such trials.
    """
    throughput = next((i for i, o in enumerate(info.objectives) if o.name == "throughput"), None)
    if throughput is None:
        return ()
    others = {s.trial.number: s.values[:throughput] + s.values[throughput + 1 :] for s in (*complete, *front)}
    on_front = {s.trial.number for s in front}

    def surely_dominates(f: ScoredTrial, s: ScoredTrial) -> bool:
        a, b = others[f.trial.number], others[s.trial.number]
        apart, gap = _gap(f, s), f.ratio / s.ratio - 1 - floor
        faster = (apart > 0 and gap > 0) or (a != b and apart >= 0 and gap >= 0)
        return faster and all(x >= y for x, y in zip(a, b, strict=True))

    candidates = (s for s in complete if s.trial.number not in on_front)
    return tuple(s for s in candidates if not any(surely_dominates(f, s) for f in front))
