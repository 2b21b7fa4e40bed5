"""The measured probe: a few architectures are trained for some steps, evaluated and measured, as a trial would be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backbones import build
from nas.cache.targets import Targets
from nas.config import SearchConfig
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.pictures import contact_sheet
from nas.distill.evaluation.probes import HELD_OUT_IMAGES, PROBE_IMAGES, probe_metrics
from nas.distill.run import TimedSlot
from nas.distill.trainer import Distiller
from nas.measure import MeasurementError
from nas.measure.counts import totals
from nas.measure.device_lock import measuring
from nas.measure.service import MeasurementService
from nas.planning.standin import first_rows
from nas.planning.workload import TrialTimes
from search_space import ArchSpec

ROWS = 128  # held-out images on which evaluation is timed
STEPS, LEAST_STEPS, ENOUGH_S = 20, 3, 5.0  # timed steps of an architecture: at most, at least, and when it will do
WARM_UP = 2

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Probed:
    """Seconds of one architecture: a step, the evaluation at a rung, what the last rung adds, the measurement."""

    name: str
    macs: int
    params: int
    step_s: float
    evaluate_s: float
    last_s: float
    measure_s: float

    def times(self, rung_steps: Sequence[int], ranks: int = 1) -> TrialTimes:
        """Of a trial; `ranks` processes share its steps without loss."""
        own = [later - earlier for earlier, later in zip((0, *rung_steps), rung_steps, strict=False)]
        seconds = [steps * self.step_s / ranks + self.evaluate_s for steps in own]
        return TrialTimes(self.measure_s, (*seconds[:-1], seconds[-1] + self.last_s))


@dataclass(frozen=True)
class Desk:
    """What probing needs: threads of a training worker and of a measurement, and the device's locks."""

    train_threads: int
    measure_threads: int
    lock_dir: Path


def probe(
    config: SearchConfig, named: Sequence[tuple[str, ArchSpec]], targets: Targets, desk: Desk, progress: Progress
) -> list[Probed]:
    """Times of every named architecture; those that cannot be measured are left out. MeasurementError: none can."""
    threads = torch.get_num_threads()
    torch.set_num_threads(desk.train_threads)
    found, problem = [], ""
    try:
        with MeasurementService(desk.measure_threads) as bench:
            progress("probing architectures", 0, len(named))
            _measure(config, config.reference, bench, desk)  # starts the measuring process, which trials keep
            for done, (name, spec) in enumerate(named):
                try:
                    found.append(_probe(config, name, spec, targets, bench, desk))
                except MeasurementError as error:
                    problem = f"{name}: {error.verdict}: {error}"
                progress("probing architectures", done + 1, len(named))
    finally:
        torch.set_num_threads(threads)
    if not found:
        raise MeasurementError("failed", f"no architecture could be probed; the last: {problem}")
    return found


def _probe(
    config: SearchConfig, name: str, spec: ArchSpec, targets: Targets, bench: MeasurementService, desk: Desk
) -> Probed:
    counted = totals(spec, config.distill.image_px)
    measure_s = _measure(config, spec.to_dict(), bench, desk)
    torch.manual_seed(config.seed)
    slot = TimedSlot(desk.lock_dir)
    distiller = Distiller(
        build(spec), targets, config.distill, seed=config.seed, device=config.device, slot=slot
    )  # fmt: skip
    try:
        step_s = _step_s(distiller, slot)
        with slot():
            evaluate_s, last_s = _evaluation_s(config, distiller, targets)
    finally:
        distiller.close()
    return Probed(name, counted.macs, counted.params, step_s, evaluate_s, last_s, measure_s)


def _measure(config: SearchConfig, arch: Any, bench: MeasurementService, desk: Desk) -> float:
    """Seconds of a whole measurement, its process included."""
    setting = setting_of(config)
    with measuring(desk.lock_dir):
        began = time.perf_counter()
        bench.measure(arch, config.reference, setting, name_of_reference=config.reference)
        return time.perf_counter() - began


def _step_s(distiller: Distiller, slot: TimedSlot) -> float:
    distiller.train_until(WARM_UP)
    before, done = slot.busy_s, distiller.step
    while distiller.step - done < STEPS:
        distiller.train_until(distiller.step + LEAST_STEPS)
        if slot.busy_s - before >= ENOUGH_S:
            break
    return (slot.busy_s - before) / (distiller.step - done)


def _evaluation_s(config: SearchConfig, distiller: Distiller, targets: Targets) -> tuple[float, float]:
    """Of a rung and, beside it, of the last one: on some of the images, in proportion to those of a trial.

    Everything runs once before it is timed: a worker imports, and computes the targets' own variance, once.
    """
    student, few = distiller.averaged, first_rows(targets, ROWS, ROWS)
    evaluate = partial(explained_variance, student, few.val, config.device)
    evaluate()
    each_s = _seconds(evaluate) / len(few.val)
    probe_metrics(student, few, config.device)
    contact_sheet(student, few, config.device)
    rows = max(ROWS, int(ENOUGH_S / each_s))
    some = first_rows(targets, min(rows, PROBE_IMAGES), min(rows, HELD_OUT_IMAGES))
    wanted = min(PROBE_IMAGES, config.train_images * config.views) + min(HELD_OUT_IMAGES, config.val_images)
    metrics_s = _seconds(lambda: probe_metrics(student, some, config.device)) * wanted
    sheet_s = _seconds(lambda: contact_sheet(student, few, config.device))
    return each_s * config.val_images, metrics_s / (len(some.train) + len(some.val)) + sheet_s


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
