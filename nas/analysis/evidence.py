"""For each model of a study, the score and the throughput that decide: the newest trustworthy timing, else the newest.

The one rule for all commands, the Python API, model cards and reports, by pure functions:

- **Throughput**: a trial counts with its newest timing in the search's own setting, of a remeasurement or a retraining,
  by the date of the measurement; with one that cannot be trusted (`nas.study.timing_doubts`) only where it has no
  other. Timings of other devices, runtimes, batches, image sizes or library versions answer other questions:
  `nas.analysis.remeasuring` compares them, and `gather_evidence` can take those of one remeasurement alone.
- **Score**: retrained scores and those of the search are never compared with each other. Retrained ones decide where
  every model that the question needs has one; else those of the search do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.analysis.comparable import not_comparable, other_versions, same_setting
from nas.analysis.retraining import RETRAINING_TIMINGS, RetrainingSummary, summarize_retraining
from nas.analysis.trial_choice import SelectionError, complete, measurement
from nas.study.records import Measurement, Remeasurement, Retraining, StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import WRONG_OUTPUT, noise_floor, timing_doubt

RACED, RETRAINED, LAST_RUNG = "race", "retraining", "last rung"  # words for the trainings whose scores are compared


@dataclass(frozen=True)
class ModelEvidence:
    """A complete trial or baseline with one kind of score, and its deciding timing in `trial.measurement`."""

    trial: TrialRecord
    scores: tuple[float, ...]  # one per seed
    steps: int  # of each training
    remeasurement: str | None = None  # name of the remeasurement with the timing; None: of the search

    @property
    def score(self) -> float:
        """Return the mean score over the seeds."""
        return sum(self.scores) / len(self.scores)

    @property
    def seeds(self) -> int:
        """Return the number of trainings."""
        return len(self.scores)

    @property
    def measurement(self) -> Measurement:
        """Return the deciding timing, which may be doubtful (`nas.study.timing_doubts`)."""
        return measurement(self.trial)

    @property
    def number(self) -> int:
        """Return the number of its trial."""
        return self.trial.number

    @property
    def name(self) -> str:
        """Return the baseline's name, or "trial N"."""
        return self.trial.name

    @property
    def ratio(self) -> float:
        """Return the throughput relative to the reference."""
        return self.measurement.ratio


@dataclass(frozen=True)
class StudyEvidence:
    """All that is known of a study's models.

    Attributes:
        record: The study as the search wrote it.
        study: The same with each trial's deciding timing in place of the search's.
        before: The same with the deciding timings of the time before its retraining, by which `retrain` chose.
        retraining: Summary of the retrainings; None where there are none.
        remeasured: By trial number, the remeasurement whose timing took the place of the search's.
        searched: The models with their scores at the search's last rung.
        retrained: The retrained models with their mean scores, also those that the search had stopped early.
        only: The remeasurement whose timings alone count; None: those of the search's setting do.
    """

    record: StudyRecord
    study: StudyRecord
    before: StudyRecord
    retraining: RetrainingSummary | None
    remeasured: Mapping[int, str]
    searched: tuple[ModelEvidence, ...]
    retrained: tuple[ModelEvidence, ...]
    only: str | None = None

    @property
    def untimed(self) -> int:
        """Return the number of complete models that `only` did not time; 0 where it is None."""
        return len(complete(self.record)) - len(complete(self.study)) if self.only else 0

    @property
    def noise_floor(self) -> float:
        """Return the relative difference in throughput of two equal models: of the reference against itself."""
        reference, (trials, scale) = self.study.info.reference, (self.study.trials, self.study.scale)
        itself = [t for t in trials if t.baseline == reference] + [t for t in scale if t.scale == reference]
        return noise_floor(next((t.measurement for t in itself if t.measurement), None))

    def unretrained(self, needed: Iterable[ModelEvidence]) -> tuple[ModelEvidence, ...]:
        """Return those of the needed models that were not retrained; retrained scores decide where it is empty."""
        known = {model.number for model in self.retrained}
        return tuple(model for model in needed if model.number not in known)


def gather_evidence(
    study: StudyRecord,
    retrainings: Sequence[Retraining] = (),
    remeasurements: Sequence[Remeasurement] = (),
    only: str | None = None,
) -> StudyEvidence:
    """Return each trial's deciding timing and scores.

    Args:
        study: As the search wrote it.
        retrainings: Of any numbers of steps; `summarize_retraining` chooses one.
        remeasurements: Of any settings.
        only: Name of the remeasurement whose timings alone count; models that it did not time are left out.

    Raises:
        SelectionError: There is no remeasurement of that name.
    """
    if only is None:
        decided, sources = _with_deciding_timings(study, remeasurements)
    else:
        decided, sources = _with_timings_of(study, _named(remeasurements, only))
    by_number = {t.number: t for t in complete(decided)}
    timed = {t.number: t for t in decided.trials if t.state is TrialState.STOPPED and t.measurement} | by_number
    before = timed_before(study, remeasurements, RETRAINING_TIMINGS)
    summary = summarize_retraining(before, retrainings, remeasurements)
    last = study.info.rung_steps[-1] if study.info.rung_steps else 0
    return StudyEvidence(
        record=study,
        study=decided,
        before=before,
        retraining=summary,
        remeasured=sources,
        searched=tuple(
            ModelEvidence(t, (t.final_score,), last, sources.get(t.number)) for t in by_number.values()
        ),
        retrained=tuple(
            ModelEvidence(timed[n], tuple(c.scores.values()), c.steps, sources.get(n))
            for c in (summary.candidates if summary else ())
            if c.mean is not None and math.isfinite(c.mean) and (n := c.trial.number) in timed
        ),
        only=only,
    )  # fmt: skip


def _named(remeasurements: Sequence[Remeasurement], name: str) -> Remeasurement:
    found = next((again for again in remeasurements if again.name == name), None)
    if found is None:
        names = ", ".join(sorted(again.name for again in remeasurements))
        raise SelectionError(f"no remeasurement {name!r} in this study, which has {names or 'none'}")
    return found


def _with_timings_of(study: StudyRecord, again: Remeasurement) -> tuple[StudyRecord, dict[int, str]]:
    """Return a study with the timings of one remeasurement alone, and by trial its name."""
    comparable = {n: m for n, m in again.measurements.items() if not_comparable(again, m) is None}

    def timed(trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
        return tuple(replace(trial, measurement=comparable.get(trial.number)) for trial in trials)

    decided = replace(study, trials=timed(study.trials), scale=timed(study.scale))
    return decided, dict.fromkeys(comparable, again.name)


def timed_before(
    study: StudyRecord, remeasurements: Iterable[Remeasurement], name: str, from_now: bool = False
) -> StudyRecord:
    """Return a study with the deciding timings of the time before the named remeasurement, without its own.

    Its front is the one to retrain or to measure again. It stays the same while the remeasurement grows, when it is
    continued, and when others are measured later.

    Args:
        study: As the search wrote it.
        remeasurements: Of any settings.
        name: Of the remeasurement, which may not exist yet.
        from_now: Whether the remeasurement begins now, in place of the existing one.
    """
    recorded = list(remeasurements)
    began = next((again.created for again in recorded if again.name == name and not from_now), None)
    return _with_deciding_timings(study, [again for again in recorded if again.name != name], began)[0]


def _with_deciding_timings(
    study: StudyRecord, remeasurements: Sequence[Remeasurement], until: str | None = None
) -> tuple[StudyRecord, dict[int, str]]:
    """Return a study with each trial's deciding timing, and by trial the remeasurement that took it.

    Args:
        study: As the search wrote it.
        remeasurements: Of any settings.
        until: Time after which timings do not count; None: all count.
    """
    sources: dict[int, str] = {}
    timings = [t.measurement for t in study.trials if t.measurement]
    remeasurements = [again for again in remeasurements if not other_versions(study.info, again)]

    def deciding(trial: TrialRecord) -> TrialRecord:
        dated = sorted((again.measured_at(trial.number), i) for i, again in enumerate(remeasurements))
        newest_last = [remeasurements[i] for date, i in dated if until is None or date <= until]
        return _with_deciding_timing(trial, timings, newest_last, sources)

    return replace(study, trials=tuple(map(deciding, study.trials)), scale=tuple(map(deciding, study.scale))), sources


def _with_deciding_timing(
    trial: TrialRecord,
    searched: Sequence[Measurement],
    remeasurements: Sequence[Remeasurement],
    sources: dict[int, str],
) -> TrialRecord:
    """Return a trial with its deciding timing, whose remeasurement goes into `sources`.

    The remeasurements are in the order in which they timed the trial.
    A trial that the search did not measure may have any setting of the timings that it did, `searched`.
    """
    own = trial.measurement
    expected = searched if own is None else [own]
    timings: list[tuple[Measurement, str | None]] = [] if own is None else [(own, None)]
    for again in remeasurements:
        m = again.measurements.get(trial.number)
        if m is not None and m.verdict != WRONG_OUTPUT and any(same_setting(m, other) for other in expected):
            timings.append((m, again.name))
    if not timings:
        return trial
    newest = [timing for timing in timings if timing_doubt(timing[0]) is None] or timings[-1:]
    m, source = newest[-1]
    if source is None:
        return trial
    sources[trial.number] = source
    return replace(trial, measurement=m)


def source_words(model: ModelEvidence, retrained: bool) -> str:
    """Say where the score and the throughput of one model come from."""
    score = f"score of one training of the search, {model.steps:,} steps"
    if retrained:
        count = f"mean score of {model.seeds} longer trainings" if model.seeds > 1 else "score of one longer training"
        score = f"{count}, {model.steps:,} steps{' each' * (model.seeds > 1)}"
    return f"{score}; throughput {timing_words(model.remeasurement)}"


def timing_words(remeasurement: str | None) -> str:
    """Say when a model was timed."""
    return "measured by the search" if remeasurement is None else f"measured again (remeasurement {remeasurement})"
