"""Summarize a study's retrainings: means over seeds, chances to be on the front, rank correlations. Pure.

Retrained candidates are compared only with each other: all were trained for the same number of steps and measured in
the remeasurement named RETRAINING_TIMINGS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from typing import Any

from nas.analysis.agreement import RankCorrelation, rank_correlation
from nas.analysis.comparable import not_comparable, other_versions, setting_words
from nas.analysis.noise import (
    CandidateEstimate,
    SeedScatter,
    assumed_scatter,
    front_chances,
    measured_scatter,
    scatter_by_kind,
)
from nas.analysis.stopping_regret import ScoredCandidate, StoppingRegret, stopping_regrets
from nas.analysis.trial_choice import complete, front_numbers
from nas.numbers import plural, plural_range, trials_words
from nas.study import pareto
from nas.study.records import Measurement, Remeasurement, Retraining, StudyRecord, TrialRecord, TrialState

RETRAINING_TIMINGS = "retraining"  # name of the remeasurement that `backbone-nas retrain` takes
_THREADS = re.compile(r", \d+ threads?$")  # of the process that recorded a CPU; a training has threads of its own
CONSTANT = "constant"  # schedule of the learning rate, of `nas.study.config.DistillConfig`
ASSUMPTIONS = (
    "chance: probability of being on the front of the retrained candidates. It assumes that scores vary normally "
    "between seeds, that speeds are log-normal, and that candidates are independent. It holds for the held-out images "
    "only."
)


@dataclass(frozen=True)
class RetrainedCandidate:
    """A trial with its retrainings and its new measurement.

    `chance` is that of being on the front of the retrained candidates; None for baselines and where score or
    measurement is missing.
    """

    trial: TrialRecord
    trainings: tuple[Retraining, ...]  # one per seed, failed ones included
    measurement: Measurement | None
    reason: str | None  # for a missing score or measurement
    was_on_front: bool  # of the study
    on_front: bool = False  # by mean scores and measured ratios
    chance: float | None = None

    @property
    def scores(self) -> dict[int, float]:
        """Return the score by seed."""
        return {t.seed: t.score for t in self.trainings if t.score is not None}

    @property
    def mean(self) -> float | None:
        """Return the mean score over the seeds."""
        values = self.scores.values()
        return sum(values) / len(values) if values else None

    def score_at(self, steps: int, seed: int) -> float | None:
        """Return the score of one seed after `steps`, at the end or at an earlier rung; None without."""
        return next((r.score for t in self.trainings if t.seed == seed for r in t.rungs if r.steps == steps), None)

    def mean_at(self, steps: int) -> float | None:
        """Return the mean score over the seeds after `steps`; None without."""
        values = [r.score for t in self.trainings for r in t.rungs if r.steps == steps]
        return sum(values) / len(values) if values else None

    @property
    def steps(self) -> int:
        """Return the steps of each training."""
        return self.trainings[0].steps

    @property
    def stopped_after(self) -> int | None:
        """Return the steps after which the search stopped the candidate; None where it trained it to the last rung."""
        return self.trial.rungs[-1].steps if self.trial.state is TrialState.STOPPED else None

    @property
    def change(self) -> str:
        """Return the change of the candidate's place on the front, in a few words."""
        if self.trial.baseline:
            return "baseline"
        if self.chance is None:
            return self.reason or "not trained"
        if self.was_on_front:
            return "still on it" if self.on_front else "left it"
        place = "joined it" if self.on_front else "not on it"
        return place if self.stopped_after is None else f"stopped after {self.stopped_after}: {place}"

    @property
    def fronts(self) -> str:
        """Name the fronts that the candidate is on, that of the search and that of the retrained, for tables."""
        if self.trial.baseline or self.chance is None:
            return self.change
        if self.stopped_after is not None:
            place = "on the retrained front" if self.on_front else "not on the retrained front"
            return f"stopped after {self.stopped_after}, {place}"
        if self.was_on_front:
            return "on both" if self.on_front else "left the search's front"
        return "joined the retrained front" if self.on_front else "on neither"


@dataclass(frozen=True)
class RetrainingSummary:
    """All candidates that were retrained for `steps` steps, the fastest first."""

    steps: int
    candidates: tuple[RetrainedCandidate, ...]
    scatter: SeedScatter  # between seeds, after `steps`
    scatter_at_last_rung: SeedScatter | None  # after the study's last rung; None where no candidate has two seeds
    untrained: tuple[int, ...] = ()  # numbers of the trials on the study's front without such a training
    # That falls with the length of a training: at the study's last rung, longer ones are no trainings of the study.
    falling_rate: bool = False
    other_versions: tuple[str, ...] = ()  # with which the models were timed, see `nas.analysis.comparable`

    @property
    def mean_words(self) -> str:
        """Say of how many seeds each score is the mean: "mean of 2 seeds", "mean of 1 to 2 seeds", "one seed"."""
        counts = [len(c.scores) for c in self.candidates if c.scores]
        return f"mean of {plural_range(counts, 'seed')}" if max(counts, default=0) > 1 else "one seed"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of all trainings."""
        return tuple(sorted({t.seed for c in self.candidates for t in c.trainings}))

    @property
    def candidate_seeds(self) -> tuple[int, ...]:
        """Return the seeds of the candidates' trainings; baselines may have more."""
        return tuple(sorted({t.seed for c in self.candidates if not c.trial.baseline for t in c.trainings}))

    @property
    def seed_words(self) -> str:
        """Name the seeds: "seeds 1, 2", or "seeds 1, 2, of baselines 1, 2, 3" where these have others."""
        own = self.candidate_seeds or self.seeds
        words = f"seeds {', '.join(map(str, own))}"
        return words if own == self.seeds else f"{words}, of baselines {', '.join(map(str, self.seeds))}"

    @property
    def complete(self) -> tuple[RetrainedCandidate, ...]:
        """Return the candidates with a score and a measurement."""
        return tuple(c for c in self.candidates if c.mean is not None and c.measurement is not None)


def summarize_retraining(
    study: StudyRecord,
    retrainings: Sequence[Retraining],
    remeasurements: Iterable[Remeasurement],
    steps: int | None = None,
) -> RetrainingSummary | None:
    """Summarize the retrainings with one number of steps; None where there are none.

    Args:
        study: with the retrained trials, and the timings from before the retraining: `was_on_front` is by them.
        retrainings: with any numbers of steps.
        remeasurements: among them the one named RETRAINING_TIMINGS.
        steps: of each training. The default is the number that most candidates have a score of, the largest of equals,
            so that longer retrainings that have just begun, or have failed, do not hide the finished ones.
    """
    by_length: dict[int, dict[int, list[Retraining]]] = {}
    for retraining in retrainings:
        by_length.setdefault(retraining.steps, {}).setdefault(retraining.number, []).append(retraining)
    scored = {
        length: {r.number for r in retrainings if r.steps == length and r.score is not None} for length in by_length
    }
    steps = steps or max(by_length, key=lambda length: (len(scored[length]), length), default=0)
    by_number = by_length.get(steps, {})
    trials = complete(study)
    front = front_numbers([t for t in trials if not t.baseline])
    again = next((r for r in remeasurements if r.name == RETRAINING_TIMINGS), None)
    stopped = [t for t in study.trials if t.state is TrialState.STOPPED and t.rungs]
    rows = [
        _candidate(t, by_number[t.number], again, t.number in front)
        for t in (*trials, *stopped)
        if t.number in by_number
    ]
    if not rows:
        return None
    assumed = assumed_scatter(study.info)
    scatter = scatter_by_kind(((list(c.scores.values()), c.trial.baseline) for c in rows), assumed) or assumed
    last = study.info.rung_steps[-1]
    falling_rate = steps != last and _schedule(study) != CONSTANT
    at_last = scatter_by_kind(
        ([r.score for t in c.trainings for r in t.rungs if r.steps == last], c.trial.baseline)
        for c in ([] if falling_rate else rows)
    )
    rows = sorted(_with_chances(rows, scatter), key=_fastest_first)
    untrained = tuple(sorted(front - by_number.keys()))
    versions = tuple(other_versions(study.info, again)) if again else ()
    return RetrainingSummary(steps, tuple(rows), scatter, at_last, untrained, falling_rate, versions)


def nothing_retrained(study: StudyRecord, steps: int) -> RetrainingSummary:
    """Return the summary of no retrainings: that of a command that was interrupted before the first one ended."""
    front = front_numbers([t for t in complete(study) if not t.baseline])
    return RetrainingSummary(steps, (), assumed_scatter(study.info), None, tuple(sorted(front)))


def _schedule(study: StudyRecord) -> str:
    """Return the schedule of the study's learning rate; the default where the settings lack it."""
    distill = study.info.config.get("distill")
    return str(distill.get("schedule", CONSTANT)) if isinstance(distill, Mapping) else CONSTANT


def _fastest_first(candidate: RetrainedCandidate) -> tuple[float, int]:
    return -(candidate.measurement.ratio if candidate.measurement else 0.0), candidate.trial.number


def _candidate(
    trial: TrialRecord, trainings: Sequence[Retraining], again: Remeasurement | None, was_on_front: bool
) -> RetrainedCandidate:
    m = again.measurements.get(trial.number) if again else None
    reason = next((f"seed {t.seed}: {t.reason}" for t in trainings if t.reason), None)
    if again is not None and m is not None and (why := not_comparable(again, m)):
        m, reason = None, why
    elif m is None:
        reason = again.unmeasured.get(trial.number, "not measured again") if again else "not measured again"
    return RetrainedCandidate(trial, tuple(trainings), m, reason, was_on_front)


def _with_chances(rows: Sequence[RetrainedCandidate], scatter: SeedScatter) -> list[RetrainedCandidate]:
    """Return the candidates with front and chances, computed among those with score and measurement."""
    ranked = [c for c in rows if c.mean is not None and c.measurement is not None and not c.trial.baseline]
    estimates = [CandidateEstimate.of([*c.scores.values()], c.measurement) for c in ranked if c.measurement]
    indices = pareto.front([(c.mean or 0.0, c.measurement.ratio) for c in ranked if c.measurement])
    front = {ranked[i].trial.number for i in indices}
    chances = dict(zip((c.trial.number for c in ranked), front_chances(estimates, scatter), strict=True))
    return [replace(c, on_front=c.trial.number in front, chance=chances.get(c.trial.number)) for c in rows]


def metric_scatter(summary: RetrainingSummary) -> dict[str, SeedScatter]:
    """Return each downstream metric's scatter between seeds after all steps, where a candidate has it of two seeds."""
    by_candidate = [
        [t.rungs[-1].metrics for t in c.trainings if t.reason is None and t.rungs] for c in summary.candidates
    ]
    names = dict.fromkeys(name for trainings in by_candidate for metrics in trainings for name in metrics)
    scatter = {name: measured_scatter([[m[name] for m in ms if name in m] for ms in by_candidate]) for name in names}
    return {name: between for name, between in scatter.items() if between is not None}


Ranking = Callable[[RetrainedCandidate], float | None]


def rank_correlations(summary: RetrainingSummary, last_rung: int) -> dict[str, RankCorrelation]:
    """Return correlations between the orders by score of the study, of the means over seeds, and of each seed.

    Keys name the two orders. Scores of the retrainings at the study's last rung separate the effect of longer training
    from the effect of the seed, unless the learning rate falls with the length of a training.
    """
    search, longer = f"search at {last_rung} steps", f"at {summary.steps} steps"
    mean = summary.mean_words
    compared: dict[str, tuple[Ranking, Ranking]] = {f"{search} and {mean} {longer}": (_of_study, _of_mean)}
    if summary.steps != last_rung and not summary.falling_rate:
        compared[f"{search} and mean of the seeds at {last_rung} steps"] = _of_study, _of_mean_at(last_rung)
        compared[f"mean of the seeds at {last_rung} steps and {longer}"] = _of_mean_at(last_rung), _of_mean
    seeds = summary.candidate_seeds
    if len(seeds) > 1:  # of one, the mean is its score
        compared |= {f"{search} and seed {seed} {longer}": (_of_study, _of_seed(seed)) for seed in seeds}
    for a, b in combinations(seeds, 2):
        compared[f"seed {a} and seed {b}, both {longer}"] = _of_seed(a), _of_seed(b)
    return {label: _correlation(summary.candidates, *rankings) for label, rankings in compared.items()}


def _correlation(candidates: Sequence[RetrainedCandidate], first: Ranking, second: Ranking) -> RankCorrelation:
    pairs = [(a, b) for c in candidates if (a := first(c)) is not None and (b := second(c)) is not None]
    return rank_correlation(pairs)


def _of_study(candidate: RetrainedCandidate) -> float | None:
    return candidate.trial.final_score if candidate.stopped_after is None else None


def _of_mean(candidate: RetrainedCandidate) -> float | None:
    return candidate.mean


def _of_seed(seed: int) -> Ranking:
    return lambda candidate: candidate.scores.get(seed)


def _of_mean_at(steps: int) -> Ranking:
    """Return a ranking by the mean over the seeds at an earlier rung."""
    return lambda candidate: candidate.mean_at(steps)


def retraining_notes(study: StudyRecord, summary: RetrainingSummary) -> list[str]:
    """Return notes on the front's changes, their confidence, and the assumptions, a line each."""
    searched = [c for c in summary.candidates if not c.trial.baseline]
    expected = sum(c.chance or 0.0 for c in searched)
    notes = [
        _front_note(searched, summary.untrained),
        f"expected number of candidates on the front: {expected:.1f}",
        _scatter_note(summary),
    ]
    if summary.scatter_at_last_rung is not None:
        last = study.info.rung_steps[-1]
        steps = f"{last} steps (the study's last rung)"
        notes.append(f"standard deviation of the score between seeds, {steps}: {summary.scatter_at_last_rung.sd_words}")
    if summary.falling_rate:
        notes.append(
            f"the learning rate falls toward the end ({_schedule(study)}), so scores of these trainings after "
            f"{study.info.rung_steps[-1]} steps are not those of the search's trainings, and are left out"
        )
    settings = dict.fromkeys(setting_words(c.measurement) for c in summary.complete if c.measurement)
    regrets = [regret.words for regret in _stopping_regrets(study, summary)]
    notes += [*regrets, *(f"measured on {setting}" for setting in settings), *_mixture_notes(summary)]
    if summary.other_versions:
        notes.append(
            f"timed with other versions than the search ({'; '.join(summary.other_versions)}): the recommendation and "
            "select keep the search's timings"
        )
    return [*notes, ASSUMPTIONS]


def _mixture_notes(summary: RetrainingSummary) -> list[str]:
    """Return a note where the trainings are of several devices, versions or codes: their scores may differ by that."""
    trainings = [t for c in summary.candidates for t in c.trainings if t.score is not None]
    known = {name for t in trainings for name in t.versions}
    differing = [
        f"{name} {', '.join(sorted(values))}"
        for name in sorted(known)
        if len(values := {t.versions[name] for t in trainings if name in t.versions}) > 1
    ]
    devices = sorted({_THREADS.sub("", t.device) for t in trainings})
    if len(devices) > 1:
        differing.append(f"devices {'; '.join(devices)}")
    return [f"the trainings differ in more than the seed: {'; '.join(differing)}"] if differing else []


def _stopping_regrets(study: StudyRecord, summary: RetrainingSummary) -> tuple[StoppingRegret, ...]:
    """Return what early stopping missed, after the last rung's steps and after all steps of the retraining."""
    lengths = dict.fromkeys((summary.steps,) if summary.falling_rate else (study.info.rung_steps[-1], summary.steps))
    regrets = (stopping_regrets(_scored(summary, steps), steps, study.info.objectives) for steps in lengths)
    return tuple(chain.from_iterable(regrets))


def _scored(summary: RetrainingSummary, steps: int) -> list[ScoredCandidate]:
    """Return the candidates with their scores after `steps`, of the seeds that all of them have; no baselines."""
    found = [c for c in summary.complete if not c.trial.baseline]
    seeds = [seed for seed in summary.seeds if all(c.score_at(steps, seed) is not None for c in found)]
    return [
        ScoredCandidate(
            c.trial.number,
            c.measurement.ratio,
            tuple(c.score_at(steps, seed) or 0.0 for seed in seeds),
            c.stopped_after,
        )
        for c in found
        if c.measurement and seeds
    ]


def _front_note(searched: Sequence[RetrainedCandidate], untrained: Sequence[int]) -> str:
    left = [c.trial.number for c in searched if c.was_on_front and c.chance is not None and not c.on_front]
    joined = [c.trial.number for c in searched if not c.was_on_front and c.on_front]
    unknown = [c.trial.number for c in searched if c.chance is None]
    before = sum(c.was_on_front for c in searched) + len(untrained)
    after = sum(c.on_front for c in searched)
    note = f"front of the search, by the timings from before the retraining: {plural(before, 'candidate')}; "
    note += f"front of the retrained candidates: {plural(after, 'candidate')}; "
    note += f"{_count(left, 'left it')}, {_count(joined, 'joined it')}"
    note += f", {_count(unknown, 'without score or measurement')}" if unknown else ""
    return f"{note}, {_count(untrained, 'not retrained')}" if untrained else note


def _count(numbers: Sequence[int], outcome: str) -> str:
    if not numbers:
        return f"none {outcome}"
    return f"{len(numbers)} {outcome} ({trials_words(numbers)})"


def _scatter_note(summary: RetrainingSummary) -> str:
    return f"standard deviation of the score between seeds, {summary.steps} steps: {summary.scatter.words}"


def retraining_json(study: StudyRecord, summary: RetrainingSummary) -> dict[str, Any]:
    """Return the summary as plain data, for ``--json`` and for the report."""
    before = summary.scatter_at_last_rung
    correlations = rank_correlations(summary, study.info.rung_steps[-1])
    return {
        "study": study.info.name,
        "steps": summary.steps,
        "seeds": list(summary.seeds),
        "candidates": [_candidate_json(c, summary.scatter) for c in summary.candidates],
        "scatter": asdict(summary.scatter),
        "scatter_at_last_rung": None if before is None else asdict(before),
        "metric_scatter": {name: asdict(between) for name, between in metric_scatter(summary).items()},
        "correlations": [{"between": label, **asdict(c)} for label, c in correlations.items()],
        "early_stopping": [asdict(regret) for regret in _stopping_regrets(study, summary)],
        "untrained": list(summary.untrained),
        "notes": retraining_notes(study, summary),
    }


def _candidate_json(c: RetrainedCandidate, scatter: SeedScatter) -> Mapping[str, Any]:
    return {
        "trial": c.trial.number,
        "arch_id": c.trial.arch_id,
        "name": c.trial.name,
        "baseline": c.trial.baseline,
        "stopped_after": c.stopped_after,
        "score_of_study": _of_study(c),
        "scores": {str(seed): value for seed, value in c.scores.items()},
        "score": c.mean,
        "half_width": scatter.of_kind(c.trial.baseline).half_width([*c.scores.values()]),
        "measurement": c.measurement and c.measurement.to_dict(),
        "chance": c.chance,
        "on_front": {"before": c.was_on_front, "now": c.on_front},
        "change": c.change,
        "fronts": c.fronts,
        "failures": {str(t.seed): t.reason for t in c.trainings if t.reason},
        "reason": c.reason,
    }
