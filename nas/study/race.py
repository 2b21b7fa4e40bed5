"""The race at the end of a search: which candidates are trained for long, and which one wins. Pure.

A search scores its candidates after a short training on few images. The order after a long training on images that
hardly repeat is another one, so the question that the user asked is decided there: which is the fastest candidate that
is at least as good as the best baseline, or a score; or, within limits and without a target, which is the best. Which
baseline is the best is decided there, too: the most promising ones are trained first.

The race goes through the candidates in one order and decides each by its own long trainings, so that its end does not
depend on how many workers trained them or on when they were killed. A candidate is trained where its predicted chance
to win is `START` or more. One that is ahead of the target with a chance of `PASS` wins. A second seed, of candidate and
target, is trained only where the first leaves the decision within the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean
from types import MappingProxyType

from nas.study.horizon import HorizonModel

START = 0.3  # predicted chance to win from which on a candidate is trained
PASS = 0.9  # chance to be ahead from which on a candidate wins
SEEDS = 2  # trainings of a candidate, at most
BEST_OF = 5  # candidates that are trained without a target, at most

Scores = Mapping[int, Sequence[float]]  # of each trial's long trainings, in the order of their seeds


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
        chance: That it is at least as good as the target; without a target, that it is the best. By its own long
            trainings where it has them, else predicted.
        trained: Whether it has long trainings.
        decided: Whether it needs none, or no more.
    """

    entrant: Entrant
    chance: float
    trained: bool
    decided: bool

    @property
    def passed(self) -> bool:
        """Return whether the entrant wins unless a faster one does."""
        return self.decided and self.trained and self.chance >= PASS


@dataclass(frozen=True)
class Outcome:
    """Where a race stands.

    Attributes:
        standings: Of the entrants up to the winner, in the order in which they are decided.
        winner: The one that has won; None while the race is open, and where none has passed.
        target: The best of the models to beat, by the long trainings that there are; None without such models.
        wanted: Number of trial and of seed (from 0) of the trainings that may still be needed, the first one first.
            A later one is needed only if the entrants before it do not win.
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
        by_metric: Whether a winner has to be as good as the target in another metric, too.
    """

    entrants: tuple[Entrant, ...]
    model: HorizonModel
    baselines: tuple[Entrant, ...] = ()
    target_score: float | None = None
    by_metric: bool = False
    faster_first: tuple[Entrant, ...] = field(init=False)

    def __post_init__(self) -> None:
        order = sorted(self.entrants, key=lambda entrant: (-entrant.speed, entrant.number))
        object.__setattr__(self, "faster_first", tuple(order))

    def outcome(self, scores: Scores, metrics: Scores = MappingProxyType({})) -> Outcome:
        """Decide by the long trainings that there are.

        Args:
            scores: Of the trials that have any; the score of a training that failed is -inf.
            metrics: Values of the other metric of the same trainings; higher is better.
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
        standings: list[Standing] = []
        for entrant in self.faster_first:
            if target is not None and entrant.speed <= target.speed:
                break
            standing, needed = self._decide(entrant, target, known, scores, metrics)
            standings.append(standing)
            wanted += [each for each in needed if each not in wanted]
            if standing.passed:
                return Outcome(tuple(standings), None if wanted else standing, target, tuple(wanted))
            if standing.trained and standing.decided:
                known[entrant.number] = scores[entrant.number][:1]
        return Outcome(tuple(standings), None, target, tuple(wanted))

    def _decide(
        self, entrant: Entrant, target: Entrant | None, known: Scores, scores: Scores, metrics: Scores
    ) -> tuple[Standing, list[tuple[int, int]]]:
        """Return an entrant's standing against the target, and the trainings that it needs.

        It is compared with as many seeds of the target as it has. What others need does not change its standing.
        """
        ours, theirs = scores.get(entrant.number, ()), () if target is None else scores.get(target.number, ())
        chance = self._predicted_chance(entrant, target, theirs[:1], known)
        if chance < START:
            return Standing(entrant, chance, trained=False, decided=True), []
        for seeds in range(1, SEEDS + 1):
            needed = [(entrant.number, seeds - 1)] if len(ours) < seeds else []
            if target is not None and len(theirs) < seeds:
                needed.append((target.number, seeds - 1))
            if needed:
                return Standing(entrant, chance, trained=seeds > 1, decided=False), needed
            worse = target is not None and self._is_worse(entrant.number, target.number, seeds, metrics)
            chance = 0.0 if worse else self.chance_ahead(ours[:seeds], theirs[:seeds])
            if not 1 - PASS < chance < PASS:
                break
        return Standing(entrant, chance, trained=True, decided=True), []

    def _is_worse(self, number: int, target: int, seeds: int, metrics: Scores) -> bool:
        """Return whether an entrant has less of the other metric than the target, by as many seeds of both."""
        return self.by_metric and fmean(metrics[number][:seeds]) < fmean(metrics[target][:seeds])

    def chance_ahead(self, ours: Sequence[float], theirs: Sequence[float]) -> float:
        """Return the chance that a model is ahead of the target, or at its score, by long trainings of both."""
        if -math.inf in ours:
            return 0.0
        level = self.target_score if self.target_score is not None else fmean(theirs)
        variance = 1 / len(ours) + (0.0 if self.target_score is not None else 1 / len(theirs))
        return NormalDist(0, self.model.seed_sd * math.sqrt(variance)).cdf(fmean(ours) - level)

    def _predicted_chance(
        self, entrant: Entrant, target: Entrant | None, theirs: Sequence[float], known: Scores
    ) -> float:
        offset, offset_variance = self._offset(known)
        networks = 1
        level = self.target_score
        if level is None and theirs:
            level = fmean(theirs)
        elif level is None and target is not None:  # both are predicted, with one offset
            level, offset, offset_variance, networks = target.predicted, 0.0, 0.0, 2
        assert level is not None
        sd = math.sqrt(networks * self.model.network_sd**2 + offset_variance)
        return NormalDist(0, sd).cdf(entrant.predicted + offset - level)

    def _offset(self, known: Scores) -> tuple[float, float]:
        """Return the study's common offset from the predictions, and its variance, by the known long scores."""
        predicted = {entrant.number: entrant.predicted for entrant in (*self.entrants, *self.baselines)}
        found = [fmean(values) - predicted[n] for n, values in known.items() if values and -math.inf not in values]
        return self.model.offset(found)

    def _best(self, models: Sequence[Entrant], scores: Scores) -> Outcome:
        """Decide which model is the best: the most promising are trained, until no other is likely to be better."""
        order = sorted(models, key=lambda entrant: (-entrant.predicted, entrant.number))
        wanted: list[tuple[int, int]] = []
        trained: dict[int, Sequence[float]] = {}
        for entrant in order[:BEST_OF]:
            level, (offset, variance) = order[0].predicted, self._offset(trained)
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
        best_first = sorted(trained, key=lambda number: -fmean(trained[number]))
        sd = self.model.seed_sd * math.sqrt(2)
        standings = []
        for number in best_first:
            rivals = [fmean(trained[other]) for other in best_first if other != number]
            lead = fmean(trained[number]) - max(rivals, default=-math.inf)
            chance = NormalDist(0, sd).cdf(lead) if math.isfinite(lead) else float(lead > 0)
            standings.append(Standing(by_number[number], chance, trained=True, decided=not wanted))
        won = standings[0] if standings and not wanted and math.isfinite(fmean(trained[best_first[0]])) else None
        return Outcome(tuple(standings), won, wanted=tuple(wanted))


def _most_promising(models: Sequence[Entrant]) -> Entrant | None:
    return max(models, key=lambda entrant: (entrant.predicted, -entrant.number), default=None)
