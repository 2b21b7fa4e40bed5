"""A Gaussian process over features, with a length scale a group of features: exact, in numpy.

k(x, x') = s^2 exp(-sum over groups g of theta_g |x_g - x'_g|^2), plus on the diagonal a nugget, which is what the
features don't tell of a value, and the known noise of each observation. Scales are found by maximum a posteriori
(L-BFGS with exact gradients, from one fixed start), so that equal data give equal answers.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

FITTED_ON = 250  # observations that the scales are fitted to, evenly spread over all; the posterior knows all
ITERATIONS = 30
# Prior of the logarithms: means and deviations; values have mean 0 and variance 1, features about the same.
THETA, SIGNAL, NUGGET = (np.log(0.2), 1.5), (0.0, 1.0), (np.log(0.01), 1.0)
BOUNDS = ((-7.0, 4.0), (-3.0, 4.0), (-9.0, 1.0))
JITTER = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """Made by `fit`. All that is asked and answered is in the units of the values."""

    features: Array  # (n, d), scaled
    scaling: Array  # (d,)
    shift: float
    unit: float
    signal: float  # variances, of values that were standardized
    nugget: float
    factor: Array  # (n, n) lower Cholesky factor of the covariance of the values
    weights: Array  # (n,)

    @classmethod
    def fit(cls, features: Array, values: Array, *, groups: NDArray[np.int64], noise: Array) -> GaussianProcess:
        """From features (n, d), values (n,), the group of each feature (d,) and the noise variance of each value (n,).

        Groups are numbered from 0 without a gap; n is 1 or more.
        """
        shift, unit = float(values.mean()), float(values.std()) or 1.0
        standard, variance = (values - shift) / unit, noise / unit**2
        some = np.unique(np.linspace(0, len(values) - 1, FITTED_ON).round().astype(int))
        theta, signal, nugget = _scales(features[some], standard[some], groups, variance[some])
        scaling = np.sqrt(theta)[groups]
        scaled = features * scaling
        covariance = signal * np.exp(-_squared(scaled, scaled)) + np.diag(variance + nugget + JITTER)
        factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        weights: Array = cho_solve((factor, True), standard)
        return cls(scaled, scaling, shift, unit, signal, nugget, factor, weights)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the value at each row, (m,) each, the nugget included."""
        covariance = self.signal * np.exp(-_squared(features * self.scaling, self.features))
        explained = solve_triangular(self.factor, covariance.T, lower=True, check_finite=False)
        variance = np.maximum(self.signal - (explained**2).sum(axis=0), 0.0) + self.nugget
        return self.shift + self.unit * (covariance @ self.weights), self.unit * np.sqrt(variance)

    def expecting(self, features: Array) -> GaussianProcess:
        """The same where the values at these rows (m, d) are on their way: as if each had come out at its mean.

        Means stay as they are, doubt shrinks. Source: the kriging believer of Ginsbourger et al., 2010.
        """
        scaled = np.vstack([self.features, features * self.scaling])
        n, m = len(self.features), len(features)
        covariance = self.signal * np.exp(-_squared(scaled[n:], scaled)) + self.nugget * np.eye(m, n + m, n)
        across = solve_triangular(self.factor, covariance[:, :n].T, lower=True, check_finite=False)
        left = covariance[:, n:] - across.T @ across + JITTER * np.eye(m)
        factor = np.block([[self.factor, np.zeros((n, m))], [across.T, np.linalg.cholesky(left)]])
        return replace(self, features=scaled, factor=factor, weights=np.concatenate([self.weights, np.zeros(m)]))

    def smoothed(self, values: Array, noise: Array) -> Array:
        """What the observed nets are worth, their own noise taken off: (n,), of the values (n,) that it was fitted to.

        Without noise a net is worth what was observed; the nugget is its own, the noise is not.
        """
        variance = noise / self.unit**2
        # Covariance is K + nugget + noise, so what the model leaves of the noise is noise times the weights.
        smoothed: Array = values - self.unit * variance * self.weights
        return smoothed


def _squared(a: Array, b: Array) -> Array:
    """Squared distances (n, m) between rows."""
    distances: Array = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.maximum(distances, 0.0)


def _scales(features: Array, values: Array, groups: NDArray[np.int64], noise: Array) -> tuple[Array, float, float]:
    """theta (a group), signal variance and nugget with the highest posterior density."""
    n, count = len(values), int(groups.max(initial=-1)) + 1
    distances = np.array([_squared(f, f).ravel() for f in (features[:, groups == g] for g in range(count))])
    distances = distances.reshape(count, n * n)
    priors = [THETA] * count + [SIGNAL, NUGGET]
    start, spread = np.array([p[0] for p in priors]), np.array([p[1] for p in priors])
    eye = np.eye(n)

    def loss(logs: Array) -> tuple[float, Array]:
        theta, signal, nugget = np.exp(logs[:count]), np.exp(logs[-2]), np.exp(logs[-1])
        kernel = signal * np.exp(-(theta @ distances)).reshape(n, n)
        factor = np.linalg.cholesky(kernel + np.diag(noise + nugget + JITTER))
        inverse = cho_solve((factor, True), eye)
        weights = inverse @ values
        by_kernel = 0.5 * (inverse - np.outer(weights, weights))
        pulled = (by_kernel * kernel).ravel()
        gradient = np.concatenate([-theta * (distances @ pulled), [pulled.sum(), nugget * np.trace(by_kernel)]])
        off = (logs - start) / spread
        value = 0.5 * values @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
        return float(value), gradient + off / spread

    bounds = [BOUNDS[0]] * count + [*BOUNDS[1:]]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS}).x
    return np.exp(found[:count]), float(np.exp(found[-2])), float(np.exp(found[-1]))
