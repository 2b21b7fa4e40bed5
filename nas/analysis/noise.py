"""Noise of seeds and timings: intervals of scores, chances to be on the front. Pure.

Assumptions: scores are normal over seeds. A candidate's variance is a weighted mean of its own seeds' and of the
typical one (`SeedScatter`), so that a network whose seeds disagree has a wider interval; means follow Student's t.
Baselines have a variance of their own. The logarithm of a speed is normal with its 95 % interval over processes, each
side by itself. Of four candidates or more, true scores are normal too, with the mean and the spread of the given ones,
so that the best of many near-equals is drawn lower than its lucky score (James and Stein, 1961); among candidates that
differ much more than seeds do, as on a whole front, this changes next to nothing. Not modeled: images other than the
held-out ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, stdtrit

from nas.numbers import fixed_interval, plural
from nas.study.records import Measurement, StudyInfo
from nas.study.seed_noise import study_noise
from nas.study.timing_doubts import repeated_interval

Array = NDArray[np.float64]

CONFIDENCE_LEVEL = 0.95
DRAWS = 10_000  # a chance is off by 0.01 at most (95 %)
Z_OF_INTERVAL = 1.959964  # of a 95 % interval
MIN_REPEATED = 10  # candidates with two seeds: of fewer, how much their deviations differ cannot be told
BELIEVED_DEGREES = 5.0  # of the prior, within a factor of e; with this belief seven searches' candidates have 5 to 11
MIN_SHRUNK = 4  # candidates: of fewer, the spread of their true scores is unknown
NO_SCORE_INTERVAL = "unknown: one seed only"  # in place of an interval


@dataclass(frozen=True)
class VariancePrior:
    """Distribution of the candidates' variances between seeds: scaled inverse chi-squared.

    Attributes:
        sd: The typical standard deviation.
        degrees: Degrees of freedom with which the typical variance counts against a candidate's own. The more there
            are, the more alike the candidates are.
    """

    sd: float
    degrees: float


@dataclass(frozen=True)
class SeedScatter:
    """Standard deviations of candidates' scores between training seeds.

    Two or three seeds of one candidate say little about its deviation, and candidates differ in it. So its variance is
    estimated as the mean of its own seeds' and of the typical one, weighted by degrees of freedom (empirical Bayes;
    Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments",
    2004). Without a prior, the deviation is the same for all.

    A deviation of another study serves chances, which are then called assumed. It gives no score an interval.

    Attributes:
        sd: The standard deviation, pooled over the candidates.
        degrees: Degrees of freedom of its estimate.
        elsewhere: Other models that it was estimated from; "" for those that it is for, with two seeds or more.
        prior: How the candidates' deviations differ; None where too few candidates have two seeds to tell.
        baselines: The scatter of the baselines; None where it is that of the candidates.
    """

    sd: float
    degrees: int
    elsewhere: str = ""
    prior: VariancePrior | None = None
    baselines: SeedScatter | None = None

    def of_kind(self, baseline: object) -> SeedScatter:
        """Return the scatter of baselines or of candidates; a model's `baseline` is true of baselines."""
        return self.baselines if baseline and self.baselines else self

    @property
    def measured(self) -> bool:
        """Return whether this study measured it."""
        return not self.elsewhere

    def of(self, scores: Sequence[float]) -> tuple[float, float]:
        """Return the standard deviation of one candidate and its degrees of freedom, given its scores by seed."""
        if self.prior is None:
            return self.sd, self.degrees
        degrees = self.prior.degrees + len(scores) - 1
        squares = self.prior.degrees * self.prior.sd**2 + _squares(scores)
        return math.sqrt(squares / degrees), min(degrees, self.degrees)

    def half_width(self, scores: Sequence[float], compared: int = 1) -> float | None:
        """Return half the 95 % interval (Student's t) of a candidate's mean score; None where no scatter is measured.

        Args:
            scores: Its scores, one per seed.
            compared: Means of which this one was chosen; the intervals of all hold together then (Bonferroni).
        """
        if not self.measured or not scores:
            return None
        sd, degrees = self.of(scores)
        outside = (1 - CONFIDENCE_LEVEL) / compared
        return float(stdtrit(degrees, 1 - outside / 2)) * sd / math.sqrt(len(scores))

    def interval_words(self, scores: Sequence[float], compared: int = 1) -> str:
        """Return the 95 % interval of a candidate's mean score, or why there is none; arguments as of `half_width`."""
        half, mean = self.half_width(scores, compared), math.fsum(scores) / len(scores)
        return NO_SCORE_INTERVAL if half is None else fixed_interval(mean - half, mean + half, 4)

    @property
    def sd_words(self) -> str:
        """Return the deviation alone, and that of baselines."""
        of = self.baselines
        return f"{self.sd:.4f}" + (f", of baselines {of.sd:.4f}" if of and of.measured else "")

    @property
    def words(self) -> str:
        """Return the deviation with its source, for notes and cards."""
        if self.measured:
            differ = "" if self.prior is None else "; larger for networks whose seeds disagree more"
            words = f"{self.sd:.4f} (measured in this study, {plural(self.degrees, 'degree')} of freedom{differ})"
            of = self.baselines
            if of is None:
                return words
            if not of.measured:
                return f"{words}; of baselines unknown, which have one seed"
            return f"{words}; of baselines {of.sd:.4f} ({plural(of.degrees, 'degree')} of freedom)"
        return f"assumed to be {self.sd:.4f}, that of {self.elsewhere}; backbone-nas retrain measures it"


def assumed_scatter(info: StudyInfo) -> SeedScatter:
    """Return the scatter to assume of a study's last rung until the study has measured its own."""
    noise = study_noise(info)
    return SeedScatter(noise.deviation, noise.architectures, f"another study ({noise.source})")


def measured_scatter(scores: Iterable[Sequence[float]]) -> SeedScatter | None:
    """Estimate the scatter between seeds from all candidates together.

    Args:
        scores: each candidate's scores, one per seed.

    Returns:
        The scatter; None where no candidate has two seeds.
    """
    repeated = [values for values in scores if len(values) > 1]
    if not repeated:
        return None
    degrees = np.asarray([len(values) - 1 for values in repeated])
    squares = np.asarray([_squares(values) for values in repeated])
    total = int(degrees.sum())
    pooled = math.fsum(squares) / total
    told = len(repeated) >= MIN_REPEATED and pooled > 0
    return SeedScatter(math.sqrt(pooled), total, prior=_prior(squares / degrees, degrees, pooled) if told else None)


def scatter_by_kind(
    models: Iterable[tuple[Sequence[float], object]], assumed: SeedScatter | None = None
) -> SeedScatter | None:
    """Estimate the scatter between seeds, that of baselines by itself.

    Baselines are few and decide half of every comparison. In retrained searches they scattered more than candidates, up
    to four times as much; with one deviation for both, 82 to 87 % of their 95 % intervals held
    (docs/results/index.md, "How sure is a mean over seeds?"). A kind without two seeds has no interval.

    Args:
        models: Each model's scores, one per seed, and whether it is a baseline.
        assumed: The scatter of candidates where none of them has two seeds.

    Returns:
        The scatter; None where no model has two seeds, and where no candidate has and none is assumed.
    """
    kinds: dict[bool, list[Sequence[float]]] = {False: [], True: []}
    for scores, baseline in models:
        kinds[bool(baseline)].append(scores)
    candidates, baselines = measured_scatter(kinds[False]), measured_scatter(kinds[True])
    if candidates is None:
        return None if baselines is None or assumed is None else replace(assumed, baselines=baselines)
    if baselines is None and kinds[True]:
        baselines = replace(candidates, elsewhere="the candidates of this study")
    return replace(candidates, baselines=baselines)


def _squares(scores: Sequence[float]) -> float:
    """Return the sum of squared distances from the mean."""
    mean = math.fsum(scores) / len(scores)
    return math.fsum((score - mean) ** 2 for score in scores)


def _prior(variances: Array, degrees: NDArray[np.int_], pooled: float) -> VariancePrior:
    """Fit a prior to candidates' variances, (candidates,), each with its degrees of freedom.

    A variance follows the prior's times an F distribution. The most likely prior of a grid is taken, with a log-normal
    belief about its degrees, which decides where the variances do not tell.
    """
    typical = pooled * np.geomspace(0.05, 2.0, 40)[:, None, None]
    alike = np.geomspace(2.0, 500.0, 40)[None, :, None]
    kept = np.maximum(variances, 1e-6 * pooled)  # with one degree of freedom, 0 has an infinite density
    odds = degrees * kept / typical / alike  # the density of F by SciPy takes fifty times as long
    density = degrees / 2 * np.log(odds) - (degrees + alike) / 2 * np.log1p(odds) - betaln(degrees / 2, alike / 2)
    fit = density.sum(axis=-1) - np.log(alike[..., 0] / BELIEVED_DEGREES) ** 2 / 2
    variance, strength = np.unravel_index(fit.argmax(), fit.shape)
    return VariancePrior(math.sqrt(typical[variance, 0, 0]), float(alike[0, strength, 0]))


def lead_half_widths(
    scatter: SeedScatter,
    candidate: Sequence[float],
    baseline: Sequence[float],
    candidates: int = 1,
    baselines: int = 1,
) -> tuple[float, float] | None:
    """Return both sides of half the 95 % interval of a candidate's mean score less a baseline's: their squares add up.

    In simulations of 25 candidates and 3 baselines, of which one is compared with all, the intervals of all 25 leads
    held together in 95 to 98 % (`experiments.lead_coverage`).

    Args:
        scatter: Between seeds.
        candidate: Its scores, one per seed.
        baseline: Its scores, one per seed.
        candidates: Candidates of which this one was chosen.
        baselines: Baselines of which this one is the best.

    Returns:
        The candidate's side and the baseline's; None where the scatter of one of them is not measured.
    """
    ours = scatter.of_kind(baseline=False).half_width(candidate, candidates)
    theirs = scatter.of_kind(baseline=True).half_width(baseline, baselines)
    return None if ours is None or theirs is None else (ours, theirs)


@dataclass(frozen=True)
class CandidateEstimate:
    """A candidate's scores, one per seed, and its speed with the 95 % interval."""

    scores: Sequence[float]
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Sequence[float], m: Measurement) -> CandidateEstimate:
        """Return an estimate with the speed of a measurement."""
        return cls(scores, m.ratio, *repeated_interval(m))


def front_chances(estimates: Sequence[CandidateEstimate], scatter: SeedScatter, draws: int = DRAWS) -> list[float]:
    """Return the chance of each candidate to be on the Pareto front of score and speed."""
    if not estimates:
        return []
    rng = np.random.default_rng(0)
    score = draw_scores([e.scores for e in estimates], [scatter] * len(estimates), draws, rng)
    return [float(share) for share in _non_dominated(score, _draw_speeds(estimates, draws, rng)).mean(axis=0)]


def draw_scores(
    scores: Sequence[Sequence[float]], scatters: Sequence[SeedScatter], draws: int, rng: np.random.Generator
) -> Array:
    """Draw true mean scores, (draws, candidates), given each candidate's scores by seed and the scatter of its kind."""
    counts, count = np.asarray([len(values) for values in scores]), len(scores)
    means = np.asarray([math.fsum(values) / len(values) for values in scores])
    deviations = [scatter.of(values) for scatter, values in zip(scatters, scores, strict=True)]
    estimated, degrees = (np.asarray(column, dtype=float) for column in zip(*deviations, strict=True))
    # The doubt about one deviation for all of a kind is the same for all of them.
    first = [scatters.index(scatter) if scatter.prior is None else i for i, scatter in enumerate(scatters)]
    sd = estimated * np.sqrt(degrees / rng.chisquare(degrees, (draws, count)))[:, first]
    noise = rng.standard_normal((draws, count))
    lucky = np.zeros(count)  # share of each mean's distance from the mean of all that is expected to be luck
    if count >= MIN_SHRUNK and (spread := float(means.var(ddof=1))) > 0:
        lucky = np.minimum(1.0, (count - 3) / (count - 1) * estimated**2 / counts / spread)
    expected = means + lucky * (means.mean() - means)
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
