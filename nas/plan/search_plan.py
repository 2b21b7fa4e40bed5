"""Plan a search: time the teachers, probe architectures, simulate clusters."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import fmean

from nas.backend.simulated import Cluster
from nas.cli import PROGRAM
from nas.distill.precision import choose_precision
from nas.machine import cache_root
from nas.measure.counts.totals import totals
from nas.measure.environment import check_compute_mode, device_name, torch_device
from nas.numbers import format_bytes
from nas.plan.arguments import PlanSettings
from nas.plan.forecast import (
    DEFAULT_LEARNING,
    FIRST_LATE,
    LEARNING,
    RACE_TRAININGS,
    SIZES,
    Basis,
    Forecast,
    PlanCosts,
    PlanFigure,
    RaceCosts,
    forecasts,
    race_figures,
    search_figures,
    spread,
    weaker,
)
from nas.plan.probe import (
    ROWS,
    AssumedDevice,
    NamedSpecs,
    ProbedCosts,
    count_costs,
    device_locks,
    mean_batch,
    probe,
    synthetic_targets,
)
from nas.plan.teacher_costs import FP32_SLOWDOWN, Material, bytes_of_an_image, material_counted, material_here
from nas.search.options import MFU
from nas.search.preconditions import check_limits
from nas.search.study_opening import train_threads
from nas.stage_progress import StageProgress
from nas.study.config import TARGET_SHARE, SearchConfig, is_of_timm
from nas.study.limits import LIMITS, broken_limit
from search_space import ArchSpec

_PROBED, _COUNTED = 3, 64  # random architectures
_MAX_DRAWS = 300
TELL_S = 0.002  # the driver's seconds for a result, timed with small studies


@dataclass(frozen=True)
class SearchPlan:
    """The plan that the command prints.

    Args:
        settings: The search and the settings of the plan.
        device: Name of the device.
        figures: Numbers of the planned cluster.
        forecasts: Forecasts of all clusters, ordered by their size.
        notes: Assumptions, one sentence or more each.
    """

    settings: PlanSettings
    device: str
    figures: tuple[PlanFigure, ...]
    forecasts: tuple[Forecast, ...]
    notes: tuple[str, ...]

    @property
    def planned(self) -> Forecast:
        """Return the forecast of the planned cluster."""
        return next(forecast for forecast in self.forecasts if forecast.planned)

    def usd(self, forecast: Forecast) -> float | None:
        """Return the cost of a forecast in US dollars; None without a price."""
        price = self.settings.usd_per_hour
        return None if price is None else price * forecast.device_hours


def plan_search(settings: PlanSettings, progress: StageProgress) -> SearchPlan:
    """Return the plan of a search.

    Raises:
        DeviceError: A GPU here takes one process, but a second one measures.
        MeasurementError: No architecture could be probed here.
        ConfigError: No random architecture is within the limits, or the search would refuse the images here.
    """
    config, race = settings.config, settings.race
    if settings.here:
        check_compute_mode(config.device)
    chosen, infeasible = _sampled(config, _PROBED if settings.here else _COUNTED)
    material = _material(settings, config, progress)
    if settings.here:
        config = replace(config, val_images=material.val_images)
        probed = _measured(config, settings.workers, material, chosen, progress)
        basis, device = Basis.MEASURED, device_name(torch_device(config.device))
    else:
        assumed = _assumed_device(settings)
        probed = count_costs(config, chosen, assumed, material.widths)
        basis, device = Basis.ASSUMED, f"an assumed device: peak {assumed.tflops:g} TFLOP/s, MFU {assumed.mfu:g}"
    other_images = race is not None and race.train_images != config.train_images
    of_race = _material(settings, race, progress).teachers_s if race is not None and other_images else (0.0, basis)
    step_bytes = bytes_of_an_image(config, material.widths) * mean_batch(config.distill)

    def reading_s(workers: int) -> float:
        gb_s = settings.read_gb_per_second
        return 0.0 if gb_s is None else workers * step_bytes / (gb_s * 1e9)

    def costs_of(workers: int) -> PlanCosts:
        costs = _costs(config, material, probed, infeasible, basis, reading_s(workers))
        if race is None:
            return costs
        steps, ranks = race.distill.rung_steps, race.distill.ranks
        slowed_s = reading_s(min(workers, RACE_TRAININGS[1]))
        trainings = tuple(sum(each.times(steps, ranks, slowed_s).rung_s) for each in probed)
        return replace(costs, race=RaceCosts(*of_race, trainings))

    by_device = settings.workers if settings.here and config.device == "cpu" else 1  # a GPU has one trial at a time
    cluster = Cluster(settings.workers // by_device, by_device, settings.start_seconds, settings.ask_seconds, TELL_S)
    clusters = forecasts(config, costs_of, cluster, settings.gpus or SIZES, settings.max_hours)
    planned, costs = next(forecast for forecast in clusters if forecast.planned), costs_of(cluster.workers)
    figures = [
        *_teacher_figures(material, costs),
        *_probe_figures(config, probed, basis),
        _reading_figure(config, step_bytes, probed, cluster.workers, reading_s(cluster.workers), basis),
        PlanFigure(
            "ask_s", "search process: proposing a candidate", cluster.ask_s, "s", Basis.ASSUMED, "--ask-seconds"
        ),
        PlanFigure("start_s", "starting a worker process", cluster.start_s, "s", Basis.ASSUMED, "--start-seconds"),
        *search_figures(config, costs, planned.simulated),
        *([] if costs.race is None else race_figures(costs.race, basis, planned)),
    ]
    notes = _notes(config, material, settings.here, planned)
    return SearchPlan(settings, device, tuple(figures), clusters, notes)


def _material(settings: PlanSettings, config: SearchConfig, progress: StageProgress) -> Material:
    if settings.here:
        return material_here(config, settings.weights, cache_root(settings.cache), progress)
    return material_counted(config, settings.weights, _assumed_device(settings))


def _assumed_device(settings: PlanSettings) -> AssumedDevice:
    measure_s, mfu = settings.assume_measure_seconds, settings.mfu
    return AssumedDevice(
        tflops=settings.assume_tflops or 0.0,
        mfu=MFU if mfu is None else mfu,
        measure_s=settings.config.measure_seconds if measure_s is None else measure_s,
    )


def _sampled(config: SearchConfig, number: int) -> tuple[NamedSpecs, float]:
    """Return named and random architectures, and the share of the space that breaks a limit on counted costs.

    The named ones are the reference and the baselines, without networks of timm. The random ones are fewer than
    `number` where few of those that are drawn are within the limits.
    """
    rng, space = random.Random(f"plan/{config.seed}"), config.search_space
    names = dict.fromkeys((config.reference, *config.baselines))
    of_names = ((name, config.spec(name)) for name in names if not is_of_timm(name))
    named: NamedSpecs = [(name, spec) for name, spec in of_names if isinstance(spec, ArchSpec)]
    feasible: NamedSpecs = []
    for drawn in count(1):
        spec = space.sample(rng)
        if not broken_limit(totals(spec, config.distill.img_size), config.limits):
            feasible.append((spec.arch_id, spec))
        if len(feasible) == number or (feasible and drawn >= _MAX_DRAWS):
            break
        if drawn == _MAX_DRAWS:
            check_limits(config)
    return [*named, *feasible], 1 - len(feasible) / drawn


def _measured(
    config: SearchConfig, workers: int, material: Material, chosen: NamedSpecs, progress: StageProgress
) -> list[ProbedCosts]:
    """Choose the precision as the search does, and probe the random architectures and the reference on this machine."""
    rows = max(ROWS, config.distill.largest_batch)
    targets = material.targets or synthetic_targets(config, material.widths, TARGET_SHARE, rows)
    presets = {config.reference, *config.baselines}
    wanted = [(name, spec) for name, spec in chosen if name == config.reference or name not in presets]
    if config.distill.precision == "auto":
        reference, locks = config.spec(config.search_space.reference), device_locks(config.device)
        choice = choose_precision(reference, targets, config, train_threads(workers), locks)
        config = replace(config, distill=replace(config.distill, precision=choice.precision))
    return probe(config, wanted, targets, workers, progress)


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


def _reading_figure(
    config: SearchConfig,
    step_bytes: float,
    probed: Sequence[ProbedCosts],
    workers: int,
    reading_s: float,
    basis: Basis,
) -> PlanFigure:
    """Return the bytes that all workers together read from the cache in a second, if no training waits for it.

    The note says how many architectures wait for the disk, if all workers train at all times.
    """
    recipe = config.distill
    each, whole = step_bytes / mean_batch(recipe), recipe.rung_steps[-1] * step_bytes
    note = f"at random; {format_bytes(each)} an image, {format_bytes(whole)} a full training"
    if waiting := sum(costs.step_s / recipe.ranks < reading_s for costs in probed):
        waits = f"wait for the disk, which reads a step of all workers in {reading_s:.3g} s"
        note += f"; {waiting} of {len(probed)} architectures {waits} (--read-gb-per-second)"
    rate = workers * step_bytes * recipe.ranks / fmean(costs.step_s for costs in probed)
    return PlanFigure("read_bytes_s", "reading while all workers train", rate, "bytes/s", weaker(basis), note)


def _notes(config: SearchConfig, material: Material, here: bool, planned: Forecast) -> tuple[str, ...]:
    """Return the plan's assumptions as sentences."""
    on_cpu, ranks, ending = here and config.device == "cpu", config.distill.ranks, planned.simulated.ending
    learning = LEARNING.get(config.sampler, DEFAULT_LEARNING)
    recorded = config.sampler if config.sampler in LEARNING else "evolution"
    limits = [f"{LIMITS[name].flag} {bound:g}" for name, bound in config.limits.items() if LIMITS[name].measured]
    peak = "" if here else f", and their peak is assumed to be {FP32_SLOWDOWN} times lower than in bf16"
    notes = (
        (material.warning, f"Warning: {material.warning}."),
        (ending, f"The search is likely to end early, as its simulation did: {ending}."),
        (
            here and material.targets is None,
            "The cache has no teacher outputs for these settings yet, so the probe trained on noise of the same shapes,"
            " which takes the same time. The time of the last rung leaves out the downstream metrics that need labels.",
        ),
        (
            not here,
            "Times on the assumed device are computed from MACs, peak and MFU; a step includes the adaptor heads. Not"
            " counted: decoding images, compressing outputs, compiling, copying batches and, without"
            " --read-gb-per-second, waiting for the cache's disk. Students are assumed to train in bf16.",
        ),
        (True, f"Teachers compute in {config.teacher_precision} (--teacher-precision)."),
        (
            config.teacher_precision == "fp32" and not on_cpu,
            f"On a GPU, fp32 matrix products use no tensor cores{peak}. --teacher-precision bf16 uses them.",
        ),
        (
            learning,
            f"Candidates are assumed to improve during the search as in recorded searches with {recorded}: whenever the"
            f" number of finished trials doubles, score and throughput rise by {learning * math.log(2):.2f} standard"
            " deviations. So more of them pass each rung than with --sampler random.",
        ),
        (
            limits,
            f"Every architecture is assumed to be within {' '.join(limits)}. If many are not, the search measures more"
            f" architectures than the budget; `{PROGRAM} profile --space` measures how many are.",
        ),
        (
            config.measures_late and config.budget > FIRST_LATE,
            f"From candidate {FIRST_LATE + 1} on, the sampler is assumed to predict every throughput to 8 %, so that"
            " only candidates that reach the last rung are measured. In one search it did 161 of 200 times.",
        ),
        (ranks > 1, f"{ranks} ranks are assumed to take 1/{ranks} of a step's time."),
        (
            on_cpu,
            "The probe trained one architecture at a time. Workers on the same CPU share its caches and its memory"
            " bandwidth, so each of them is slower than the probe. A device in the table is a machine like this one.",
        ),
        (
            True,
            "The column 'teachers' assumes that all devices share the teachers' forward passes equally. For this, run"
            f" `{PROGRAM} cache build` on each device before the search: a search runs its teachers on one device only."
            " The column 'search' is the time after that.",
        ),
    )
    return tuple(note for holds, note in notes if holds)
