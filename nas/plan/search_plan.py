"""Plan a search: time the teachers, probe architectures and the driver, simulate clusters."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from nas.backend.simulated import Cluster
from nas.cache.build import share_of
from nas.cli import PROGRAM
from nas.distill.precision import PrecisionChoice, choose_precision
from nas.machine import cache_root, lock_dir
from nas.measure.counts.totals import totals
from nas.measure.environment import check_compute_mode, device_key, device_name, environment, torch_device
from nas.plan.arguments import PlanSettings
from nas.plan.cache_reading import CacheReading, reading_figures, reading_notes
from nas.plan.forecast import (
    DEFAULT_LEARNING,
    FIRST_LATE,
    LEARNING,
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
    ProbedCosts,
    ProbeSettings,
    count_costs,
    driver_times,
    probe,
    synthetic_targets,
)
from nas.plan.race_costs import RaceCosts
from nas.plan.teacher_costs import FP32_SLOWDOWN, Material, material_counted, material_here
from nas.search.options import MFU
from nas.search.preconditions import check_limits, too_few_within_limits
from nas.stage_progress import StageProgress
from nas.study.config import SearchConfig, is_of_timm
from nas.study.limits import LIMITS, broken_limit
from nas.study.objectives import objectives
from search_space import ArchSpec
from search_space.own_choices import choice_words

_PROBED, _COUNTED = 3, 64  # random architectures
_MAX_DRAWS = 300
_TIMED_SAMPLE = 30  # architectures, in the advice to measure limits


def plan_search(settings: PlanSettings, progress: StageProgress) -> SearchPlan:
    """Return the plan of a search.

    Raises:
        DeviceError: A GPU here takes one process, but a second one measures.
        MeasurementError: No architecture could be probed here.
        ConfigError: Too few random architectures are within the limits, or the search would refuse the images here.
    """
    config = settings.config
    if settings.here:
        check_compute_mode(config.device)
    number = settings.probe or (_PROBED if settings.here else _COUNTED)
    chosen, infeasible = _sampled(config, number)
    material = _material(settings, config, progress)
    if settings.here:
        config = replace(config, val_images=material.val_images)
        probed, precision = _measured(config, settings.workers, material, chosen, progress)
        basis, device = Basis.MEASURED, device_name(torch_device(config.device))
    else:
        assumed = _assumed_device(settings)
        probed, precision = count_costs(config, chosen, assumed, material.widths), None
        basis, device = Basis.ASSUMED, f"an assumed device: peak {assumed.tflops:g} TFLOP/s, MFU {assumed.mfu:g}"
    driver = driver_times(config, objectives(config.objectives, config.distill.score))
    reading = CacheReading.of(config, material.widths, settings.read_gb_per_second)
    of_race = None if settings.race is None else _material(settings, settings.race, progress)

    def race_of(workers: int) -> RaceCosts | None:
        if settings.race is None or of_race is None:
            return None
        return _race_costs(settings.race, of_race, probed, basis, reading.step_s(workers))

    def costs_of(workers: int) -> PlanCosts:
        costs, race = _costs(config, material, probed, infeasible, basis, reading.step_s(workers)), race_of(workers)
        return costs if race is None else replace(costs, race_s=race.wall_s)

    by_device = workers_per_device(config, settings.workers) if settings.here else 1
    start = (
        settings.start_seconds,
        driver.ask_s if settings.ask_seconds is None else settings.ask_seconds,
        driver.tell_s,
    )
    cluster = Cluster(settings.workers // by_device, by_device, *start)
    clusters = forecasts(config, costs_of, cluster, settings.gpus or SIZES, settings.max_hours)
    planned = next(forecast for forecast in clusters if forecast.planned)
    costs, race = costs_of(cluster.workers), race_of(cluster.workers)
    figures = [
        *_teacher_figures(material, costs),
        *_probe_figures(config, probed, basis),
        *reading_figures(config, reading, probed, cluster.workers, basis),
        *_precision_figures(precision),
        *_driver_figures(settings, cluster, driver),
        *search_figures(config, costs, planned.simulated),
        *([] if race is None else race.figures(planned.devices, cluster.workers)),
        *_cost_figures(settings.usd_per_hour, planned),
    ]
    notes = _notes(config, material, settings.here, planned) + _deadline_notes(clusters, settings.max_hours)
    notes += reading_notes(config, reading, probed, cluster.workers)
    price = settings.usd_per_hour
    return SearchPlan(device, settings.here, tuple(figures), clusters, settings.max_hours, notes, price)


def _material(settings: PlanSettings, config: SearchConfig, progress: StageProgress) -> Material:
    if settings.here:
        return material_here(config, settings.weights, cache_root(settings.cache), progress)
    return material_counted(config, settings.weights, _assumed_device(settings))


def _assumed_device(settings: PlanSettings) -> AssumedDevice:
    measure_s = (
        settings.config.measure_seconds if settings.assume_measure_seconds is None else settings.assume_measure_seconds
    )
    return AssumedDevice(settings.assume_tflops or 0.0, MFU if settings.mfu is None else settings.mfu, measure_s)


def workers_per_device(config: SearchConfig, workers: int) -> int:
    """Return how many of this machine's trials at a time share a device: the CPU has them all, a GPU one.

    Args:
        config: Settings of the search.
        workers: Trials at a time.
    """
    return workers if config.device == "cpu" else 1


def _sampled(config: SearchConfig, number: int) -> tuple[NamedSpecs, float]:
    """Return named and random architectures, and the share of the space that breaks a limit on counted costs.

    The named ones are the reference and the baselines, without networks of timm.
    """
    rng, space = random.Random(f"plan/{config.seed}"), config.search_space
    names = dict.fromkeys((config.reference, *config.baselines))
    of_names = ((name, config.spec(name)) for name in names if not is_of_timm(name))
    named: NamedSpecs = [(name, spec) for name, spec in of_names if isinstance(spec, ArchSpec)]
    feasible: NamedSpecs = []
    for drawn in range(1, _MAX_DRAWS + 1):
        spec = space.sample(rng)
        if not broken_limit(totals(spec, config.distill.img_size), config.limits):
            feasible.append((spec.arch_id, spec))
        if len(feasible) == number:
            return [*named, *feasible], 1 - number / drawn
    if not feasible:
        check_limits(config)
    raise too_few_within_limits(config, len(feasible), _MAX_DRAWS, number, "--probe")


def _measured(
    config: SearchConfig, workers: int, material: Material, chosen: NamedSpecs, progress: StageProgress
) -> tuple[list[ProbedCosts], PrecisionChoice | None]:
    """Choose the precision as the search does, and probe the random architectures and the reference on this machine."""
    rows = max(ROWS, config.distill.largest_batch)
    targets = material.targets or synthetic_targets(config, material.widths, share_of(config.target_dtype, None), rows)
    presets = {config.reference, *config.baselines}
    wanted = [(name, spec) for name, spec in chosen if name == config.reference or name not in presets]
    cpus = int(environment("cpu")["cpus"])
    threads = max(1, cpus // workers), max(1, cpus - 1)
    locks, precision = lock_dir() / device_key(config.device), None
    if config.distill.precision == "auto":
        precision = choose_precision(config.spec(config.search_space.reference), targets, config, threads[0], locks)
        config = replace(config, distill=replace(config.distill, precision=precision.precision))
    return probe(config, wanted, targets, ProbeSettings(*threads, locks), progress), precision


def _costs(
    config: SearchConfig,
    material: Material,
    probed: Sequence[ProbedCosts],
    infeasible: float,
    basis: Basis,
    reading_s: float,
) -> PlanCosts:
    recipe, presets = config.distill, {config.reference, *config.baselines}
    times = {costs.name: costs.times(recipe.rung_steps, recipe.ranks, reading_s) for costs in probed}
    sampled = [costs for costs in probed if costs.name not in presets] or list(probed)
    reference = times.get(config.reference, times[sampled[0].name])
    teachers_s, teachers_basis = material.teachers_s
    return PlanCosts(
        candidates=tuple(times[costs.name] for costs in sampled),
        baselines=tuple(times.get(name, reference) for name in config.baselines),
        params=fmean(costs.params for costs in sampled),
        infeasible=infeasible,
        basis=basis,
        teachers_s=teachers_s,
        teachers_basis=teachers_basis,
    )


def _race_costs(
    config: SearchConfig, material: Material, probed: Sequence[ProbedCosts], basis: Basis, reading_s: float
) -> RaceCosts:
    recipe, (teachers_s, teachers_basis) = config.distill, material.teachers_s
    trainings = tuple(sum(each.times(recipe.rung_steps, recipe.ranks, reading_s).rung_s) for each in probed)
    return RaceCosts(recipe.rung_steps[-1], config.train_images, teachers_s, teachers_basis, trainings, weaker(basis))


def _teacher_figures(material: Material, costs: PlanCosts) -> list[PlanFigure]:
    figures = []
    for t in material.teachers:
        note = f"{t.passes:,} forward passes; {t.note}" if t.passes else t.note
        figures.append(PlanFigure(f"teacher_s.{t.name}", f"running teacher {t.name}", t.seconds, "s", t.basis, note))
    if material.targets is None:
        total = "all teachers and images, on one device"
        figures.append(PlanFigure("teachers_s", total, costs.teachers_s, "s", costs.teachers_basis))
    kept = sum(t.kept_bytes for t in material.teachers)
    temporary = max(t.temporary_bytes for t in material.teachers)  # they are run one after the other
    label = "cache: teachers' outputs"
    figures.append(PlanFigure("targets_bytes", label, kept, "bytes", Basis.DERIVED, "at most"))
    if temporary:
        label, note = "cache: temporary files", "deleted once the outputs are written"
        figures.append(PlanFigure("temporary_bytes", label, temporary, "bytes", Basis.DERIVED, note))
    images = PlanFigure("images_bytes", "cache: images", material.images.kept_bytes, "bytes", Basis.DERIVED)
    return [*figures, images]


def _probe_figures(config: SearchConfig, probed: Sequence[ProbedCosts], basis: Basis) -> list[PlanFigure]:
    parts = (
        ("step_s", f"a training step of {config.distill.batch_size} images", [p.step_s for p in probed]),
        ("evaluate_s", f"evaluation at a rung, {config.val_images} images", [p.evaluate_s for p in probed]),
        ("last_s", "downstream metrics and pictures, last rung", [p.last_s for p in probed]),
        ("measure_s", "timing a candidate against the reference", [p.measure_s for p in probed]),
    )
    note = f"median (range) of {len(probed)} architectures"
    return [spread(key, label, seconds, basis, note) for key, label, seconds in parts]


def _precision_figures(choice: PrecisionChoice | None) -> list[PlanFigure]:
    """Return the times by which the training precision was chosen."""
    if choice is None:
        return []
    return [
        PlanFigure(
            f"step_s.{precision}", f"a training step of the reference in {precision}", ms / 1e3, "s", Basis.MEASURED,
            "chosen" if precision == choice.precision else "",
        )
        for precision, ms in choice.step_ms.items()
    ]  # fmt: skip


def _cost_figures(usd_per_hour: float | None, planned: Forecast) -> list[PlanFigure]:
    if usd_per_hour is None:
        return []
    note = f"{planned.device_hours:,.3g} device-hours at {usd_per_hour:g} US dollars each"
    cost = usd_per_hour * planned.device_hours
    return [PlanFigure("usd", "cost in US dollars", cost, "", Basis.ASSUMED, note)]


def _driver_figures(settings: PlanSettings, cluster: Cluster, driver: DriverTimes) -> list[PlanFigure]:
    ask, tell = "search process: proposing a candidate", "search process: storing a result"
    measured = settings.ask_seconds is None
    note = f"{TUNE_S * 1e3:g} ms of it, for Ray Tune, are assumed; grows with the number of trials" if measured else ""
    return [
        PlanFigure("ask_s", ask, cluster.ask_s, "s", Basis.MEASURED if measured else Basis.ASSUMED, note),
        PlanFigure("tell_s", tell, driver.tell_s, "s", Basis.MEASURED, "sampler and storage"),
        PlanFigure(
            "start_s", "starting a worker process", cluster.start_s, "s", Basis.ASSUMED, "imports, opening the cache"
        ),
    ]


def _teacher_note(config: SearchConfig, here: bool) -> str:
    """Say in which precision the teachers compute, and what that means for a GPU."""
    note = f"Teachers compute in {config.teacher_precision} (--teacher-precision)."
    if config.teacher_precision == "bf16" or (here and config.device == "cpu"):
        return note
    note += " On a GPU, PyTorch does not use tensor cores for fp32 matrix products by default"
    peak = f": their peak is assumed to be {FP32_SLOWDOWN} times lower than in bf16, as on A100 and H100"
    return f"{note}{'' if here else peak}. --teacher-precision bf16 uses them."


def _deadline_notes(clusters: Sequence[Forecast], max_hours: float | None) -> tuple[str, ...]:
    """Return a sentence about the clusters on which no trial ends in time."""
    late = [str(forecast.devices) for forecast in clusters if forecast.fits == 0]
    if not late:
        return ()
    return (
        f"Budget 0 ({', '.join(late)} devices): no trial ends within {max_hours:g} h, the teachers' forward passes"
        " included.",
    )


def _limit_notes(config: SearchConfig) -> list[str]:
    """Return sentences about limits that only a measurement tells."""
    measured = [(LIMITS[name].flag, bound) for name, bound in config.limits.items() if LIMITS[name].measured]
    if not measured:
        return []
    bounds = " ".join(f"{flag} {bound:g}" for flag, bound in measured)
    notes = [
        "The plan measures no latency, throughput or memory: it assumes that every architecture is within"
        f" {bounds}. If many are not, the search measures more architectures than the budget and takes longer."
    ]
    space = " ".join((config.space, *(f"--choices {words}" for words in choice_words(config.choices))))
    setting = f"--img-size {config.distill.img_size} --batch-size {config.measure_batch_size} --device {config.device}"
    seconds = 2 * _TIMED_SAMPLE * config.measure_seconds  # of the whole sample; half is left for what is not timing
    timing = f"--runtime {config.runtime} --samples {_TIMED_SAMPLE} --measure-seconds {seconds:g}"
    profile = f"{PROGRAM} profile --space {space} {bounds} {setting} {timing}"
    notes.append(f"To measure which share of the space is within the limits: {profile}")
    return notes


def _notes(config: SearchConfig, material: Material, here: bool, planned: Forecast) -> tuple[str, ...]:
    """Return the plan's assumptions as sentences."""
    notes = [f"Warning: {material.warning}."] if material.warning else []
    if planned.simulated.ending:
        notes.append(f"The search is likely to end early, as its simulation did: {planned.simulated.ending}.")
    if here and material.targets is None:
        notes.append(
            "The cache has no teacher outputs for these settings yet, so the probe trained on noise of the same shapes,"
            " which takes the same time. The time of the last rung leaves out the downstream metrics that need labels."
        )
    if not here:
        notes.append(
            "Times on the assumed device are computed from MACs, peak and MFU; a step includes the adaptor heads. Not"
            " counted: decoding images, compressing outputs, compiling, copying batches and, without"
            " --read-gb-per-second, waiting for the cache's disk. Teachers and students are assumed to reach the same"
            " MFU, and students to train in bf16."
        )
    notes.append(_teacher_note(config, here))
    if learning := LEARNING.get(config.sampler, DEFAULT_LEARNING):
        recorded = config.sampler if config.sampler in LEARNING else "evolution"
        notes.append(
            f"Candidates are assumed to improve during the search as in recorded searches with {recorded}: whenever the"
            f" number of finished trials doubles, score and throughput rise by {learning * math.log(2):.2f} standard"
            " deviations. So more of them pass each rung than in a random search. On a large cluster the gain is"
            " smaller, because most candidates are proposed before results arrive."
        )
    notes += _limit_notes(config)
    if config.measures_late and config.budget > FIRST_LATE:
        notes.append(
            f"From candidate {FIRST_LATE + 1} on, the sampler is assumed to predict every throughput to 8 %, so that"
            " only candidates that reach the last rung are measured. In one search it did 161 of 200 times."
        )
    if config.distill.ranks > 1:
        notes.append(f"{config.distill.ranks} ranks are assumed to take 1/{config.distill.ranks} of a step's time.")
    if here and config.device == "cpu":
        notes.append(
            "The probe trained one architecture at a time. Workers on the same CPU share its caches and its memory"
            " bandwidth, so each of them is slower than the probe. A device in the table is a machine like this one."
        )
    notes.append(
        "The column 'teachers' assumes that all devices share the teachers' forward passes equally. For this, run"
        " `backbone-nas cache build` on each device before the search: a search runs its teachers on one device only."
        " The column 'search' is the time after that. Device-hours and US dollars include the race; every device counts"
        " to the end."
    )
    return tuple(notes)
