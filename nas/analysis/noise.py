"""Noise of seeds and timings: intervals of scores, chances to be on the front. Pure.

Assumptions: scores are normal over seeds, with one standard deviation for all candidates that is estimated with limited
degrees of freedom (so means follow Student's t); the logarithm of a speed is normal with its 95 % interval, each side
by itself, and no wider than from half to twice its value. Of four candidates or more, true scores are normal too, with
the mean and the spread of the given ones, so that the best of many is drawn lower than its lucky score (James and
Stein, 1961). Not modeled: differences between process starts (the A/A floor of `nas.remeasure`), and images other than
the held-out ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from nas.numbers import fixed_interval
from nas.study.records import Measurement, StudyInfo
from nas.study.seed_noise import study_noise
from nas.study.timing_doubts import bounded_interval

Array = NDArray[np.float64]

CONFIDENCE_LEVEL = 0.95
DRAWS = 10_000  # a chance is off by 0.01 at most (95 %)
Z_OF_INTERVAL = 1.959964  # of a 95 % interval
MIN_SHRUNK = 4  # candidates: of fewer, the spread of their true scores is unknown
NO_SCORE_INTERVAL = "unknown: one seed only"  # in place of an interval


@dataclass(frozen=True)
class SeedScatter:
    """Standard deviation of score between training seeds, the same for all candidates.

    A deviation of another study serves chances, which are then called assumed. It gives no score an interval.

    Attributes:
        sd: The standard deviation.
        degrees: Degrees of freedom of its estimate.
        elsewhere: The other study that it was estimated in; "" for this one, from candidates with two seeds or more.
    """

    sd: float
    degrees: int
    elsewhere: str = ""

    @property
    def measured(self) -> bool:
        """Return whether this study measured it."""
        return not self.elsewhere

    def half_width(self, seeds: int, compared: int = 1) -> float | None:
        """Return half the 95 % interval (Student's t) of a mean over `seeds` seeds; None where it is not measured.

        Args:
            seeds: Seeds of the mean.
            compared: Means of which this one was chosen; the intervals of all hold together then (Bonferroni).
        """
        if not self.measured:
            return None
        outside = (1 - CONFIDENCE_LEVEL) / compared
        return float(stdtrit(self.degrees, 1 - outside / 2)) * self.sd / math.sqrt(seeds)

    def interval_words(self, score: float, seeds: int) -> str:
        """Return the 95 % interval of a mean score over `seeds` seeds, or why there is none, for tables and cards."""
        half = self.half_width(seeds)
        return NO_SCORE_INTERVAL if half is None else fixed_interval(score - half, score + half, 4)

    @property
    def words(self) -> str:
        """Return the deviation with its source, for notes and cards."""
        if self.measured:
            return f"{self.sd:.4f} (measured in this study, {self.degrees} degrees of freedom)"
        return (
            f"assumed to be {self.sd:.4f}, that of another study ({self.elsewhere}); backbone-nas retrain measures it"
        )


def assumed_scatter(info: StudyInfo) -> SeedScatter:
    """Return the scatter to assume of a study's last rung until the study has measured its own."""
    noise = study_noise(info)
    return SeedScatter(noise.deviation, noise.architectures, noise.source)


def pooled_scatter(scores: Iterable[Sequence[float]]) -> SeedScatter | None:
    """Pool the scatter between seeds over candidates: one candidate's two or three seeds alone say little about it.

    Args:
        scores: each candidate's scores, one per seed.

    Returns:
        The scatter; None where no candidate has two seeds.
    """
    repeated = [values for values in scores if len(values) > 1]
    degrees = sum(len(values) - 1 for values in repeated)
    if not degrees:
        return None
    means = [math.fsum(values) / len(values) for values in repeated]
    squares = (math.fsum((v - mean) ** 2 for v in values) for values, mean in zip(repeated, means, strict=True))
    return SeedScatter(math.sqrt(math.fsum(squares) / degrees), degrees)


@dataclass(frozen=True)
class CandidateEstimate:
    """A candidate's mean score over its seeds, and its speed with the 95 % interval."""

    score: float
    seeds: int
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, score: float, seeds: int, m: Measurement) -> CandidateEstimate:
        """Return an estimate with the speed of a measurement."""
        return cls(score, seeds, m.ratio, *bounded_interval(m))


def front_chances(estimates: Sequence[CandidateEstimate], scatter: SeedScatter, draws: int = DRAWS) -> list[float]:
    """Return the chance of each candidate to be on the Pareto front of score and speed."""
    if not estimates:
        return []
    rng = np.random.default_rng(0)
    score = draw_scores([e.score for e in estimates], [e.seeds for e in estimates], scatter, draws, rng)
    return [float(share) for share in _non_dominated(score, _draw_speeds(estimates, draws, rng)).mean(axis=0)]


def draw_scores(
    means: Sequence[float], seeds: Sequence[int], scatter: SeedScatter, draws: int, rng: np.random.Generator
) -> Array:
    """Draw true mean scores, (draws, candidates), given each candidate's mean over its number of seeds."""
    sd = scatter.sd * np.sqrt(scatter.degrees / rng.chisquare(scatter.degrees, (draws, 1)))
    noise = rng.standard_normal((draws, len(means)))
    values, counts, count = np.asarray(means, dtype=float), np.asarray(seeds), len(means)
    lucky = np.zeros(count)  # share of each mean's distance from the mean of all that is expected to be luck
    if count >= MIN_SHRUNK and (spread := float(values.var(ddof=1))) > 0:
        lucky = np.minimum(1.0, (count - 3) / (count - 1) * scatter.sd**2 / counts / spread)
    expected = values + lucky * (values.mean() - values)
    drawn: Array = expected + sd * np.sqrt((1 - lucky + lucky / max(1, count)) / counts) * noise
    return drawn


def _draw_speeds(estimates: Sequence[CandidateEstimate], draws: int, rng: np.random.Generator) -> Array:
    """Draw logarithms of speeds, (draws, candidates)."""
    value, low, high = (np.log([getattr(e, name) for e in estimates]) for name in ("ratio", "low", "high"))
    z = rng.standard_normal((draws, len(estimates))) / Z_OF_INTERVAL
    drawn: Array = value + z * np.where(z > 0, np.maximum(high - value, 0), np.maximum(value - low, 0))
    return drawn


def _non_dominated(score: Array, speed: Array) -> NDArray[np.bool_]:
    """Mark the front of each draw, (draws, candidates); equal candidates do not dominate each other."""
    order = np.lexsort((-score, -speed), axis=-1)  # fastest first; of equally fast ones, the best score first
    score, speed = np.take_along_axis(score, order, axis=1), np.take_along_axis(speed, order, axis=1)
    on_front = np.empty(score.shape, dtype=bool)
    best, speed_of_best = np.full(len(score), -np.inf), np.full(len(score), np.inf)
    for i in range(score.shape[1]):
        better = score[:, i] > best
        on_front[:, i] = better | ((score[:, i] == best) & (speed[:, i] == speed_of_best))
        best, speed_of_best = np.where(better, score[:, i], best), np.where(better, speed[:, i], speed_of_best)
    unsorted = np.empty_like(on_front)
    np.put_along_axis(unsorted, order, on_front, axis=1)
    return unsorted
