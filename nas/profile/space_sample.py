"""Sample a search space: ranges of parameters, MACs and activations, the share within limits, a shortlist to time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from backbones import build
from nas.measure import Arm, Setting, environment
from nas.measure.counts.operators import operators
from nas.measure.device_lock import exclusive_device
from nas.measure.service import MeasurementService
from nas.profile.network import FULL_PX, MICRO_PX
from nas.profile.profiles import FAILURES, reason
from nas.samplers.latency import HeldOut, LatencyPredictor, Observation
from nas.study.limits import LIMITS, Compliance, Limit
from nas.study.records import Measurement
from search_space import SPACES, ArchSpec

MIN_TIMED = 20  # specs; of fewer, held-out errors are mostly luck
SHORTLISTED = 10
EACH_S = 2.0  # timing of one spec at most, as in a search
RESOLUTIONS = {"micro": MICRO_PX, "full": FULL_PX}
SHOWN_EVERY = 10
MOST_REPEATS = 1000  # draws in a row that bring nothing new: the space is exhausted
# Quantity -> (label, unit, divisor). In the order of tables and plots.
QUANTITIES = {
    "params": ("parameters", "M", 1e6),
    "macs": ("MACs", "G", 1e9),
    "activations": ("activations", "M", 1e6),
    "ratio": ("throughput ratio", "x", 1.0),
    "latency_ms": ("latency", "ms", 1.0),
    "peak_memory_mib": ("peak memory", "MiB", 1.0),
}


@dataclass(frozen=True)
class Shortlist:
    """Never shown as times: `error` says how far predictions lie from measurements that they had not seen."""

    error: HeldOut
    untimed: int
    arch_ids: tuple[str, ...]  # those most likely fast that have a fair chance to keep the limit, ten at most
    limit_img_s: float | None


def shortlist(
    timed: Sequence[tuple[ArchSpec, Measurement]],
    untimed: Sequence[ArchSpec],
    *,
    batch: int,
    resolution: int,
    limit_img_s: float | None,
) -> Shortlist | None:
    """Shortlist specs by a predictor fitted on those timed beside one reference; None where these are too few."""
    if len(timed) < MIN_TIMED:
        return None
    predictor = LatencyPredictor.fit(
        [Observation(spec, 1 / m.ratio) for spec, m in timed], batch=batch, resolution=resolution
    )
    # The limit in times of the reference, whose own speed is the median of what it was beside each net.
    speeds = sorted(m.reference_img_s for _, m in timed)
    limit = None if limit_img_s is None else speeds[len(speeds) // 2] / limit_img_s
    kept = predictor.shortlist(list(untimed), limit_s=limit, keep=SHORTLISTED)
    ids = tuple(spec.arch_id for spec in kept)
    return Shortlist(predictor.cross_validated(), len(untimed), ids, limit_img_s)


def shortlist_data(found: Shortlist) -> dict[str, Any]:
    """Return plain JSON data."""
    return {"error": vars(found.error), "untimed": found.untimed, "arch_ids": list(found.arch_ids)}


@dataclass(frozen=True)
class SpaceRequest:
    """What to sample and how to time it; `seconds` None leaves timing out."""

    space: str
    samples: int
    seed: int
    limits: dict[str, float]  # by the names of nas.study.limits
    device: torch.device
    resolution: int
    batch: int
    arm: Arm
    seconds: float | None
    reference: str


@dataclass(frozen=True)
class Sampled:
    """One spec of the sample."""

    arch_id: str
    params: int
    macs: int  # of one image
    activations: int  # elements that operators write, of one image
    measurement: Measurement | None = None
    failure: str | None = None  # why it could not be measured

    def value(self, quantity: str) -> float | None:
        """Return a quantity by its name here or in `Measurement`; None where it was not measured."""
        holder = self if quantity in ("params", "macs", "activations") else self.measurement
        found = None if holder is None else getattr(holder, quantity)
        return None if found is None else float(found)


@dataclass(frozen=True)
class SpaceProfile:
    """What is known of the sample so far."""

    request: SpaceRequest
    specs: tuple[Sampled, ...]
    environment: dict[str, Any]
    missing: tuple[str, ...] = ()
    shortlist: Shortlist | None = None

    def ranges(self) -> dict[str, dict[str, float]]:
        """Return minimum, quartiles and maximum of each quantity that some spec has, in base units."""
        found = {name: self.values(name) for name in QUANTITIES}
        names = ("min", "q25", "median", "q75", "max")
        return {
            name: {"n": len(v), **dict(zip(names, map(float, np.quantile(v, (0, 0.25, 0.5, 0.75, 1))), strict=True))}
            for name, v in found.items()
            if v
        }

    def values(self, quantity: str) -> list[float]:
        """Return a quantity of those specs that have it."""
        return [v for v in (spec.value(quantity) for spec in self.specs) if v is not None]

    def fits(self) -> dict[str, tuple[int, int]]:
        """By limit, and "all" of them: (specs within, specs of which it is known)."""
        limits = self.request.limits
        answers = {name: [_compliance(spec, LIMITS[name], limits[name]) for spec in self.specs] for name in limits}
        if len(answers) > 1:
            answers["all"] = [_all(per_spec) for per_spec in zip(*answers.values(), strict=True)]
        return {name: (a.count(Compliance.KEPT), len(a) - a.count(Compliance.UNKNOWN)) for name, a in answers.items()}

    @property
    def failed(self) -> tuple[Sampled, ...]:
        """Specs that could not be measured."""
        return tuple(spec for spec in self.specs if spec.failure)

    def to_dict(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        request = asdict(self.request) | {"device": str(self.request.device), "arm": str(self.request.arm)}
        fits = {name: {"fit": fit, "of": known} for name, (fit, known) in self.fits().items()}
        return {
            **request,
            "ranges": self.ranges(),
            "fits": fits,
            "specs": [asdict(spec) for spec in self.specs],
            "shortlist": shortlist_data(self.shortlist) if self.shortlist else None,
            "missing": list(self.missing),
            "environment": self.environment,
        }


def sampling(
    request: SpaceRequest, service: MeasurementService | None, progress: Callable[[str, float], None]
) -> Iterator[SpaceProfile]:
    """Count all specs, then time as many of them as the budget allows; yield what is known after every few.

    service: None where nothing is to be timed. progress: (what is being done, seconds that it still takes).
    """
    rng, began = random.Random(request.seed), time.monotonic()
    known = SpaceProfile(request, (), environment(str(request.device)), ("counting", "timing"))
    specs: list[ArchSpec] = []
    counted: list[Sampled] = []
    for spec in _distinct(request, rng):
        specs.append(spec)
        counted.append(_counted(spec, request))
        if len(counted) % SHOWN_EVERY == 0:
            left_s = (time.monotonic() - began) * (request.samples / len(counted) - 1)
            progress(f"counting: {len(counted)} of {request.samples}", left_s + (request.seconds or 0.0))
            yield replace(known, specs=tuple(counted))
    known = replace(known, specs=tuple(counted), missing=("timing",) if service else ())
    yield known
    if service:
        yield from _timing(known, specs, request, service, progress)


def _timing(
    known: SpaceProfile,
    specs: Sequence[ArchSpec],
    request: SpaceRequest,
    service: MeasurementService,
    progress: Callable[[str, float], None],
) -> Iterator[SpaceProfile]:
    """Time specs until the budget is spent; they come in random order, so that the first few are a sample as well."""
    assert request.seconds is not None
    with exclusive_device(str(request.device)):
        deadline = time.monotonic() + request.seconds
        for i, spec in enumerate(specs):
            progress(f"timing: {i} of {len(specs)} beside {request.reference}", deadline - time.monotonic())
            timed = _timed(known.specs[i], spec, request, service)
            known = replace(known, specs=(*known.specs[:i], timed, *known.specs[i + 1 :]))
            yield known
            if time.monotonic() > deadline:
                break
    progress("predicting the specs that were not timed", 0.0)
    yield replace(known, missing=(), shortlist=_shortlist(known, specs))


def _shortlist(known: SpaceProfile, specs: Sequence[ArchSpec]) -> Shortlist | None:
    request, pairs = known.request, list(zip(specs, known.specs, strict=True))
    return shortlist(
        [(spec, found.measurement) for spec, found in pairs if found.measurement],
        [spec for spec, found in pairs if not found.measurement and not found.failure],
        batch=request.batch,
        resolution=request.resolution,
        limit_img_s=request.limits.get("min_throughput_img_s"),
    )


def _distinct(request: SpaceRequest, rng: random.Random) -> Iterator[ArchSpec]:
    """Draw specs uniformly, each once; fewer than asked for where the space has no more."""
    seen: set[str] = set()
    repeats = 0
    while len(seen) < request.samples and repeats < MOST_REPEATS:
        spec = SPACES[request.space].sample(rng)
        repeats = repeats + 1 if spec.arch_id in seen else 0
        if not repeats:
            seen.add(spec.arch_id)
            yield spec


def _counted(spec: ArchSpec, request: SpaceRequest) -> Sampled:
    with torch.device("meta"):
        model = build(spec)
    found = operators(model, 1, request.resolution)
    params = sum(p.numel() for p in model.parameters())
    return Sampled(spec.arch_id, params, sum(o.macs for o in found), sum(o.written for o in found))


def _timed(counted: Sampled, spec: ArchSpec, request: SpaceRequest, service: MeasurementService) -> Sampled:
    """Add a spec's measurement, or why there is none."""
    setting = Setting(
        device=str(request.device),
        batch=request.batch,
        resolution=request.resolution,
        arm=request.arm,
        budget_s=EACH_S,
    )
    try:
        found = service.measure(spec.to_dict(), request.reference, setting, name_of_reference=request.reference)
    except FAILURES as error:
        return replace(counted, failure=reason(error))
    return replace(counted, measurement=found.record)


def _compliance(spec: Sampled, limit: Limit, bound: float) -> Compliance:
    """Tell whether a spec keeps a limit. A spec that could not be measured breaks those that need a measurement."""
    if limit.measured and spec.failure:
        return Compliance.BROKEN
    return limit.compliance(limit.value(spec), bound)


def _all(answers: Sequence[Compliance]) -> Compliance:
    """All of them; unknown if one is: else what was not timed could only ever be found not to fit."""
    return next(each for each in (Compliance.UNKNOWN, Compliance.BROKEN, Compliance.KEPT) if each in answers)
