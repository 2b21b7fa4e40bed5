"""The model that a study recommends, compared with the best baseline, and the words for it. Pure.

The one rule for all commands, the Python API, model cards and reports. `nas.analysis.evidence` has the scores and
throughputs that it decides by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from nas.analysis import BEST
from nas.analysis.evidence import LAST_RUNG, RACED, RETRAINED, ModelEvidence, StudyEvidence
from nas.analysis.noise import SeedScatter, lead_half_widths
from nas.analysis.trial_choice import find_by_name, nothing_complete
from nas.study.metrics import metric_label
from nas.study.records import Measurement, RaceResult, TrialRecord
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

    The recommended model is the winner of the study's race; where no candidate passes, `model` is the one that came
    closest, and `word` calls it leading. Before a race is decided, it is the fastest candidate that scores at least as
    high as the best baseline. If there is none, if there is no baseline, or if throughput is no objective, it is the
    candidate with the highest score.

    Attributes:
        basis: RACED, RETRAINED or LAST_RUNG: the trainings whose scores all of it compares.
        by_search: The candidate that the search's scores recommend, with its score of `basis`.
        scatter: Standard deviation of the scores between seeds; None where those of the retrainings are not compared.
        missing: Models without which retrained scores do not decide; empty where there are none, or where they decide.
        race: The race that decided.
        race_metric: Values of the race's other metric, of the model and the target; () without one.
    """

    model: ModelEvidence
    best_baseline: ModelEvidence | None
    fastest_as_good: BaselineComparison | None  # the fastest of those that score at least as high as the best baseline
    best_as_fast: BaselineComparison | None  # the highest score of those at least as fast as the best baseline
    basis: str
    by_search: ModelEvidence
    scatter: SeedScatter | None = None
    missing: tuple[ModelEvidence, ...] = ()
    published: bool = False  # the scores are published values: nothing was trained
    for_speed: bool = False  # whether `model` was chosen as the fastest that scores as high as the best baseline
    race: RaceResult | None = None
    race_metric: tuple[float, ...] = ()

    @property
    def trial(self) -> TrialRecord:
        """Return the trial of the recommended model."""
        return self.model.trial

    @property
    def word(self) -> str:
        """Return what the model is called: "recommended", or "leading" where no candidate has passed the race."""
        return "recommended" if self.race is None or self.race.passed else "leading"

    @property
    def retrained(self) -> bool:
        """Tell whether scores of longer trainings decided."""
        return self.basis != LAST_RUNG


def recommend(evidence: StudyEvidence) -> Recommendation | None:
    """Recommend one candidate of a study; None where no candidate was measured and trained to the last rung.

    The race decides. Without one, retrained scores do where the candidate that the search recommends, and every
    baseline, has one.
    """
    by_search = _recommend(evidence, evidence.searched, LAST_RUNG)
    if by_search is None:
        return None
    if (raced := _by_race(evidence, by_search)) is not None:
        return raced
    if not evidence.retrained:
        return by_search
    baselines = [model for model in evidence.searched if model.trial.baseline]
    if missing := evidence.unretrained([by_search.model, *baselines]):
        return replace(by_search, missing=missing)
    assert evidence.retraining is not None
    found = _recommend(evidence, evidence.retrained, RETRAINED, evidence.retraining.scatter)
    assert found is not None
    again = next(model for model in evidence.retrained if model.number == by_search.model.number)
    return replace(found, by_search=again)


def _by_race(evidence: StudyEvidence, by_search: Recommendation) -> Recommendation | None:
    """Recommend the model that won the race, or came closest; None without a decided race that trained a candidate."""
    race = evidence.record.info.race
    if race is None or not race.decided or race.best is None:
        return None
    results = evidence.record.race_results(race.steps, race.images)
    models = {
        model.number: replace(model, scores=tuple(each.score for each in results[model.number]), steps=race.steps)
        for model in evidence.searched
        if model.number in results
    }
    model, target = models.get(race.best), None if race.target is None else models.get(race.target)
    if model is None or (target is None) != (race.target is None):
        return None  # a newer timing took one of them out
    compared = None
    if target is not None:
        target = replace(target, scores=target.scores[: model.seeds])  # those that the chance is by
        against_reference = target.trial.baseline == evidence.record.info.reference
        compared = _comparison(model, target, floor=evidence.noise_floor, against_reference=against_reference)
    values: tuple[float, ...] = ()
    if race.metric is not None and target is not None:
        raced = (results[each.number][: model.seeds] for each in (model, target))
        values = tuple(fmean(result.metrics.get(race.metric, math.nan) for result in each) for each in raced)
    return Recommendation(
        model, target, compared, compared, RACED, by_search.model,
        for_speed=target is not None, race=race, race_metric=values,
    )  # fmt: skip


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
    )


def _compare(
    candidates: Sequence[ModelEvidence],
    baseline: ModelEvidence | None,
    ratio: Callable[[ModelEvidence], float],
    by_score: bool,
    baselines: int,
    floor: float,
    against_reference: bool,
) -> BaselineComparison | None:
    """Compare the baseline with the fastest candidate that is as good, or with the best one as fast."""
    if baseline is None:
        return None

    def values(model: ModelEvidence) -> tuple[float, float]:
        return (model.score, ratio(model)) if by_score else (ratio(model), model.score)

    as_good = [model for model in candidates if values(model)[0] >= values(baseline)[0]]

    if not as_good:
        return None
    return _comparison(
        max(as_good, key=lambda model: values(model)[::-1]),
        baseline,
        compared=len(candidates if by_score else as_good),
        baselines=baselines,
        floor=floor,
        against_reference=against_reference,
    )


def _comparison(
    candidate: ModelEvidence, baseline: ModelEvidence, *, floor: float, against_reference: bool, **counts: int
) -> BaselineComparison:
    """Compare a candidate with a baseline; `counts` are the comparison's `compared` and `baselines`."""
    speedup, low, high = _speedup(candidate.measurement, None if against_reference else baseline.measurement)
    return BaselineComparison(
        candidate=candidate,
        baseline=baseline,
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        score_gain=candidate.score - baseline.score,
        floor=floor,
        against_reference=against_reference,
        **counts,
    )


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
    """Say in one line which scores and timings a recommendation is from."""
    r = recommendation
    if r.published:
        return "published scores"
    models = [m for m in (r.model, r.best_baseline) if m is not None]
    parts = [race_words(r)] if r.race else [trainings_words([m.seeds for m in models], r.model.steps, r.retrained)]
    if unused := unused_words(r):
        parts.append(unused)
    if again := [m.name for m in models if m.remeasurement is not None]:
        parts.append(f"throughput of {' and '.join(again)} measured again")
    return "; ".join(parts)


def recommended_words(evidence: StudyEvidence) -> str:
    """Say in one line which model the study recommends, or which one leads, and from what evidence; "" without one."""
    found = recommend(evidence)
    return "" if found is None else f"{found.word} model: {found.model.name} ({evidence_words(found)})"


def place_words(evidence: StudyEvidence, number: int) -> str:
    """Say that the study recommends a trial, or that it leads, and why; "" of any other trial."""
    found = recommend(evidence)
    return recommended_words(evidence) if found is not None and number == found.model.number else ""


def race_words(found: Recommendation) -> str:
    """Return the evidence of a race in one line, without the model's name."""
    race, best = found.race, found.best_baseline
    assert race is not None
    seeds = f", mean of {found.model.seeds} seeds" if found.model.seeds > 1 else ""
    words = f"after {race.steps:,} steps on {race.images:,} images{seeds}: score {found.model.score:.3f}"
    what = "the best of those trained"
    if best is not None and found.fastest_as_good is not None:
        words += f" against {best.score:.3f} of {best.name}"
        what = "at least as good"
        if race.metric is not None and found.race_metric:
            words += ", {} {:.3f} against {:.3f}".format(metric_label(race.metric), *found.race_metric)
    elif race.target_score is not None:
        what = f"at {race.target_score:g} or above"
    speed = "" if found.fastest_as_good is None else f", {found.fastest_as_good.speedup:.2f} times its throughput"
    lost = "" if race.passed else "; no candidate passed, this one came closest"
    if race.out_of_reach:
        lost += f"; no faster candidate is likely to reach {' or '.join(race.out_of_reach)}"
    chance = f"chance {race.chance or 0.0:.2f} that it is {what} after {race.decides_at:,} steps"
    return f"{words} ({chance}){speed}{lost}"


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
