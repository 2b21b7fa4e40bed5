"""An exact Gaussian process over features, with one length scale per group of features, in numpy.

k(x, x') = s^2 exp(-sum over groups g of theta_g |x_g - x'_g|^2) + v z.z', where z are centered logarithms of sizes. The
second term is linear regression on z with a normal prior of its slopes; v may be 0. The diagonal has two more terms: a
nugget, for the part of a value that the features don't explain, and the known noise of each observation. Scales are
maximum a posteriori estimates (L-BFGS with exact gradients, from one fixed start), so that equal data give equal
results. Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 (2.7 of the linear
term) and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

Array = NDArray[np.float64]

SIZES = -1  # the group of features that enter the linear term only
MAX_FITTED = 250  # observations that the scales are fitted to, evenly spread; the posterior uses all observations
ITERATIONS = 30
# Normal priors of the logarithms (mean, deviation), for values of mean 0 and variance 1 and features of similar scale.
THETA, SIGNAL, NUGGET = (np.log(0.2), 1.5), (0.0, 1.0), (np.log(0.01), 1.0)
BOUNDS = ((-7.0, 4.0), (-3.0, 4.0), (-9.0, 1.0))
# Of the linear term's variance: an exponential prior, whose density is highest at 0, and bounds.
SLOPES, SLOPES_BOUNDS = 1.0, (0.0, 50.0)
JITTER = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A fitted process; made by `fit`. Arguments and results are in the units of the values."""

    features: Array  # (n, d), centered and scaled
    center: Array  # (d,)
    scaling: Array  # (d,)
    sizes: NDArray[np.bool_]  # (d,): which features are in the linear term
    slopes: float  # variance of the linear term, mean over the observations, in units of the standardized values
    shift: float
    unit: float
    signal: float  # variance, in units of the standardized values
    nugget: float  # the same
    factor: Array  # (n, n) lower Cholesky factor of the covariance of the values
    weights: Array  # (n,)

    @classmethod
    def fit(cls, features: Array, values: Array, *, groups: NDArray[np.int64], noise: Array) -> GaussianProcess:
        """Fit a process to one observation or more.

        Args:
            features: (n, d).
            values: (n,).
            groups: the group of each feature, (d,), numbered from 0 without a gap; `SIZES` for logarithms of sizes.
            noise: known variance of each value, (n,).
        """
        shift, unit = float(values.mean()), float(values.std()) or 1.0
        standard, variance = (values - shift) / unit, noise / unit**2
        some = np.unique(np.linspace(0, len(values) - 1, MAX_FITTED).round().astype(int))
        sizes = groups == SIZES
        center = np.where(sizes, features.mean(axis=0), 0.0)
        spread = float(((features - center)[:, sizes] ** 2).sum(axis=1).mean())
        scaling = np.where(sizes, 1 / np.sqrt(spread) if spread > 0 else 0.0, 1.0)
        scaled = (features - center) * scaling
        theta, signal, nugget, slopes = _scales(scaled[some], standard[some], groups, variance[some])
        factors = np.where(sizes, np.sqrt(slopes), np.sqrt([*theta, 0.0])[groups])
        none = np.empty(0)
        scales = (sizes, slopes, shift, unit, signal, nugget)
        process = cls(scaled * factors, center, scaling * factors, *scales, factor=none, weights=none)
        covariance = process.covariance(process.features) + np.diag(variance + nugget + JITTER)
        factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        return replace(process, factor=factor, weights=cho_solve((factor, True), standard))

    @property
    def linear_share(self) -> float:
        """Return the linear term's share of the values' prior variance, 0 to 1, mean over the observations."""
        return self.slopes / (self.slopes + self.signal + self.nugget)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the value at each row, (m,) each, with the nugget."""
        scaled = self._scaled(features)
        covariance = self.covariance(scaled)
        explained = solve_triangular(self.factor, covariance.T, lower=True, check_finite=False)
        prior = self.signal + (scaled[:, self.sizes] ** 2).sum(axis=1)
        variance = np.maximum(prior - (explained**2).sum(axis=0), 0.0) + self.nugget
        return self.shift + self.unit * (covariance @ self.weights), self.unit * np.sqrt(variance)

    def covariance(self, scaled: Array) -> Array:
        """Return the covariance (m, n) of scaled rows (m, d) with those of the process, without nugget and noise."""
        radial = ~self.sizes
        distances = _squared(scaled[:, radial], self.features[:, radial])
        linear = scaled[:, self.sizes] @ self.features[:, self.sizes].T
        covariance: Array = self.signal * np.exp(-distances) + linear
        return covariance

    def _scaled(self, features: Array) -> Array:
        scaled: Array = (features - self.center) * self.scaling
        return scaled

    def with_pending(self, features: Array) -> GaussianProcess:
        """Return the process as if a value had been observed at each row (m, d), equal to its mean.

        Means stay the same, deviations shrink. Source: the kriging believer of Ginsbourger et al., 2010.
        """
        n, m = len(self.features), len(features)
        process = replace(self, features=np.vstack([self.features, self._scaled(features)]))
        covariance = process.covariance(process.features[n:]) + self.nugget * np.eye(m, n + m, n)
        across = solve_triangular(self.factor, covariance[:, :n].T, lower=True, check_finite=False)
        left = covariance[:, n:] - across.T @ across + JITTER * np.eye(m)
        factor = np.block([[self.factor, np.zeros((n, m))], [across.T, np.linalg.cholesky(left)]])
        return replace(process, factor=factor, weights=np.concatenate([self.weights, np.zeros(m)]))

    def smoothed(self, values: Array, noise: Array) -> Array:
        """Return the expected values (n,) of the observations without their noise.

        The nugget belongs to a value, the noise doesn't: without noise the values are returned unchanged.

        Args:
            values: those that the process was fitted to, (n,).
            noise: their known variance, (n,).
        """
        variance = noise / self.unit**2
        # The covariance is K + nugget + noise, so the expected noise of the observations is noise times the weights.
        smoothed: Array = values - self.unit * variance * self.weights
        return smoothed


def _squared(a: Array, b: Array) -> Array:
    """Return squared distances (n, m) between rows."""
    distances: Array = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.maximum(distances, 0.0)


def _scales(
    features: Array, values: Array, groups: NDArray[np.int64], noise: Array
) -> tuple[Array, float, float, float]:
    """Return theta (one per group), variances of signal, nugget and linear term with the highest posterior density.

    The variance of a linear term without sizes, or of sizes that are all equal, is 0.
    """
    n, count = len(values), int(groups.max(initial=-1)) + 1
    pairs = np.tril_indices(n, -1)  # all matrices here are symmetric: their lower triangles are enough
    distances = np.array([_squared(f, f)[pairs] for f in (features[:, groups == g] for g in range(count))])
    distances = distances.reshape(count, len(pairs[0]))
    sizes = features[:, groups == SIZES]
    linear, own_linear = (sizes @ sizes.T)[pairs], (sizes**2).sum(axis=1)
    priors = [THETA] * count + [SIGNAL, NUGGET]
    start, spread = np.array([p[0] for p in priors]), np.array([p[1] for p in priors])

    def loss(scales: Array) -> tuple[float, Array]:
        logs, slopes = scales[: count + 2], scales[count + 2 :]  # `slopes` is empty without a linear term
        theta, signal, nugget = np.exp(logs[:count]), np.exp(logs[-2]), np.exp(logs[-1])
        kernel = signal * np.exp(-(theta @ distances))
        covariance = np.diag(signal + slopes.sum() * own_linear + noise + nugget + JITTER)
        covariance[pairs] = kernel + slopes.sum() * linear
        factor = np.linalg.cholesky(covariance)
        weights = cho_solve((factor, True), values, check_finite=False)
        inverse, _ = dpotri(factor, lower=True)
        by_covariance = inverse[pairs] - weights[pairs[0]] * weights[pairs[1]]  # of both places of a pair
        by_diagonal = 0.5 * (np.diag(inverse) - weights**2)
        pulled = by_covariance * kernel
        by_signal = pulled.sum() + signal * by_diagonal.sum()
        gradient = np.concatenate([-theta * (distances @ pulled), [by_signal, nugget * by_diagonal.sum()]])
        off = (logs - start) / spread
        value = 0.5 * values @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off + slopes.sum() / SLOPES
        by_slopes = np.full(len(slopes), by_covariance @ linear + by_diagonal @ own_linear + 1 / SLOPES)
        return float(value), np.concatenate([gradient + off / spread, by_slopes])

    bounds = [BOUNDS[0]] * count + [*BOUNDS[1:]]
    if sizes.any():
        start_scales, bounds = np.append(start, SLOPES), [*bounds, SLOPES_BOUNDS]
    else:
        start_scales = start
    options = {"maxiter": ITERATIONS}
    scales = minimize(loss, start_scales, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    theta, signal, nugget = np.exp(scales[:count]), np.exp(scales[count]), np.exp(scales[count + 1])
    return theta, float(signal), float(nugget), float(scales[count + 2 :].sum())
