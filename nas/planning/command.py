"""``nas.search --plan``: asks the teachers, probes, simulates, prints."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from nas.cache.build import share_of
from nas.config import ConfigError, SearchConfig
from nas.limits import LIMITS, CountedCosts, broken_limit
from nas.measure.counts.totals import totals
from nas.measure.environment import device_key, device_name, environment, torch_device
from nas.places import cache_root, lock_dir
from nas.planning.arguments import START_S
from nas.planning.counted import AssumedDevice, counted
from nas.planning.driver import TUNE_S, DriverTimes, driver_times
from nas.planning.figures import Basis, Figure, weaker
from nas.planning.plan import SIZES, Costs, Plan, outlooks, probed_figures, search_figures
from nas.planning.plot import gantt
from nas.planning.probe import ROWS, Desk, Probed, probe
from nas.planning.simulate import Cluster
from nas.planning.standin import stand_in
from nas.planning.table import as_json, show
from nas.planning.teachers import Material, material_counted, material_here
from nas.planning.workload import LEARNING, OTHERS_LEARN
from nas.progress import StageProgress
from nas.records import Objective
from search_space import SPACES, ArchSpec, preset

MFU = 0.3
_PROBED, _COUNTED = 3, 64  # random architectures
_DRAWS = 300

Named = list[tuple[str, ArchSpec]]


def run(
    config: SearchConfig, given: Mapping[str, Any], workers: int, objectives: tuple[Objective, ...], console: Console
) -> int:
    """Prints the plan of a search with these settings and flags; `workers` is what this machine would run."""
    progress = StageProgress(console)
    with progress.showing():
        plan = _plan(config, given, workers, objectives, progress)
    if "plot" in given:
        gantt(next(o for o in plan.outlooks if o.own).simulated, Path(given["plot"]))
    if given.get("json"):
        print(json.dumps(as_json(plan, config.to_dict())))
    else:
        show(plan, Console(soft_wrap=False))
    return 0


def _plan(
    config: SearchConfig,
    given: Mapping[str, Any],
    workers: int,
    objectives: tuple[Objective, ...],
    progress: StageProgress,
) -> Plan:
    here = "assume_tflops" not in given
    chosen, infeasible = _sampled(config, given.get("probe", _PROBED if here else _COUNTED))
    if here:
        material, probed = _measured(config, given, workers, chosen, progress)
        basis, device = Basis.MEASURED, device_name(torch_device(config.device))
    else:
        peak, mfu = given["assume_tflops"], given.get("mfu", MFU)
        assumed = AssumedDevice(peak, mfu, given.get("assume_measure_s", config.measure_seconds))
        material = material_counted(config, given.get("teacher") or {}, assumed.seconds_per_mac)
        probed = counted(config, chosen, assumed)
        basis, device = Basis.ASSUMED, f"a device of {peak:g} TFLOP/s at an assumed MFU of {mfu:g}"
    driver = driver_times(config, objectives)
    costs = _costs(config, material, probed, infeasible, basis)
    if not here:
        workers = max(1, given.get("gpus", [1])[0] // config.distill.ranks)
    by_device = workers if here and config.device == "cpu" else 1
    own = Cluster(
        devices=workers // by_device,
        workers_per_device=by_device,
        start_s=given.get("start_s", START_S),
        ask_s=given.get("ask_s", driver.ask_s),
        tell_s=driver.tell_s,
    )
    deadline_h = given.get("deadline")
    found = outlooks(config, costs, own, [*SIZES, *given.get("gpus", ())], deadline_h)
    figures = [
        *_teacher_figures(material, costs),
        *_probe_figures(config, probed, basis),
        *_driver_figures(given, own, driver),
        *search_figures(config, costs, next(o for o in found if o.own).simulated),
    ]
    return Plan(device, here, tuple(figures), found, deadline_h, _notes(config, material, here))


def _sampled(config: SearchConfig, number: int) -> tuple[Named, float]:
    """The reference and baselines by name, random architectures within the limits that counting can check; the share
    of the space that is not."""
    rng, space = random.Random(f"plan/{config.seed}"), SPACES[config.space]
    named: Named = [(name, preset(name)) for name in dict.fromkeys((config.reference, *config.baselines))]
    found: Named = []
    for drawn in range(1, _DRAWS + 1):
        spec = space.sample(rng)
        counts = totals(spec, config.distill.image_px)
        if not broken_limit(CountedCosts(counts.params, counts.macs), config.limits):
            found.append((spec.arch_id, spec))
        if len(found) == number:
            return [*named, *found], 1 - number / drawn
    raise ConfigError(f"limits: only {len(found)} of {_DRAWS} random architectures of the space are within them")


def _measured(
    config: SearchConfig, given: Mapping[str, Any], workers: int, chosen: Named, progress: StageProgress
) -> tuple[Material, list[Probed]]:
    """On this machine; only one of the presets is trained."""
    material = material_here(config, given.get("teacher") or {}, cache_root(given.get("cache")), progress)
    rows = max(ROWS, config.distill.largest_batch)
    targets = material.targets or stand_in(config, material.widths, share_of(config.storage, None), rows)
    presets = {config.reference, *config.baselines}
    wanted = [(name, spec) for name, spec in chosen if name == config.reference or name not in presets]
    cpus = int(environment("cpu")["cpus"])
    desk = Desk(max(1, cpus // workers), max(1, cpus - 1), lock_dir() / device_key(config.device))
    return material, probe(config, wanted, targets, desk, progress)


def _costs(
    config: SearchConfig, material: Material, probed: Sequence[Probed], infeasible: float, basis: Basis
) -> Costs:
    recipe, presets = config.distill, {config.reference, *config.baselines}
    times = {found.name: found.times(recipe.rung_steps, recipe.ranks) for found in probed}
    random_ones = [found for found in probed if found.name not in presets] or list(probed)
    reference = times.get(config.reference, times[random_ones[0].name])
    seconds = [teacher.seconds for teacher in material.teachers]
    known = [s for s in seconds if s is not None]
    return Costs(
        candidates=tuple(times[found.name] for found in random_ones),
        baselines=tuple(times.get(name, reference) for name in config.baselines),
        params=fmean(found.params for found in random_ones),
        infeasible=infeasible,
        basis=basis,
        teachers_s=sum(known) + material.images.seconds if len(known) == len(seconds) else None,
        teachers_basis=weaker(*(teacher.basis for teacher in material.teachers)),
    )


def _teacher_figures(material: Material, costs: Costs) -> list[Figure]:
    found = []
    for t in material.teachers:
        note = f"{t.passes:,} passes; {t.note}" if t.passes else t.note
        found.append(Figure(f"teacher_s.{t.name}", t.name, t.seconds, "s", t.basis, note))
    if material.targets is None:
        total = "all teachers and images, on one device"
        found.append(Figure("teachers_s", total, costs.teachers_s, "s", costs.teachers_basis))
    stays = sum(t.stays for t in material.teachers)
    goes = sum(t.goes for t in material.teachers)
    found.append(Figure("targets_bytes", "teacher targets to be written", stays, "bytes", Basis.DERIVED, "at most"))
    if goes:
        found.append(Figure("passing_bytes", "more while they are made", goes, "bytes", Basis.DERIVED))
    return [*found, Figure("images_bytes", "images to be written", material.images.stays, "bytes", Basis.DERIVED)]


def _probe_figures(config: SearchConfig, probed: Sequence[Probed], basis: Basis) -> list[Figure]:
    parts = (
        ("step_s", f"a training step of {config.distill.batch_size} images", [p.step_s for p in probed]),
        ("evaluate_s", f"evaluation at a rung, {config.val_images} images", [p.evaluate_s for p in probed]),
        ("last_s", "more at the last rung: probes, pictures", [p.last_s for p in probed]),
        ("measure_s", "a measurement beside the reference", [p.measure_s for p in probed]),
    )
    return probed_figures(parts, basis, f"{len(probed)} architectures: median (least to most)")


def _driver_figures(given: Mapping[str, Any], own: Cluster, driver: DriverTimes) -> list[Figure]:
    ask, tell = "driver: a new trial", "driver: a result"
    note = f"{TUNE_S * 1e3:g} ms of it Tune's, as once measured; grows with the study"
    basis = Basis.ASSUMED if "ask_s" in given else Basis.MEASURED
    return [
        Figure("ask_s", ask, own.ask_s, "s", basis, "" if "ask_s" in given else note),
        Figure("tell_s", tell, driver.tell_s, "s", Basis.MEASURED, "in the sampler's and storage's own code"),
        Figure("start_s", "start of a worker", own.start_s, "s", Basis.ASSUMED, "imports, opening the cache"),
    ]


def _notes(config: SearchConfig, material: Material, here: bool) -> tuple[str, ...]:
    found = []
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
