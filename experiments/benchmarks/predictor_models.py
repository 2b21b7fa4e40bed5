"""Define other latency models, which `experiments.benchmarks.predictor` compares with `nas.samplers.latency`.

Each is fitted on observations, and then predicts seconds for specs of space "micro".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from nas.measure.counts import totals
from nas.samplers.latency.predictor import Array, LatencyModel, Observation, OperatorRates
from nas.samplers.latency.stage_costs import StageCost, stage_costs
from search_space import SPACES, ArchSpec

SPACE, BATCH, RESOLUTION_PX = "micro", 16, 64
Seconds = Callable[[Sequence[ArchSpec]], Array]
Fit = Callable[[Sequence[Observation]], Seconds]


def encoded(specs: Sequence[ArchSpec]) -> Array:
    """Encode numbers as logarithms, the rest as one-hot; inactive genes are the mean of their choices, or zeros."""
    space = SPACES[SPACE]
    rows = []
    for params in map(space.encode, specs):
        row: list[float] = []
        active_genes = set(space.active(params))
        for gene in space.genes:
            value, active = params[gene.name], gene in active_genes
            if all(isinstance(choice, int | float) for choice in gene.choices):
                logs = np.log2(np.array(gene.choices, dtype=float))
                row.append(float(np.log2(value) if active else logs.mean()))  # type: ignore[arg-type]
            else:
                row += [float(active and value == choice) for choice in gene.choices]
        rows.append(row)
    return np.array(rows)


def counted(*names: str) -> Callable[[Sequence[ArchSpec]], Array]:
    """Return logarithms of the counts of `nas.measure.counts`."""
    return lambda specs: np.log([[getattr(totals(s, RESOLUTION_PX), name) for name in names] for s in specs])


def power_law(features: Callable[[Sequence[ArchSpec]], Array]) -> Fit:
    """Fit log seconds = a + b . features by least squares."""

    def fit(seen: Sequence[Observation]) -> Seconds:
        def design(specs: Sequence[ArchSpec]) -> Array:
            return np.column_stack([features(specs), np.ones(len(specs))])

        coefficients = np.linalg.lstsq(design(_specs(seen)), np.log(_seconds(seen)), rcond=None)[0]
        return lambda specs: np.exp(design(specs) @ coefficients)

    return fit


def regressor(make: Callable[[], Any]) -> Fit:
    """Fit a regressor of scikit-learn from the encoded spec to log seconds."""

    def fit(seen: Sequence[Observation]) -> Seconds:
        x = encoded(_specs(seen))
        mean, deviation = x.mean(0), np.maximum(x.std(0), 1e-6)
        fitted = _quietly(make(), (x - mean) / deviation, np.log(_seconds(seen)))
        return lambda specs: np.exp(fitted.predict((encoded(specs) - mean) / deviation))

    return fit


def gaussian_process() -> GaussianProcessRegressor:
    """Return a process with a linear and a smooth part and noise; without the linear part, sums are 24 % off."""
    smooth = ConstantKernel(0.1) * RBF(2.0)
    return GaussianProcessRegressor(ConstantKernel(1.0) * DotProduct() + smooth + WhiteKernel(0.01), normalize_y=True)


def shapes(seen: Sequence[Observation]) -> Seconds:
    """Fit a Gaussian process from shape to log seconds for each kind of part; predict the sum of the parts."""
    timed: dict[str, list[tuple[tuple[float, ...], float]]] = {}
    for o in seen:
        for part in _parts(o.spec):
            if part.name in (o.stages_s or {}):
                timed.setdefault(part.kind, []).append((part.shape, (o.stages_s or {})[part.name]))
    fitted = {kind: _by_shape(rows) for kind, rows in timed.items()}

    def summed(specs: Sequence[ArchSpec]) -> Array:
        return np.array([sum(fitted[p.kind](p.shape) for p in _parts(s) if p.kind in fitted) for s in specs])

    covered = np.median(_seconds(seen) / summed(_specs(seen)))
    return lambda specs: summed(specs) * covered


def _by_shape(rows: list[tuple[tuple[float, ...], float]]) -> Callable[[tuple[float, ...]], float]:
    x, y = np.log2([shape for shape, _ in rows]), np.log([seconds for _, seconds in rows])
    fitted = _quietly(gaussian_process(), x, y) if len(rows) > 2 else None
    return lambda shape: float(np.exp(y.mean() if fitted is None else fitted.predict(np.log2([shape]))[0]))


def costs(with_stages: bool) -> Fit:
    """Fit operators' costs by kind (`nas.samplers.latency.predictor`), without shared corrections."""

    def fit(seen: Sequence[Observation]) -> Seconds:
        rates = LatencyModel.fit(seen if with_stages else whole_only(seen), BATCH, RESOLUTION_PX).rates
        return lambda specs: np.array([_by_costs(rates, s) for s in specs])

    return fit


def costs_and_process(seen: Sequence[Observation]) -> Seconds:
    """Fit operators' costs times a Gaussian process over the encoded specs."""
    by_costs = costs(True)(seen)
    left = _seconds(seen) / by_costs(_specs(seen))
    factor = regressor(gaussian_process)([Observation(o.spec, float(f)) for o, f in zip(seen, left, strict=True)])
    return lambda specs: by_costs(specs) * factor(specs)


def ours(with_stages: bool) -> Fit:
    """Fit `nas.samplers.latency` itself."""

    def fit(seen: Sequence[Observation]) -> Seconds:
        model = LatencyModel.fit(seen if with_stages else whole_only(seen), BATCH, RESOLUTION_PX)
        return lambda specs: model.predict(specs)[0]

    return fit


def whole_only(seen: Sequence[Observation]) -> list[Observation]:
    """Return the observations without the stages' times."""
    return [Observation(o.spec, o.seconds) for o in seen]


def _by_costs(rates: OperatorRates, spec: ArchSpec) -> float:
    return rates.overhead_s + sum(map(rates.stage_s, _parts(spec)))


def _parts(spec: ArchSpec) -> list[StageCost]:
    return stage_costs(spec, BATCH, RESOLUTION_PX)


def _specs(seen: Sequence[Observation]) -> list[ArchSpec]:
    return [o.spec for o in seen]


def _seconds(seen: Sequence[Observation]) -> Array:
    return np.array([o.seconds for o in seen])


def _quietly(model: Any, x: Array, y: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound says that a column does not matter
        return model.fit(x, y)


MODELS: dict[str, Fit] = {
    "parameters, power law": power_law(counted("params")),
    "MACs, power law": power_law(counted("macs")),
    "MACs and parameters, power law": power_law(counted("macs", "params")),
    "spec, random forest": regressor(lambda: RandomForestRegressor(300, random_state=0)),
    "spec, boosted trees": regressor(
        lambda: GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, subsample=0.7, random_state=0)
    ),
    "spec, Gaussian process": regressor(gaussian_process),
    "parts by shape, Gaussian processes": shapes,
    "operators' costs, whole models": costs(False),
    "operators' costs, stages too": costs(True),
    "operators' costs x process of spec": costs_and_process,
    "nas.samplers.latency, whole models": ours(False),
    "nas.samplers.latency, stages too": ours(True),
}
