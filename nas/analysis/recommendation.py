"""The model that a study recommends, compared with the best baseline, and the words for it. Pure.

The one rule for all commands, the Python API, model cards and reports. `nas.analysis.evidence` has the scores and
throughputs that it decides by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from nas.analysis import BEST, LASTING_LEAD, SMALL_SHORTFALL
from nas.analysis.evidence import LAST_RUNG, RETRAINED, ModelEvidence, StudyEvidence
from nas.analysis.noise import SeedScatter, lead_half_widths
from nas.analysis.trial_choice import find_by_name, nothing_complete
from nas.study import pareto
from nas.study.records import Measurement, TrialRecord
from nas.study.timing_doubts import repeated_interval, timing_doubt


@dataclass(frozen=True)
class BaselineComparison:
    """A candidate against the best baseline, the one of the highest score.

    `speedup` is the ratio of their relative throughputs, with the 95 % interval of both timings over processes.
    Against the reference it is the candidate's relative throughput with that of its own timing: the timing of the
    reference is that against a copy of itself (A/A), which is noise and is not used.
    `compared` is the number of candidates whose scores decided which one is compared: all of them where it had to score
    as high as the baseline, and those that are as fast where it has the highest score of these. `baselines` is the
    number of baselines, of which this is the best. `floor` is the relative difference in throughput of equal models.
    """

    candidate: ModelEvidence
    baseline: ModelEvidence
    speedup: float
    speedup_low: float
    speedup_high: float
    score_gain: float
    compared: int = 1
    baselines: int = 1
    floor: float = 0.0
    against_reference: bool = False

    @property
    def timed(self) -> tuple[ModelEvidence, ...]:
        """Return the models whose timings the comparison uses."""
        return (self.candidate,) if self.against_reference else (self.candidate, self.baseline)

    @property
    def doubtful(self) -> bool:
        """Tell whether one of the used timings cannot be trusted."""
        return any(timing_doubt(model.measurement) for model in self.timed)

    def half_width(self, scatter: SeedScatter | None) -> float | None:
        """Return half the 95 % interval of the difference in mean score; None where the scatter of seeds is unknown.

        It allows for the choice among all candidates whose scores decided, and for that among the baselines.
        """
        sides = self.half_widths(scatter)
        return None if sides is None else math.hypot(*sides)

    def half_widths(self, scatter: SeedScatter | None) -> tuple[float, float] | None:
        """Return the candidate's and the baseline's side of `half_width`, whose squares add up to its square."""
        if scatter is None:
            return None
        return lead_half_widths(scatter, self.candidate.scores, self.baseline.scores, self.compared, self.baselines)

    @property
    def shows_difference(self) -> bool:
        """Tell whether a difference in throughput is shown.

        The used timings can be trusted, the interval leaves out 1, and two equal models differ by less.
        """
        beyond = max(self.speedup, 1 / self.speedup) - 1 > self.floor
        return not self.doubtful and beyond and not self.speedup_low <= 1 <= self.speedup_high


@dataclass(frozen=True)
class Recommendation:
    """The candidate that a study recommends, the gain over the best baseline on each axis, and the evidence.

    The recommended model is the fastest candidate that scores at least as high as the best baseline. If there is none,
    if there is no baseline, or if throughput is no objective, it is the candidate with the highest score.

    Attributes:
        basis: RETRAINED or LAST_RUNG: the trainings whose scores all of it compares.
        by_search: The candidate that the search's scores recommend, with its score of `basis`.
        scatter: Standard deviation of the scores between seeds; None where the search's scores are compared.
        missing: Models without which retrained scores do not decide; empty where there are none, or where they decide.
        was_as_good: Whether `by_search` scored at least as high as the best baseline in the search.
    """

    model: ModelEvidence
    best_baseline: ModelEvidence | None
    fastest_as_good: BaselineComparison | None  # the fastest of those that score at least as high as the best baseline
    best_as_fast: BaselineComparison | None  # the highest score of those at least as fast as the best baseline
    basis: str
    by_search: ModelEvidence
    scatter: SeedScatter | None = None
    missing: tuple[ModelEvidence, ...] = ()
    was_as_good: bool = False
    published: bool = False  # the scores are published values: nothing was trained
    for_speed: bool = False  # whether `model` was chosen as the fastest that scores as high as the best baseline
    with_lead: BaselineComparison | None = None  # the fastest of those with a lead that may be relied on

    @property
    def trial(self) -> TrialRecord:
        """Return the trial of the recommended model."""
        return self.model.trial

    @property
    def retrained(self) -> bool:
        """Tell whether retrained scores decided."""
        return self.basis == RETRAINED

    @property
    def lead_may_not_last(self) -> bool:
        """Tell whether the model was chosen for its speed and its score, of one short training, leads by little."""
        chosen = self.fastest_as_good if self.for_speed and not (self.published or self.retrained) else None
        return chosen is not None and chosen.score_gain < LASTING_LEAD

    @property
    def lead_may_be_luck(self) -> bool:
        """Tell whether retrained scores chose the model for its speed, and other seeds could take its lead away."""
        chosen = self.fastest_as_good if self.for_speed and self.retrained else None
        half = None if chosen is None else chosen.half_width(self.scatter)
        return chosen is not None and half is not None and chosen.score_gain < half

    @property
    def fell_below(self) -> bool:
        """Tell whether the search's recommendation, as good as the best baseline then, scores lower retrained."""
        best = self.best_baseline
        return self.retrained and self.was_as_good and best is not None and self.by_search.score < best.score

    @property
    def outrun(self) -> bool:
        """Tell whether the search's recommendation is still as good as the best baseline, and a faster one is, too.

        The model is the fastest of those as good: another one than that recommendation is faster.
        """
        best = self.best_baseline
        return self.taken_back and best is not None and self.by_search.score >= best.score

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
    assert evidence.retraining is not None
    found = _recommend(evidence, evidence.retrained, RETRAINED, evidence.retraining.scatter)
    assert found is not None
    again = next(model for model in evidence.retrained if model.number == by_search.model.number)
    as_good = by_search.fastest_as_good is not None and by_search.fastest_as_good.candidate == by_search.model
    return replace(found, by_search=again, was_as_good=as_good)


def _recommend(
    evidence: StudyEvidence, models: Sequence[ModelEvidence], basis: str, scatter: SeedScatter | None = None
) -> Recommendation | None:
    """Recommend by one kind of scores alone."""
    candidates = [model for model in models if not model.trial.baseline]
    if not candidates:
        return None
    baselines = [model for model in models if model.trial.baseline]
    baseline = max(baselines, key=lambda model: model.score, default=None)
    info = evidence.record.info
    against_reference = baseline is not None and baseline.trial.baseline == info.reference

    def ratio(model: ModelEvidence) -> float:
        return 1.0 if against_reference and model is baseline else model.ratio

    compare = partial(
        _compare,
        candidates,
        baseline,
        ratio,
        baselines=len(baselines),
        floor=evidence.noise_floor,
        against_reference=against_reference,
    )
    fastest_as_good, best_as_fast = compare(by_score=True), compare(by_score=False)
    with_lead = compare(by_score=True, reliable=partial(_is_reliable, scatter=scatter))
    by_speed = any(objective.name == "throughput" for objective in info.objectives)
    for_speed = fastest_as_good is not None and by_speed
    chosen = max(candidates, key=lambda model: (model.score, model.ratio))
    if fastest_as_good is not None and by_speed:
        chosen = fastest_as_good.candidate
    published = info.replayed
    return Recommendation(
        chosen,
        baseline,
        fastest_as_good,
        best_as_fast,
        basis,
        by_search=chosen,
        scatter=scatter,
        published=published,
        for_speed=for_speed,
        with_lead=with_lead,
    )


def _compare(
    candidates: Sequence[ModelEvidence],
    baseline: ModelEvidence | None,
    ratio: Callable[[ModelEvidence], float],
    by_score: bool,
    baselines: int,
    floor: float,
    against_reference: bool,
    reliable: Callable[[BaselineComparison], bool] = lambda _: True,
) -> BaselineComparison | None:
    """Compare the baseline with the fastest `reliable` candidate that is as good, or with the best one as fast."""
    if baseline is None:
        return None

    def values(model: ModelEvidence) -> tuple[float, float]:
        return (model.score, ratio(model)) if by_score else (ratio(model), model.score)

    as_good = [model for model in candidates if values(model)[0] >= values(baseline)[0]]

    def compared(candidate: ModelEvidence) -> BaselineComparison:
        speedup, low, high = _speedup(candidate.measurement, None if against_reference else baseline.measurement)
        return BaselineComparison(
            candidate=candidate,
            baseline=baseline,
            speedup=speedup,
            speedup_low=low,
            speedup_high=high,
            score_gain=candidate.score - baseline.score,
            compared=len(candidates if by_score else as_good),
            baselines=baselines,
            floor=floor,
            against_reference=against_reference,
        )

    best_first = sorted(as_good, key=lambda model: values(model)[::-1], reverse=True)
    return next(filter(reliable, map(compared, best_first)), None)


def _is_reliable(result: BaselineComparison, scatter: SeedScatter | None) -> bool:
    """Tell whether a lead over the best baseline is larger than what is needed to rely on it.

    Retrained scores need a lead beyond the noise of seeds, with their scatter known; those of a search LASTING_LEAD.
    """
    needed = LASTING_LEAD if scatter is None else result.half_width(scatter)
    return needed is not None and result.score_gain >= needed


def _speedup(ours: Measurement, theirs: Measurement | None) -> tuple[float, float, float]:
    """Return how many times as fast one model is as another, or as the reference (None), and its 95 % interval.

    The errors of both timings are independent, so that their squares add up.
    """
    low, high = repeated_interval(ours)
    if theirs is None:
        return ours.ratio, low, high
    speedup, (their_low, their_high) = ours.ratio / theirs.ratio, repeated_interval(theirs)
    below = math.hypot(math.log(ours.ratio / low), math.log(their_high / theirs.ratio))
    above = math.hypot(math.log(high / ours.ratio), math.log(theirs.ratio / their_low))
    return speedup, speedup * math.exp(-below), speedup * math.exp(above)


def shortlist(evidence: StudyEvidence) -> tuple[TrialRecord, ...]:
    """Return the candidates that may be recommended after longer training, the fastest first.

    They are `shortlisted` for the score of the best baseline. Where no candidate scores as high, they are those on the
    front that score less than the highest by at most LASTING_LEAD.

    Args:
        evidence: The study, of which the scores of the search decide.
    """
    found = _recommend(evidence, evidence.searched, LAST_RUNG)
    if found is None:
        return ()
    candidates = [model for model in evidence.searched if not model.trial.baseline]
    level = max(model.score for model in candidates) - LASTING_LEAD + SMALL_SHORTFALL
    if found.for_speed and found.best_baseline is not None:
        level = found.best_baseline.score
    points = [(model.score, model.ratio) for model in candidates]
    return tuple(candidates[i].trial for i in shortlisted(points, level))


def shortlisted(points: Sequence[tuple[float, float]], level: float) -> list[int]:
    """Return the indices of those on the front that score `level` or at most SMALL_SHORTFALL less, the fastest first.

    The last one is the fastest that leads by LASTING_LEAD; without such a lead, all of them are returned.

    Args:
        points: Score and throughput of each candidate.
        level: Score of the best baseline.
    """
    slowest = max((speed for score, speed in points if score >= level + LASTING_LEAD), default=0.0)
    indices = [i for i in pareto.front(points) if points[i][0] >= level - SMALL_SHORTFALL and points[i][1] >= slowest]
    return sorted(indices, key=lambda i: -points[i][1])


def find_trial(evidence: StudyEvidence, which: str, flag: str = "--trial") -> TrialRecord:
    """Return the trial that `which` names: "best", a trial's number or name, or the beginning of its architecture's id.

    It has its deciding timing.

    Args:
        evidence: The study.
        which: The trial.
        flag: The option that an error names.

    Raises:
        SelectionError: There is no such trial, or there are several.
    """
    if which != BEST:
        return find_by_name(evidence.study, which, flag)
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
    return "" if found is None else f"recommended model: {found.model.name} ({evidence_words(found)})"


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
    return f"{name} is slower" if r.outrun else f"{name} was overtaken"


def unused_words(recommendation: Recommendation) -> str:
    """Say why retrained scores do not decide although there are some; "" where they do, or there are none."""
    missing = recommendation.missing
    if not missing:
        return ""
    baselines = [model.name for model in missing if model.trial.baseline]
    if not baselines:
        return f"retrained scores are not used, because {missing[0].name} has none"
    which = f"the baseline {baselines[0]} has" if len(baselines) == 1 else f"{len(baselines)} baselines have"
    return f"retrained scores are not used, because {which} none (backbone-nas retrain --baselines)"
