"""The most trusted score and throughput of each model of a study, and the model that they recommend. Pure.

The one rule for all commands, the Python API, model cards and reports:

- **Throughput**: a trial counts with its newest timing in the search's own setting, of a remeasurement or a retraining;
  with one that cannot be trusted (`nas.study.timing_doubts`) only where it has no other. Timings of other devices,
  runtimes, batches or image sizes answer other questions: `nas.analysis.remeasuring` compares them.
- **Score**: retrained scores and those of the search are never compared with each other. Retrained ones decide where
  every model that the question needs has one; else those of the search do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.special import stdtr

from nas.analysis import BEST
from nas.analysis.noise import SeedScatter
from nas.analysis.retraining import WRONG_OUTPUT, RetrainingSummary, summarize_retraining
from nas.analysis.selection import complete, find_by_name, measurement, nothing_complete
from nas.study.records import Measurement, Remeasurement, Retraining, StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import noise_floor, timing_doubt

_NOT_FOLDED = re.compile(r" but for \d+ BatchNorms?")
RETRAINED, LAST_RUNG = "retraining", "last rung"  # the trainings whose scores are compared


@dataclass(frozen=True)
class TrustedModel:
    """A complete trial or baseline with one kind of score, and its most trusted timing in `trial.measurement`."""

    trial: TrialRecord
    score: float  # mean over seeds
    seeds: int  # trainings
    steps: int  # of each training
    remeasurement: str | None = None  # name of the remeasurement with the timing; None: of the search

    @property
    def measurement(self) -> Measurement:
        """Return the most trusted timing."""
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
        study: The same with each trial's most trusted timing in place of the search's.
        retraining: Summary of the retrainings; None where there are none.
        remeasured: By trial number, the remeasurement whose timing took the place of the search's.
        searched: The models with their scores at the search's last rung.
        retrained: The retrained models with their mean scores, also those that the search had stopped early.
    """

    record: StudyRecord
    study: StudyRecord
    retraining: RetrainingSummary | None
    remeasured: Mapping[int, str]
    searched: tuple[TrustedModel, ...]
    retrained: tuple[TrustedModel, ...]

    @property
    def noise_floor(self) -> float:
        """Return the relative difference in throughput of two equal models: of the reference against itself."""
        reference, (trials, scale) = self.study.info.reference, (self.study.trials, self.study.scale)
        itself = [t for t in trials if t.baseline == reference] + [t for t in scale if t.scale == reference]
        return noise_floor(next((t.measurement for t in itself if t.measurement), None))

    def unretrained(self, needed: Iterable[TrustedModel]) -> tuple[TrustedModel, ...]:
        """Return those of the needed models that were not retrained; retrained scores decide where it is empty."""
        known = {model.number for model in self.retrained}
        return tuple(model for model in needed if model.number not in known)


def gather_evidence(
    study: StudyRecord, retrainings: Sequence[Retraining] = (), remeasurements: Sequence[Remeasurement] = ()
) -> StudyEvidence:
    """Return each trial's most trusted timing and scores.

    Args:
        study: As the search wrote it.
        retrainings: Of any numbers of steps; `summarize_retraining` chooses one.
        remeasurements: Of any settings, the oldest first.
    """
    sources: dict[int, str] = {}
    timings = [t.measurement for t in study.trials if t.measurement]
    trials = tuple(_with_trusted_timing(t, timings, remeasurements, sources) for t in study.trials)
    scale = tuple(_with_trusted_timing(t, timings, remeasurements, sources) for t in study.scale)
    trusted = replace(study, trials=trials, scale=scale)
    by_number = {t.number: t for t in complete(trusted)}
    timed = {t.number: t for t in trials if t.state is TrialState.STOPPED and t.measurement} | by_number
    summary = summarize_retraining(study, retrainings, remeasurements)
    last = study.info.rung_steps[-1] if study.info.rung_steps else 0
    return StudyEvidence(
        record=study,
        study=trusted,
        retraining=summary,
        remeasured=sources,
        searched=tuple(
            TrustedModel(t, t.final_score, 1, last, sources.get(t.number)) for t in by_number.values()
        ),
        retrained=tuple(
            TrustedModel(timed[n], c.mean, len(c.scores), c.steps, sources.get(n))
            for c in (summary.candidates if summary else ())
            if c.mean is not None and math.isfinite(c.mean) and (n := c.trial.number) in timed
        ),
    )  # fmt: skip


def _with_trusted_timing(
    trial: TrialRecord,
    searched: Sequence[Measurement],
    remeasurements: Sequence[Remeasurement],
    sources: dict[int, str],
) -> TrialRecord:
    """Return a trial with its most trusted timing, whose remeasurement goes into `sources`.

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


def same_setting(a: Measurement, b: Measurement) -> bool:
    """Tell whether two timings answer one question: same device, runtime, batch, image size, reference.

    How many BatchNorms could not be folded is a fact of the model, not of the setting.
    """

    def setting(m: Measurement) -> tuple[object, ...]:
        runtime = _NOT_FOLDED.sub("", m.arm)
        return m.device, runtime, m.requested_batch or m.batch, m.batch, m.resolution, m.reference

    return setting(a) == setting(b)


@dataclass(frozen=True)
class BaselineComparison:
    """A candidate against the best baseline, the one of the highest score.

    `speedup` is the ratio of their relative throughputs; its bounds combine opposite bounds of the two 95 % intervals.
    `compared` candidates were as good as the baseline in the other value; `found` is the best of them. `floor` is the
    relative difference in throughput of two equal models.
    """

    found: TrustedModel
    baseline: TrustedModel
    speedup: float
    speedup_low: float
    speedup_high: float
    score_gain: float
    compared: int = 1
    floor: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Tell whether one of the two timings cannot be trusted."""
        return any(timing_doubt(model.measurement) for model in (self.found, self.baseline))

    @property
    def shows_difference(self) -> bool:
        """Tell whether a difference in throughput is shown.

        Both timings can be trusted, the interval leaves out 1, and two equal models differ by less.
        """
        beyond = max(self.speedup, 1 / self.speedup) - 1 > self.floor
        return not self.doubtful and beyond and not self.speedup_low <= 1 <= self.speedup_high

    def chance_as_good(self, scatter: SeedScatter) -> float:
        """Return the probability that the mean score of `found` over all seeds is at least that of the baseline.

        It holds for two models that were fixed before they were trained. `found` was chosen for its score among
        `compared` models, so that the true probability is lower.
        """
        deviation = scatter.sd * math.sqrt(1 / self.found.seeds + 1 / self.baseline.seeds)
        return float(stdtr(scatter.degrees, self.score_gain / deviation)) if deviation else float(self.score_gain >= 0)


@dataclass(frozen=True)
class Recommendation:
    """The candidate that a study recommends, the gain over the best baseline on each axis, and the evidence.

    `model` is the candidate of `at_equal_score`. It is the candidate of the highest score where none scores as high as
    the best baseline, where there is no baseline, or where throughput is no objective of the study.

    Attributes:
        basis: RETRAINED or LAST_RUNG: the trainings whose scores all of it compares.
        by_search: The candidate that the search's scores recommend, with its score of `basis`.
        scatter: Standard deviation of the scores between seeds; None where the search's scores are compared.
        missing: Models without which retrained scores do not decide; empty where there are none, or where they decide.
        was_as_good: Whether `by_search` scored at least as high as the best baseline in the search.
    """

    model: TrustedModel
    best_baseline: TrustedModel | None
    at_equal_score: BaselineComparison | None  # the fastest of those that score at least as high as the best baseline
    at_equal_speed: BaselineComparison | None  # the highest score of those at least as fast as the best baseline
    basis: str
    by_search: TrustedModel
    scatter: SeedScatter | None = None
    missing: tuple[TrustedModel, ...] = ()
    was_as_good: bool = False
    published: bool = False  # the scores are published values: nothing was trained

    @property
    def trial(self) -> TrialRecord:
        """Return the trial of the recommended model."""
        return self.model.trial

    @property
    def retrained(self) -> bool:
        """Tell whether retrained scores decided."""
        return self.basis == RETRAINED

    @property
    def fell_below(self) -> bool:
        """Tell whether the search's recommendation, as good as the best baseline then, scores lower retrained."""
        best = self.best_baseline
        return self.retrained and self.was_as_good and best is not None and self.by_search.score < best.score

    @property
    def taken_back(self) -> bool:
        """Tell whether retraining took back what the search recommended."""
        return self.fell_below or (self.retrained and self.model.number != self.by_search.number)


def recommend(evidence: StudyEvidence) -> Recommendation | None:
    """Recommend one candidate of a study; None where no candidate was measured and trained to the last rung.

    Retrained scores decide where the candidate that the search recommends, and every baseline, has one.
    """
    by_search = _recommend(evidence, evidence.searched, LAST_RUNG)
    if by_search is None or not evidence.retrained:
        return by_search
    baselines = [model for model in evidence.searched if model.trial.baseline]
    if missing := evidence.unretrained([by_search.model, *baselines]):
        return replace(by_search, missing=missing)
    found = _recommend(evidence, evidence.retrained, RETRAINED)
    assert found is not None
    assert evidence.retraining is not None
    again = next(model for model in evidence.retrained if model.number == by_search.model.number)
    as_good = by_search.at_equal_score is not None and by_search.at_equal_score.found == by_search.model
    return replace(found, by_search=again, scatter=evidence.retraining.scatter, was_as_good=as_good)


def _recommend(evidence: StudyEvidence, models: Sequence[TrustedModel], basis: str) -> Recommendation | None:
    """Recommend by one kind of scores alone."""
    candidates = [model for model in models if not model.trial.baseline]
    if not candidates:
        return None
    baseline = max((model for model in models if model.trial.baseline), key=lambda model: model.score, default=None)
    floor = evidence.noise_floor
    at_equal_score = _compare(candidates, baseline, lambda model: (model.score, model.ratio), floor)
    at_equal_speed = _compare(candidates, baseline, lambda model: (model.ratio, model.score), floor)
    by_speed = any(objective.name == "throughput" for objective in evidence.record.info.objectives)
    found = max(candidates, key=lambda model: (model.score, model.ratio))
    if at_equal_score is not None and by_speed:
        found = at_equal_score.found
    published = not evidence.record.info.teachers
    return Recommendation(found, baseline, at_equal_score, at_equal_speed, basis, by_search=found, published=published)


def _compare(
    candidates: Sequence[TrustedModel],
    baseline: TrustedModel | None,
    values: Callable[[TrustedModel], tuple[float, float]],
    floor: float,
) -> BaselineComparison | None:
    """Compare the baseline with the best candidate by the second value among those as good in the first."""
    if baseline is None:
        return None
    as_good = [model for model in candidates if values(model)[0] >= values(baseline)[0]]
    found = max(as_good, key=lambda model: values(model)[::-1], default=None)
    if found is None:
        return None
    ours, theirs = found.measurement, baseline.measurement
    return BaselineComparison(
        found=found,
        baseline=baseline,
        speedup=ours.ratio / theirs.ratio,
        speedup_low=ours.ratio_low / theirs.ratio_high if theirs.ratio_high > 0 else math.nan,
        speedup_high=ours.ratio_high / theirs.ratio_low if theirs.ratio_low > 0 else math.nan,
        score_gain=found.score - baseline.score,
        compared=len(as_good),
        floor=floor,
    )


def find_trial(evidence: StudyEvidence, which: str) -> TrialRecord:
    """Return the trial that `which` names: "best", a trial's number, or the beginning of one architecture's id.

    It has its most trusted timing.

    Raises:
        SelectionError: There is no such trial, or there are several.
    """
    if which != BEST:
        return find_by_name(evidence.study, which)
    recommendation = recommend(evidence)
    if recommendation is None:
        raise nothing_complete(evidence.record)
    return recommendation.trial


def trainings_words(seeds: Collection[int], steps: int, retrained: bool) -> str:
    """Say what trainings scores are from: "scores of 2 longer trainings each, 810 steps"."""
    if not retrained:
        return f"scores of one training each, {steps:,} steps"
    counts = sorted(set(seeds))
    each = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"scores of {each} longer training{'s' * (counts != [1])} each, {steps:,} steps"


def source_words(model: TrustedModel, retrained: bool) -> str:
    """Say where the score and the throughput of one model come from."""
    score = f"score of one training of the search, {model.steps:,} steps"
    if retrained:
        count = f"mean score of {model.seeds} longer trainings" if model.seeds > 1 else "score of one longer training"
        score = f"{count}, {model.steps:,} steps{' each' * (model.seeds > 1)}"
    return f"{score}; throughput {timing_words(model.remeasurement)}"


def timing_words(remeasurement: str | None) -> str:
    """Say when a model was timed."""
    return "measured by the search" if remeasurement is None else f"measured again (remeasurement {remeasurement})"


def evidence_words(recommendation: Recommendation) -> str:
    """Say in one line which scores and timings a recommendation is from, and what retraining changed."""
    r = recommendation
    if r.published:
        return "published scores"
    models = [m for m in (r.model, r.best_baseline) if m is not None]
    parts = [trainings_words([m.seeds for m in models], r.model.steps, r.retrained)]
    if taken := taken_back_words(r):
        parts.append(taken)
    if unused := unused_words(r):
        parts.append(unused)
    if again := [m.name for m in models if m.remeasurement is not None]:
        parts.append(f"throughput of {' and '.join(again)} measured again")
    return "; ".join(parts)


def recommended_words(evidence: StudyEvidence) -> str:
    """Say in one line which model the study recommends, and from what evidence; "" where it recommends none."""
    found = recommend(evidence)
    return "" if found is None else f"recommended is {found.model.name}: {evidence_words(found)}"


def place_words(evidence: StudyEvidence, number: int) -> str:
    """Say that the study recommends a trial, or that retraining took that back, and why; "" of any other trial."""
    found = recommend(evidence)
    concerned = found is not None and number in (found.model.number, found.by_search.number)
    return recommended_words(evidence) if concerned else ""


def taken_back_words(recommendation: Recommendation) -> str:
    """Say what became of the model that the search recommended; "" where retraining recommends it too."""
    r = recommendation
    if not r.taken_back:
        return ""
    name = f"{r.by_search.name}, recommended by the search,"
    if r.fell_below:
        return f"{name} fell below the baseline"
    return f"{name} was overtaken"


def unused_words(recommendation: Recommendation) -> str:
    """Say why retrained scores do not decide although there are some; "" where they do, or there are none."""
    missing = recommendation.missing
    if not missing:
        return ""
    baselines = [model.name for model in missing if model.trial.baseline]
    if not baselines:
        return f"retrained scores do not decide, for {missing[0].name} has none"
    which = f"the baseline {baselines[0]} has" if len(baselines) == 1 else f"{len(baselines)} baselines have"
    return f"retrained scores do not decide, for {which} none (backbone-nas retrain --baselines)"
