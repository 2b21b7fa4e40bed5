"""Puts the plan together: asks the teachers, probes architectures and the driver, simulates clusters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean

from nas.backend.simulated import Cluster
from nas.cache.build import share_of
from nas.cli import StageProgress, cache_root, lock_dir
from nas.measure.counts.totals import totals
from nas.measure.environment import device_key, device_name, environment, torch_device
from nas.plan.arguments import MFU, PlanSettings
from nas.plan.forecast import (
    LEARNING,
    OTHERS_LEARN,
    SIZES,
    Basis,
    Forecast,
    PlanCosts,
    PlanFigure,
    SearchPlan,
    forecasts,
    search_figures,
    spread,
    weaker,
)
from nas.plan.probe import (
    ROWS,
    TUNE_S,
    AssumedDevice,
    DriverTimes,
    NamedSpecs,
    Probed,
    ProbeSettings,
    counted,
    driver_times,
    probe,
    synthetic_targets,
)
from nas.plan.teacher_costs import Material, material_counted, material_here
from nas.study.config import ConfigError, SearchConfig
from nas.study.limits import LIMITS, CountedCosts, broken_limit
from nas.study.objectives import objectives
from search_space import SPACES, preset

_PROBED, _COUNTED = 3, 64  # random architectures
_DRAWS = 300


def plan_search(settings: PlanSettings, progress: StageProgress) -> SearchPlan:
    """Return the plan of a search.

    Raises:
        MeasurementError: no architecture could be probed here.
        ConfigError: too few random architectures are within the limits.
    """
    config = settings.config
    number = settings.probe or (_PROBED if settings.here else _COUNTED)
    chosen, infeasible = _sampled(config, number)
    if settings.here:
        material, probed = _measured(settings, chosen, progress)
        basis, device = Basis.MEASURED, device_name(torch_device(config.device))
    else:
        assumed = _assumed_device(settings)
        material = material_counted(config, settings.weights, assumed.seconds_per_mac)
        probed = counted(config, chosen, assumed)
        basis, device = Basis.ASSUMED, f"a device of {assumed.tflops:g} TFLOP/s at an assumed MFU of {assumed.mfu:g}"
    driver = driver_times(config, objectives(config.objectives, config.distill.score))
    costs = _costs(config, material, probed, infeasible, basis)
    own = _own_cluster(settings, driver)
    found = forecasts(config, costs, own, [*SIZES, *settings.gpus], settings.deadline_h)
    here = next(forecast for forecast in found if forecast.own)
    figures = [
        *_teacher_figures(material, costs),
        *_probe_figures(config, probed, basis),
        *_driver_figures(settings, own, driver),
        *search_figures(config, costs, here.simulated),
    ]
    notes = _notes(config, material, settings.here, here)
    return SearchPlan(device, settings.here, tuple(figures), found, settings.deadline_h, notes)


def _assumed_device(settings: PlanSettings) -> AssumedDevice:
    measure_s = settings.config.measure_seconds if settings.assume_measure_s is None else settings.assume_measure_s
    return AssumedDevice(settings.assume_tflops or 0.0, MFU if settings.mfu is None else settings.mfu, measure_s)


def _own_cluster(settings: PlanSettings, driver: DriverTimes) -> Cluster:
    """Return this machine, or the assumed devices."""
    by_device = settings.workers if settings.here and settings.config.device == "cpu" else 1
    return Cluster(
        devices=settings.workers // by_device,
        workers_per_device=by_device,
        start_s=settings.start_s,
        ask_s=driver.ask_s if settings.ask_s is None else settings.ask_s,
        tell_s=driver.tell_s,
    )


def _sampled(config: SearchConfig, number: int) -> tuple[NamedSpecs, float]:
    """Return presets and random architectures, and the share of the space that breaks a limit.

    Presets are the reference and the baselines; limits are those that counting can check.
    """
    rng, space = random.Random(f"plan/{config.seed}"), SPACES[config.space]
    named: NamedSpecs = [(name, preset(name)) for name in dict.fromkeys((config.reference, *config.baselines))]
    found: NamedSpecs = []
    for drawn in range(1, _DRAWS + 1):
        spec = space.sample(rng)
        counts = totals(spec, config.distill.image_px)
        if not broken_limit(CountedCosts(counts.params, counts.macs), config.limits):
            found.append((spec.arch_id, spec))
        if len(found) == number:
            return [*named, *found], 1 - number / drawn
    raise ConfigError(f"limits: only {len(found)} of {_DRAWS} random architectures of the space are within them")


def _measured(settings: PlanSettings, chosen: NamedSpecs, progress: StageProgress) -> tuple[Material, list[Probed]]:
    """Probe on this machine; of the presets only the reference is trained."""
    config = settings.config
    material = material_here(config, settings.weights, cache_root(settings.cache), progress)
    rows = max(ROWS, config.distill.largest_batch)
    targets = material.targets or synthetic_targets(config, material.widths, share_of(config.storage, None), rows)
    presets = {config.reference, *config.baselines}
    wanted = [(name, spec) for name, spec in chosen if name == config.reference or name not in presets]
    cpus = int(environment("cpu")["cpus"])
    threads = max(1, cpus // settings.workers), max(1, cpus - 1)
    return material, probe(
        config, wanted, targets, ProbeSettings(*threads, lock_dir() / device_key(config.device)), progress
    )


def _costs(
    config: SearchConfig, material: Material, probed: Sequence[Probed], infeasible: float, basis: Basis
) -> PlanCosts:
    recipe, presets = config.distill, {config.reference, *config.baselines}
    times = {found.name: found.times(recipe.rung_steps, recipe.ranks) for found in probed}
    random_ones = [found for found in probed if found.name not in presets] or list(probed)
    reference = times.get(config.reference, times[random_ones[0].name])
    seconds = [teacher.seconds for teacher in material.teachers]
    known = [s for s in seconds if s is not None]
    return PlanCosts(
        candidates=tuple(times[found.name] for found in random_ones),
        baselines=tuple(times.get(name, reference) for name in config.baselines),
        params=fmean(found.params for found in random_ones),
        infeasible=infeasible,
        basis=basis,
        teachers_s=sum(known) + material.images.seconds if len(known) == len(seconds) else None,
        teachers_basis=weaker(*(teacher.basis for teacher in material.teachers)),
    )


def _teacher_figures(material: Material, costs: PlanCosts) -> list[PlanFigure]:
    found = []
    for t in material.teachers:
        note = f"{t.passes:,} passes; {t.note}" if t.passes else t.note
        found.append(PlanFigure(f"teacher_s.{t.name}", t.name, t.seconds, "s", t.basis, note))
    if material.targets is None:
        total = "all teachers and images, on one device"
        found.append(PlanFigure("teachers_s", total, costs.teachers_s, "s", costs.teachers_basis))
    stays = sum(t.stays for t in material.teachers)
    goes = sum(t.goes for t in material.teachers)
    found.append(PlanFigure("targets_bytes", "teacher targets to be written", stays, "bytes", Basis.DERIVED, "at most"))
    if goes:
        found.append(PlanFigure("passing_bytes", "more while they are made", goes, "bytes", Basis.DERIVED))
    return [
        *found,
        PlanFigure("images_bytes", "images to be written", material.images.kept_bytes, "bytes", Basis.DERIVED),
    ]


def _probe_figures(config: SearchConfig, probed: Sequence[Probed], basis: Basis) -> list[PlanFigure]:
    parts = (
        ("step_s", f"a training step of {config.distill.batch_size} images", [p.step_s for p in probed]),
        ("evaluate_s", f"evaluation at a rung, {config.val_images} images", [p.evaluate_s for p in probed]),
        ("last_s", "more at the last rung: probes, pictures", [p.last_s for p in probed]),
        ("measure_s", "a measurement beside the reference", [p.measure_s for p in probed]),
    )
    note = f"{len(probed)} architectures: median (least to most)"
    return [spread(key, label, seconds, basis, note) for key, label, seconds in parts]


def _driver_figures(settings: PlanSettings, own: Cluster, driver: DriverTimes) -> list[PlanFigure]:
    ask, tell = "driver: a new trial", "driver: a result"
    measured = settings.ask_s is None
    note = f"{TUNE_S * 1e3:g} ms of it Tune's, as once measured; grows with the study" if measured else ""
    return [
        PlanFigure("ask_s", ask, own.ask_s, "s", Basis.MEASURED if measured else Basis.ASSUMED, note),
        PlanFigure("tell_s", tell, driver.tell_s, "s", Basis.MEASURED, "in the sampler's and storage's own code"),
        PlanFigure("start_s", "start of a worker", own.start_s, "s", Basis.ASSUMED, "imports, opening the cache"),
    ]


def _notes(config: SearchConfig, material: Material, here: bool, own: Forecast) -> tuple[str, ...]:
    found = []
    if own.simulated.ending:
        found.append(f"the search is likely to end early, as its simulation did: {own.simulated.ending}")
    if here and material.targets is None:
        found.append("no cache of these settings: the probe trained on noise of the same shapes, which costs the same;"
                     " probes of labels are not in the last rung's time")  # fmt: skip
    if not here:
        found.append(
            "on such a device reading images, compressing targets and compiling are not counted; its MFU is"
            " the same for teachers and students"
        )
    if learning := LEARNING.get(config.sampler, OTHERS_LEARN):
        found.append(f"the sampler is assumed to learn as in the recorded searches ({learning:g}); more trials then"
                     " train on than with random search, and fewer where it has seen few results")  # fmt: skip
    if any(LIMITS[name].measured for name in config.limits):
        found.append("limits on what is measured (latency, throughput, memory) are taken to be broken by none")
    if config.distill.ranks > 1:
        found.append(f"{config.distill.ranks} ranks are taken to share a step without loss")
    if here and config.device == "cpu":
        found.append("the probe trains alone: workers beside each other on one CPU are slower where they share caches"
                     " and memory; devices are machines like this one")  # fmt: skip
    found.append("teachers' passes are shared among all devices without loss; device-hours hold a device from the"
                 " first pass to the last trial")  # fmt: skip
    return tuple(found)
