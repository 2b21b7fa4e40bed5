"""Sample a search space: ranges of parameters and costs, and the share within limits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv

from backbones import build
from nas.measure import Setting
from nas.measure.counts.operators import operators
from nas.measure.device_lock import exclusive_device, shared_device
from nas.measure.environment import environment
from nas.measure.service import MeasurementService
from nas.measure.verdicts import require_right_outputs
from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import FAILURES, failure_reason
from nas.study.limits import LIMITS, Compliance, Limit
from nas.study.records import Measurement
from search_space import PRESETS, ArchSpec
from search_space.windows import fit_windows

SPEC_S = 2.0  # budget of timing one spec, as in a search
SPECS_PER_STEP = 10  # counted between two steps of progress
MAX_REPEATS = 1000  # consecutive draws without a new spec, after which the space is exhausted
# Quantity -> (label, unit, divisor), in the order of tables and plots.
QUANTITIES = {
    "params": ("parameters", "M", 1e6),
    "macs": ("MACs", "G", 1e9),
    "activations": ("activations", "M", 1e6),
    "ratio": ("throughput ratio", "x", 1.0),
    "latency_ms": ("latency", "ms", 1.0),
    "peak_memory_mib": ("peak memory", "MiB", 1.0),
}


@dataclass(frozen=True)
class SampledSpec:
    """One spec of the sample."""

    arch_id: str
    params: int
    macs: int  # of one image
    activations: int  # elements that operators write, of one image
    measurement: Measurement | None = None
    failure: str | None = None  # reason why it could not be measured

    def value(self, quantity: str) -> float | None:
        """Return a quantity by its name in `QUANTITIES`; None where it was not measured."""
        holder = self if quantity in ("params", "macs", "activations") else self.measurement
        value = None if holder is None else getattr(holder, quantity)
        return None if value is None else float(value)


@dataclass(frozen=True)
class SpaceProfile:
    """The sample as far as it was counted and timed."""

    request: ProfileSettings
    specs: tuple[SampledSpec, ...]
    environment: dict[str, Any]
    missing: tuple[str, ...] = ()

    def ranges(self) -> dict[str, dict[str, float]]:
        """Return minimum, quartiles and maximum of each quantity that any spec has, in base units."""
        values = {name: self.values(name) for name in QUANTITIES}
        names = ("min", "q25", "median", "q75", "max")
        return {
            name: {"n": len(v), **dict(zip(names, map(float, np.quantile(v, (0, 0.25, 0.5, 0.75, 1))), strict=True))}
            for name, v in values.items()
            if v
        }

    def values(self, quantity: str) -> list[float]:
        """Return the values of a quantity, of the specs that have it."""
        return [v for v in (spec.value(quantity) for spec in self.specs) if v is not None]

    def fits(self) -> dict[str, tuple[int, int]]:
        """Return (specs within, specs with an answer) for each limit, and for "all" limits together."""
        limits = self.request.limits
        answers = {name: [_compliance(spec, LIMITS[name], limits[name]) for spec in self.specs] for name in limits}
        if len(answers) > 1:
            answers["all"] = [_all(per_spec) for per_spec in zip(*answers.values(), strict=True)]
        return {name: (a.count(Compliance.KEPT), len(a) - a.count(Compliance.UNKNOWN)) for name, a in answers.items()}

    @property
    def failed(self) -> tuple[SampledSpec, ...]:
        """Return the specs that could not be measured."""
        return tuple(spec for spec in self.specs if spec.failure)

    def to_dict(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        request = self.request
        fits = {
            name: {"fit": fit, "of": count, "interval": share_interval(fit, count)}
            for name, (fit, count) in self.fits().items()
        }
        return {
            "space": request.space,
            "samples": request.samples,
            "seed": request.seed,
            "limits": request.limits,
            "device": str(request.torch_device),
            "resolution": request.sample_px,
            "batch": request.batch_at(request.sample_px),
            "arm": str(request.arm),
            "seconds": request.measure_seconds,
            "reference": request.against,
            "choices": request.choices,
            "ranges": self.ranges(),
            "fits": fits,
            "specs": [asdict(spec) for spec in self.specs],
            "missing": list(self.missing),
            "environment": self.environment,
        }


def share_interval(fit: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a space's share of which `fit` of `count` samples are (Clopper and Pearson 1934)."""
    low = float(betaincinv(fit, count - fit + 1, 0.025)) if fit else 0.0
    high = float(betaincinv(fit + 1, count - fit, 0.975)) if fit < count else 1.0
    return low, high


def sample_space(
    request: ProfileSettings, service: MeasurementService | None, progress: Callable[[str, float], None]
) -> Iterator[SpaceProfile]:
    """Count all specs, then time as many of them as the budget allows; yield the profile after each step.

    Args:
        request: What to sample.
        service: Process that measures; None: nothing is timed.
        progress: Receives each step and the seconds that are left.
    """
    rng, began = random.Random(request.seed), time.monotonic()
    profile = SpaceProfile(request, (), environment(str(request.torch_device), request.arm), ("counting", "timing"))
    specs: list[ArchSpec] = []
    counted: list[SampledSpec] = []
    for spec in _distinct(request, rng):
        specs.append(spec)
        with shared_device("cpu"):  # for one spec: between two, another process can measure
            counted.append(_count(spec, request))
        if len(counted) % SPECS_PER_STEP == 0:
            left_s = (time.monotonic() - began) * (request.samples / len(counted) - 1)
            progress(f"counting: {len(counted)} of {request.samples}", left_s + (request.measure_seconds or 0.0))
            yield replace(profile, specs=tuple(counted))
    profile = replace(profile, specs=tuple(counted), missing=("timing",) if service else ())
    yield profile
    if service:
        yield from _time_sample(profile, specs, request, service, progress)


def _time_sample(
    profile: SpaceProfile,
    specs: Sequence[ArchSpec],
    request: ProfileSettings,
    service: MeasurementService,
    progress: Callable[[str, float], None],
) -> Iterator[SpaceProfile]:
    """Time specs until the budget is spent. Their order is random, so that the first few are a sample as well."""
    assert request.measure_seconds is not None
    with exclusive_device(str(request.torch_device)):
        deadline = time.monotonic() + request.measure_seconds
        for i, spec in enumerate(specs):
            progress(f"timing: {i} of {len(specs)} against {request.against}", deadline - time.monotonic())
            timed = _time(profile.specs[i], spec, request, service)
            profile = replace(profile, specs=(*profile.specs[:i], timed, *profile.specs[i + 1 :]))
            yield profile
            if time.monotonic() > deadline:
                break
    yield replace(profile, missing=())


def _distinct(request: ProfileSettings, rng: random.Random) -> Iterator[ArchSpec]:
    """Yield different specs, drawn uniformly; fewer than requested where the space has no more."""
    space, seen = request.sampled_space(), set[str]()
    repeats = 0
    while len(seen) < request.samples and repeats < MAX_REPEATS:
        spec = space.sample(rng)
        repeats = repeats + 1 if spec.arch_id in seen else 0
        if not repeats:
            seen.add(spec.arch_id)
            yield spec


def _count(spec: ArchSpec, request: ProfileSettings) -> SampledSpec:
    with torch.device("meta"):
        model = build(spec)
    calls = operators(model, 1, request.sample_px)
    params = sum(p.numel() for p in model.parameters())
    return SampledSpec(spec.arch_id, params, sum(o.macs for o in calls), sum(o.written for o in calls))


def _time(counted: SampledSpec, spec: ArchSpec, request: ProfileSettings, service: MeasurementService) -> SampledSpec:
    """Return the spec with its measurement, or with the reason why there is none."""
    setting = Setting(
        device=str(request.torch_device),
        batch=request.batch_at(request.sample_px),
        resolution=request.sample_px,
        arm=request.arm,
        budget_s=SPEC_S,
        smaller_batch=False,
    )
    try:
        reference = _at(request.against, request.sample_px)
        measured = service.measure(spec.to_dict(), reference, setting, name_of_reference=request.against)
        require_right_outputs(measured.record)
    except FAILURES as error:
        return replace(counted, failure=failure_reason(error))
    return replace(counted, measurement=measured.record)


def _at(network: str, image_px: int) -> str | dict[str, Any]:
    """Return what measures a network by its name; the windows of a preset tile the maps of the images."""
    return fit_windows(PRESETS[network], image_px).to_dict() if network in PRESETS else network


def _compliance(spec: SampledSpec, limit: Limit, bound: float) -> Compliance:
    """Return whether a spec keeps a limit. A spec that could not be measured breaks limits on measurements."""
    if limit.measured and spec.failure:
        return Compliance.BROKEN
    return limit.compliance(limit.value(spec), bound)


def _all(answers: Sequence[Compliance]) -> Compliance:
    """Return the answer for all limits together, which is unknown if one is: untimed specs don't count as broken."""
    return next(each for each in (Compliance.UNKNOWN, Compliance.BROKEN, Compliance.KEPT) if each in answers)
