"""The race at the end of a search: which candidates are trained for long, and which one wins. Pure.

A search scores its candidates after a short training on few images. The order after a long training on images that
hardly repeat is another one, so the question that the user asked is decided there: which is the fastest candidate that
is at least as good as the best baseline, or a score; or, within limits and without a target, which is the best. Which
baseline is the best is decided there, too: the most promising ones are trained first.

The race trains the candidate from which it expects most: its chance to pass, times the logarithm of its speed relative
to the fastest model that has passed, which at first is the target. After `MIDWAY` of its steps, the score of a training
is predicted again; the training goes on if its candidate still promises most. The race ends when no training is worth
`WORTH`. A candidate passes that is as good as the target, or is the best, with a chance of `PASS`, and the fastest one
that has passed wins. A second seed, of candidate and target, is trained only where the noise leaves open whether it
passes. The course follows from the trainings' scores, so its end does not depend on how many workers trained them, or
on when they were killed: with several workers, the trainings are begun that would follow if what is predicted came
true.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, variance
from types import MappingProxyType

from nas.study.horizon import MIDWAY, HorizonModel

START = 0.3  # predicted chance from which on a model is likely enough: to be reached, or to be the best
WORTH = 0.1  # expected gain in log throughput from which on a candidate is trained
CHANCE = 0.02  # least chance to pass of a candidate that is trained
PASS = 0.9  # chance to be ahead from which on a candidate holds
T_PASS = 1.886  # quantile of PASS of Student's t with a degree of freedom from the two seeds of each of two models
AHEAD = 8  # trainings that are begun ahead, at most
SEEDS = 2  # trainings of a candidate, at most
BEST_OF = 5  # candidates that are trained without a target, at most
QUANTILES = 200  # of a score, for the chance to be the best of several

# Of each trial's long trainings, in the order of their seeds; with `HorizonModel.later`, what it expects from them.
Scores = Mapping[int, Sequence[float]]
Predicted = Mapping[int, float]  # long score of each trial


@dataclass(frozen=True)
class Entrant:
    """A model that may take part.

    Attributes:
        number: Of its trial.
        speed: Its throughput relative to the reference.
        predicted: Its expected score after a long training, by a `HorizonModel`.
    """

    number: int
    speed: float
    predicted: float


@dataclass(frozen=True)
class Standing:
    """An entrant's standing.

    Attributes:
        entrant: The entrant.
        chance: That it is at least as good as the target; without a target, that it is the best. Before its long
            training, that it passes.
        trained: Whether it has long trainings.
        decided: Whether its long trainings have decided.
    """

    entrant: Entrant
    chance: float
    trained: bool
    decided: bool

    @property
    def passed(self) -> bool:
        """Return whether the entrant holds: it wins unless a faster one does."""
        return self.decided and self.trained and self.chance >= PASS


@dataclass(frozen=True)
class Outcome:
    """Where a race stands.

    Attributes:
        standings: Of the entrants that are faster than the target, in the order of their speed.
        winner: The one that has won; None while the race is open, and where none has passed.
        target: The best of the models to beat, by the long trainings that there are; None without such models.
        wanted: Number of trial and of seed (from 0) of the trainings that may still be needed, the first one first.
            Later ones are needed if what is predicted comes true.
    """

    standings: tuple[Standing, ...]
    winner: Standing | None
    target: Entrant | None = None
    wanted: tuple[tuple[int, int], ...] = ()

    @property
    def may_be_won(self) -> bool:
        """Return whether an entrant may still win."""
        return any(standing.chance >= START for standing in self.standings)

    @property
    def best(self) -> Standing | None:
        """Return the winner, or the trained entrant that has the highest chance."""
        trained = [standing for standing in self.standings if standing.trained]
        return self.winner or max(trained, key=lambda standing: standing.chance, default=None)


@dataclass(frozen=True)
class Race:
    """The rules of one race.

    Attributes:
        entrants: In any order.
        model: Predicts long scores.
        baselines: Models to beat. The best of them after the long training is the target, and slower entrants do not
            take part. Empty: a score, or the best.
        target_score: The score to reach; None: that of the target, or the best.
        by_metric: Whether a winner must not be worse than the target in another metric, beyond the noise of seeds.
    """

    entrants: tuple[Entrant, ...]
    model: HorizonModel
    baselines: tuple[Entrant, ...] = ()
    target_score: float | None = None
    by_metric: bool = False
    faster_first: tuple[Entrant, ...] = field(init=False)
    _predicted: Predicted = field(init=False, repr=False)

    def __post_init__(self) -> None:
        order = sorted(self.entrants, key=lambda entrant: (-entrant.speed, entrant.number))
        object.__setattr__(self, "faster_first", tuple(order))
        predicted = {entrant.number: entrant.predicted for entrant in (*self.entrants, *self.baselines)}
        object.__setattr__(self, "_predicted", predicted)

    def outcome(
        self, scores: Scores, metrics: Scores = MappingProxyType({}), midway: Predicted = MappingProxyType({})
    ) -> Outcome:
        """Decide by the long trainings that there are.

        Args:
            scores: Of the trials that have any; the score of a training that failed is -inf.
            metrics: Values of the other metric of the same trainings; higher is better.
            midway: What `model.midway` predicts from the first training of each trial that is midway or has ended.
        """
        if not self.baselines and self.target_score is None:
            return self._best(self.entrants, scores)
        found = self._best(self.baselines, scores)
        wanted = list(found.wanted)
        # By the long scores that are known, the next entrant is predicted.
        known = {standing.entrant.number: scores[standing.entrant.number][:1] for standing in found.standings}
        target = found.standings[0].entrant if found.standings else _most_promising(self.baselines)
        # Without a model to beat, the most promising entrant tells what trainings of this length lead to.
        if target is None and (first := _most_promising(self.entrants)) is not None:
            if anchor := scores.get(first.number):
                known[first.number] = anchor[:1]
            else:
                wanted.append((first.number, 0))
        course = _Course(self, target, known, scores, metrics, midway)
        wanted += course.run(wanted)
        if wanted:
            wanted += _Course(self, target, known, scores, metrics, midway, expects=False).run(wanted)
        won = next((standing for standing in course.standings if standing.passed), None)
        return Outcome(course.standings, None if wanted else won, target, tuple(wanted))

    def is_worse(self, ours: Sequence[float], theirs: Sequence[float]) -> bool | None:
        """Return whether an entrant is worse than the target in the other metric, by as many seeds of both.

        None where it is behind, and one seed does not tell the noise.
        """
        if not self.by_metric or not (behind := fmean(theirs) - fmean(ours)) > 0:
            return False
        if len(ours) < SEEDS:
            return None if math.isfinite(behind) else True
        noise = math.sqrt((variance(ours) + variance(theirs)) / 2)  # of the difference of two means of two
        return behind > T_PASS * noise

    def chance_ahead(self, ours: Sequence[float], theirs: Sequence[float]) -> float:
        """Return the chance that a model is ahead of the target, or at its score, by long trainings of both."""
        if -math.inf in ours:
            return 0.0
        lead, seeds_sd = self._lead(ours, theirs)
        return NormalDist(0, math.hypot(seeds_sd, self._later_sd)).cdf(lead)

    def is_open(self, ours: Sequence[float], theirs: Sequence[float]) -> bool:
        """Return whether more seeds may decide whether a model passes, by long trainings of it and of the target."""
        if -math.inf in ours:
            return False
        lead, seeds_sd = self._lead(ours, theirs)
        return 1 - PASS < NormalDist(self._needed, seeds_sd).cdf(lead) < PASS

    @property
    def _later_sd(self) -> float:
        """Return the deviation of the difference of two networks from what is expected of it after the race."""
        return 0.0 if self.model.later is None else self.model.later.network_sd * math.sqrt(2)

    @property
    def _needed(self) -> float:
        """Return the expected lead at which a model passes, were there no noise of seeds."""
        return NormalDist().inv_cdf(PASS) * self._later_sd

    def _lead(self, ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
        """Return a model's mean lead over the target, and its deviation between seeds."""
        if self.target_score is not None:
            return fmean(ours) - self.target_score, self.model.seed_sd / math.sqrt(len(ours))
        return fmean(ours) - fmean(theirs), self.model.seed_sd * math.sqrt(1 / len(ours) + 1 / len(theirs))

    def predicted_chance(
        self, entrant: Entrant, target: Entrant | None, theirs: Sequence[float], known: Scores, midway: Predicted
    ) -> float:
        """Return the chance that an entrant without a long training passes.

        Args:
            entrant: The entrant.
            target: The model to beat; None: `target_score` is to be reached.
            theirs: Its first long score, if there is one.
            known: Long scores, which tell the study's offset from the predictions.
            midway: Predictions from the trainings that the race has brought midway.
        """
        model, predicted = self.model, self._predicted
        offset, offset_variance = 0.0, 0.0
        if model.midway is not None and (theirs or target is None):
            offset, offset_variance = _offset(model.midway, midway, known)
            if entrant.number in midway:
                model, predicted = model.midway, midway
            else:  # what is known midway tells the offset, too
                known = {n: [value + offset] for n, value in midway.items()} | dict(known)
        if predicted is self._predicted:
            offset, variance = _offset(model, predicted, known)
            offset_variance += variance
        networks = 1
        level = self.target_score
        if level is None and theirs:
            level = fmean(theirs)
        elif level is None and target is not None:  # both are predicted, with one offset
            level, offset, offset_variance, networks = target.predicted, 0.0, 0.0, 2
        assert level is not None
        sd = math.sqrt(networks * model.network_sd**2 + offset_variance)
        return NormalDist(level + self._needed, sd).cdf(predicted[entrant.number] + offset)

    def _best(self, models: Sequence[Entrant], scores: Scores) -> Outcome:
        """Decide which model is the best: the most promising are trained, until no other is likely to be better."""
        order = sorted(models, key=lambda entrant: (-entrant.predicted, entrant.number))
        wanted: list[tuple[int, int]] = []
        trained: dict[int, Sequence[float]] = {}
        for entrant in order[:BEST_OF]:
            level, (offset, variance) = order[0].predicted, _offset(self.model, self._predicted, trained)
            if trained:
                level = max(fmean(values) for values in trained.values()) - offset
            else:  # the first one is predicted, too, with the same offset
                variance = self.model.network_sd**2
            sd = math.sqrt(variance + self.model.network_sd**2)
            if NormalDist(0, sd).cdf(entrant.predicted - level) < START:
                break
            if ours := scores.get(entrant.number, ())[:1]:
                trained |= {entrant.number: ours} if not wanted else {}
            else:
                wanted.append((entrant.number, 0))
        by_number = {entrant.number: entrant for entrant in order}
        means = {number: fmean(values) for number, values in trained.items()}
        sd = math.hypot(self.model.seed_sd, self._later_sd / math.sqrt(2))
        standings = [
            Standing(by_number[number], chance_best(number, means, sd), trained=True, decided=not wanted)
            for number in sorted(means, key=lambda number: -means[number])
        ]
        won = next((standing for standing in standings if standing.passed), None)
        return Outcome(tuple(standings), won, wanted=tuple(wanted))


class _Course:
    """The course of a race as far as scores are known, and then as it is predicted.

    Args:
        race: The rules.
        target: The model to beat; None: the race's `target_score` is to be reached.
        known: Long scores of baselines, by which the first entrants are predicted.
        scores: Of the trials that have any.
        metrics: Values of the other metric of the same trainings.
        midway: What is predicted from the trainings that are midway or have ended.
        expects: Whether a training that lacks is assumed to end as is likely; else, as lost.
    """

    def __init__(
        self,
        race: Race,
        target: Entrant | None,
        known: Scores,
        scores: Scores,
        metrics: Scores,
        midway: Predicted,
        *,
        expects: bool = True,
    ) -> None:
        self._race, self._target, self._known = race, target, dict(known)
        self._scores, self._metrics, self._ahead, self._expects = scores, metrics, midway, expects
        self._midway = {number: midway[number] for number in known if number in midway}
        self._entrants = [e for e in race.faster_first if target is None or e.speed > target.speed]
        slowest = min((entrant.speed for entrant in self._entrants), default=1.0)
        self._speed = slowest / 2 if target is None else target.speed  # of what is known to hold
        self._leaders: dict[Entrant, float] = {}  # chances of trained entrants to hold; 0 of those that did not pass
        self._seeds = Counter[int]()
        self._trained: dict[int, Standing] = {}
        self._assumed: set[int] = set()  # the entrants whose next training is wanted

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Return where all entrants stand, the fastest one first."""
        return tuple(map(self._standing, self._entrants))

    def run(self, wanted: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Run to the end, and return the trainings that lack and are not wanted yet: `AHEAD` of them with those."""
        missing: list[tuple[int, int]] = []
        while len(wanted) + len(missing) < AHEAD and (standing := self._next()) is not None:
            missing += [job for job in self._train(standing) if job not in (*wanted, *missing)]
        return missing

    def _next(self) -> Standing | None:
        """Return the entrant whose next training is worth most; None where no training is worth it.

        The first training to the end needs a `CHANCE` alone: it tells how close a candidate comes.
        """
        undecided = [s for s in self.standings if not s.decided and s.entrant.number not in self._assumed]
        best = max(undecided, key=self._worth, default=None)
        if best is None or self._worth(best) >= WORTH:
            return best
        return None if self._trained or self._assumed or best.chance < CHANCE else best

    def _train(self, standing: Standing) -> list[tuple[int, int]]:
        """Decide an entrant by its next training; return what that lacks.

        It is compared with as many seeds of the target as it has.
        """
        entrant, target = standing.entrant, self._target
        if entrant.number in self._ahead and entrant.number not in self._midway:
            self._midway[entrant.number] = self._ahead[entrant.number]
            return []
        ours, theirs = self._scores.get(entrant.number, ()), self._theirs
        seeds = self._seeds[entrant.number] + 1
        missing = [(entrant.number, seeds - 1)] if len(ours) < seeds else []
        if target is not None and len(theirs) < seeds:
            missing.append((target.number, seeds - 1))
        if missing:
            self._assumed.add(entrant.number)
            self._leaders[entrant] = float(self._expects and standing.chance >= 0.5)
        else:
            chance = self._race.chance_ahead(ours[:seeds], theirs[:seeds])
            decided = seeds == SEEDS or not self._race.is_open(ours[:seeds], theirs[:seeds])
            if target is not None and self._race.by_metric and not (decided and chance < PASS):
                both = (self._metrics[number][:seeds] for number in (entrant.number, target.number))
                worse = self._race.is_worse(*both)
                chance, decided = 0.0 if worse else chance, decided and worse is not None
            result = Standing(entrant, chance, trained=True, decided=decided)
            self._seeds[entrant.number], self._trained[entrant.number] = seeds, result
            self._known[entrant.number] = ours[:1]
            self._leaders[entrant] = 0.0 if decided and not result.passed else chance
        return missing

    @property
    def _theirs(self) -> Sequence[float]:
        return () if self._target is None else self._scores.get(self._target.number, ())

    def _worth(self, standing: Standing) -> float:
        """Return an entrant's chance times the gain in log speed if it holds, per training that it takes.

        One that is midway takes less than a whole training.
        """
        gain, none_yet = 0.0, 1.0
        for leader, chance in sorted(self._leaders.items(), key=lambda item: -item[0].speed):
            if leader != standing.entrant:
                gain += none_yet * chance * max(0.0, math.log(standing.entrant.speed / leader.speed))
                none_yet *= 1 - chance
        gain += none_yet * math.log(standing.entrant.speed / self._speed)
        lacking = 1 - MIDWAY if standing.entrant.number in self._midway and not standing.trained else 1.0
        return standing.chance * gain / lacking

    def _standing(self, entrant: Entrant) -> Standing:
        if entrant.number in self._trained:
            return self._trained[entrant.number]
        theirs = self._theirs[:1]
        chance = self._race.predicted_chance(entrant, self._target, theirs, self._known, self._midway)
        return Standing(entrant, chance, trained=False, decided=False)


def chance_best(number: int, means: Mapping[int, float], sd: float) -> float:
    """Return the chance that a model is the best of several, each known to a normal deviation `sd`.

    It is the mean of the chance that all others are below, over `QUANTILES` values of the model.
    """
    if not math.isfinite(means[number]):
        return 0.0
    others = [mean for other, mean in means.items() if other != number and math.isfinite(mean)]
    draws = (NormalDist(means[number], sd).inv_cdf((k + 0.5) / QUANTILES) for k in range(QUANTILES))
    return fmean(math.prod(NormalDist(mean, sd).cdf(value) for mean in others) for value in draws)


def _offset(model: HorizonModel, predicted: Predicted, known: Scores) -> tuple[float, float]:
    """Return a study's common offset from a model's predictions, and its variance, by the known long scores."""
    long = {n: fmean(values) for n, values in known.items() if n in predicted and values}
    return model.offset([score - predicted[n] for n, score in long.items() if math.isfinite(score)])


def _most_promising(models: Sequence[Entrant]) -> Entrant | None:
    return max(models, key=lambda entrant: (entrant.predicted, -entrant.number), default=None)
