"""Measure the cost of trials in a short probe, or count it for a device that is not here.

The probe trains a few architectures for some steps, evaluates and measures them, as a trial does. Without a built cache
it trains on noise of the right shapes: the cost of a step depends on shapes alone. For a device that is not here,
seconds = 2 FLOP x MACs x images / (peak x MFU), as in PaLM (arXiv 2204.02311, appendix B), with counted FLOPs and the
peak of dense bf16. A training step is three forward passes (the backward pass is two), or four of the student with
gradient checkpointing, which adaptor heads do not have. Reading and launching are not counted: `mfu` stands for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import build
from nas.backend.trial import setting_of
from nas.cache.standardize import Standardizer, channels_of_targets, target_channels
from nas.cache.targets import SplitTargets, Targets, TeacherTargets
from nas.data import open_poses
from nas.distill.device_lease import DeviceLease
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.pictures import contact_sheet
from nas.distill.evaluation.tasks import HELD_OUT_IMAGES, TRAIN_IMAGES, probe_images, student_metrics
from nas.distill.heads import mlp_macs
from nas.distill.trainer import Distiller
from nas.machine import cpu_count, lock_dir
from nas.measure import MeasurementError
from nas.measure.counts import totals
from nas.measure.device_lock import measuring
from nas.measure.environment import device_key
from nas.measure.measurement_error import BatchTooLargeError
from nas.measure.memory import release_cached
from nas.measure.service import MeasurementService
from nas.plan.forecast import Candidate
from nas.search.study_opening import train_threads
from nas.study.config import DistillConfig, SearchConfig
from search_space import ArchSpec

ROWS = 128  # held-out images on which evaluation is timed
MAX_STEPS, MIN_STEPS, ENOUGH_S = 20, 3, 5.0  # timed steps of an architecture, and seconds that suffice
WARM_UP = 2

Progress = Callable[[str, int, int], None]
NamedSpecs = list[tuple[str, ArchSpec]]


@dataclass(frozen=True)
class ProbedCosts:
    """The costs of one architecture's trial, in seconds.

    Args:
        name: Name of the architecture.
        params: Number of parameters.
        step_s: A training step.
        evaluate_s: The evaluation at a rung.
        last_s: Probes and pictures, which the last rung adds.
        measure_s: The measurement against the reference.
    """

    name: str
    params: int
    step_s: float
    evaluate_s: float
    last_s: float
    measure_s: float

    def times(self, rung_steps: Sequence[int], ranks: int = 1, reading_s: float = 0.0) -> Candidate:
        """Return the times of the trial, whose steps `ranks` processes share without loss.

        Args:
            rung_steps: Steps of each rung.
            ranks: Processes of a trial.
            reading_s: Seconds in which the disk reads a step, while the one before is computed.
        """
        step_s = max(self.step_s / ranks, reading_s)
        steps_of_rung = [later - earlier for earlier, later in zip((0, *rung_steps), rung_steps, strict=False)]
        seconds = [steps * step_s + self.evaluate_s for steps in steps_of_rung]
        return Candidate(self.measure_s, (*seconds[:-1], seconds[-1] + self.last_s))


def probe(
    config: SearchConfig, named: NamedSpecs, targets: Targets, workers: int, progress: Progress
) -> list[ProbedCosts]:
    """Time architectures on this machine, except those that cannot be measured.

    Args:
        config: Settings of the search.
        named: Architectures to probe, with their names.
        targets: Images and teacher targets to train on.
        workers: Trials at a time, which share the CPUs.
        progress: Receives the number of probed architectures.

    Raises:
        MeasurementError: None could be measured.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(train_threads(workers))
    costs, problem = [], ""
    try:
        with MeasurementService(max(1, cpu_count() - 1)) as service:
            progress("probing architectures", 0, len(named))
            _start(config, service)
            for done, (name, spec) in enumerate(named):
                try:
                    costs.append(_probe(config, name, spec, targets, service))
                except MeasurementError as error:
                    problem = f"{name}: {error.verdict}: {error}"
                progress("probing architectures", done + 1, len(named))
    finally:
        torch.set_num_threads(threads)
    if not costs:
        raise MeasurementError("failed", f"no architecture could be probed; the last error: {problem}")
    return costs


def _start(config: SearchConfig, service: MeasurementService) -> None:
    """Start the measuring process, as trials reuse it, with the reference.

    Raises:
        MeasurementError: The reference cannot be measured, and no search could be.
    """
    try:
        _measure(config, config.arch(config.reference), service)
    except BatchTooLargeError as error:
        smaller = f"choose a smaller --measure-batch-size: the search needs the reference {config.reference}"
        raise MeasurementError("out of memory", f"{error}; {smaller}") from error


def _probe(
    config: SearchConfig, name: str, spec: ArchSpec, targets: Targets, service: MeasurementService
) -> ProbedCosts:
    measure_s = _measure(config, spec.to_dict(), service)
    torch.manual_seed(config.seed)
    lease = DeviceLease(device_locks(config.device))
    distiller = Distiller(build(spec), targets, config.distill, seed=config.seed, device=config.device, lease=lease)
    try:
        step_s = _step_s(distiller, lease)
        with lease():
            evaluate_s, last_s = _evaluation_s(config, distiller, targets)
    finally:
        distiller.close()
    params = totals(spec, config.distill.img_size).params
    return ProbedCosts(name, params, step_s, evaluate_s, last_s, measure_s)


def device_locks(device: str) -> Path:
    """Return the folder of a device's locks."""
    return lock_dir() / device_key(device)


def _measure(config: SearchConfig, arch: Any, service: MeasurementService) -> float:
    """Return the seconds of a measurement, including those of its process."""
    release_cached(config.device)  # of the architectures before: another process measures
    with measuring(device_locks(config.device)):
        began = time.perf_counter()
        service.measure(arch, config.arch(config.reference), setting_of(config), name_of_reference=config.reference)
        return time.perf_counter() - began


def _step_s(distiller: Distiller, lease: DeviceLease) -> float:
    distiller.train_until(WARM_UP)
    before, done = lease.busy_s, distiller.step
    while distiller.step - done < MAX_STEPS:
        distiller.train_until(distiller.step + MIN_STEPS)
        if lease.busy_s - before >= ENOUGH_S:
            break
    return (lease.busy_s - before) / (distiller.step - done)


def _evaluation_s(config: SearchConfig, distiller: Distiller, targets: Targets) -> tuple[float, float]:
    """Return the seconds of a rung's evaluation, and those that the last rung adds.

    They are timed on some of the images and scaled to the images of a trial. Everything runs once before it is timed,
    because a worker imports modules and computes the targets' variance only once.
    """
    student, few = distiller.averaged, first_rows(targets, ROWS, ROWS)
    evaluate = partial(explained_variance, student, few.val, config.device)
    evaluate()
    each_s = _timed(evaluate) / len(few.val)
    student_metrics(student, few, config.device)
    contact_sheet(student, few, config.device)
    rows, probed = max(ROWS, int(ENOUGH_S / each_s)), probe_images(targets)
    some = first_rows(targets, min(rows, probed), min(rows, HELD_OUT_IMAGES))
    timed = sum(len(split) for split in (some.train, some.val, some.poses) if split)
    metrics_s = _timed(lambda: student_metrics(student, some, config.device)) * _evaluated_images(config, probed)
    sheet_s = _timed(lambda: contact_sheet(student, few, config.device))
    return each_s * config.val_images, metrics_s / timed + sheet_s


def _evaluated_images(config: SearchConfig, probed: int = TRAIN_IMAGES) -> int:
    """Return the number of images whose features the evaluation at the last rung takes, with `probed` train images."""
    poses = open_poses(config.data, config.val_images, config.distill.img_size)
    train, val = min(probed, config.train_images * config.views), min(HELD_OUT_IMAGES, config.val_images)
    return train + val + (len(poses) if poses else 0)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


@dataclass(frozen=True)
class AssumedDevice:
    """A device that is not here: its peak in dense bf16 in TFLOP/s, the share reached, seconds of one measurement."""

    tflops: float
    mfu: float
    measure_s: float

    @property
    def seconds_per_mac(self) -> float:
        """Return the seconds of one multiply-accumulate in bf16."""
        return 2.0 / (self.tflops * 1e12 * self.mfu)


def mean_batch(recipe: DistillConfig) -> float:
    """Return the images of a training step: the mean over the groups, if there are any."""
    rates = [(group.rate, group.batch_size) for group in recipe.groups] or [(1.0, recipe.batch_size)]
    return sum(rate * size for rate, size in rates) / sum(rate for rate, _ in rates)


def count_costs(
    config: SearchConfig, named: NamedSpecs, device: AssumedDevice, widths: Mapping[str, tuple[int, int]]
) -> list[ProbedCosts]:
    """Return the costs of architectures on a device that is not here, from their counted operations.

    Args:
        config: Settings of the search.
        named: Architectures, with their names.
        device: The device.
        widths: Channels of each teacher's (summary, spatial) outputs.
    """
    recipe = config.distill
    batch = mean_batch(recipe)
    passes = 4 if recipe.grad_checkpointing else 3
    probed = _evaluated_images(config)
    channels = channels_of_targets(widths, config)
    costs = []
    for name, spec in named:
        macs, params = totals(spec, recipe.img_size)
        heads = {teacher: _heads_macs(spec, config, each) for teacher, each in channels.items()}
        step_s = (passes * batch * macs + 3 * _heads_macs_of_a_step(recipe, heads)) * device.seconds_per_mac
        evaluate_s = config.val_images * (macs + sum(heads.values())) * device.seconds_per_mac
        last_s = probed * macs * device.seconds_per_mac
        costs.append(ProbedCosts(name, params, step_s, evaluate_s, last_s, device.measure_s))
    return costs


def _heads_macs(spec: ArchSpec, config: SearchConfig, channels: tuple[int, int]) -> int:
    """Return the MACs of the heads of a teacher whose targets have `channels` (summary, spatial), for one image."""
    width, (summary, spatial) = spec.stages[-1].width, channels
    places = [(config.grid**2, width if spec.neck_dim is None else spec.neck_dim, spatial)]
    if summary:
        places.append((1, width, summary))
    return sum(count * mlp_macs(entering, config.distill.head_width, leaving) for count, entering, leaving in places)


def _heads_macs_of_a_step(recipe: DistillConfig, heads: Mapping[str, int]) -> float:
    """Return the MACs of a step's heads, forward, as `mean_batch`; `heads` has those of each teacher for one image."""
    rates = [(group.rate, group.batch_size, group.teachers) for group in recipe.groups]
    rates = rates or [(1.0, recipe.batch_size, tuple(heads))]
    total = sum(rate * size * sum(heads[teacher] for teacher in teachers) for rate, size, teachers in rates)
    return total / sum(rate for rate, _, _ in rates)


def first_rows(targets: Targets, train: int, val: int) -> Targets:
    """Return the targets of the first images only, with an even number of poses."""
    poses = None if targets.poses is None else _first_rows(targets.poses, 2 * (val // 2))
    return replace(targets, train=_first_rows(targets.train, train), val=_first_rows(targets.val, val), poses=poses)


def synthetic_targets(config: SearchConfig, widths: Mapping[str, tuple[int, int]], share: float, rows: int) -> Targets:
    """Return noise in the shapes of a search's images and targets, without labels and masks.

    Args:
        config: Settings of the search.
        widths: Channels of each teacher's (summary, spatial) outputs.
        share: Share of the channels that the cache keeps.
        rows: Images of each split.
    """
    rng = np.random.default_rng(0)
    px, grid = config.distill.img_size, config.grid
    channels = {name: target_channels(each, grid**2, share) for name, each in widths.items()}

    def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.standard_normal(shape, dtype=np.float32)

    def split() -> SplitTargets:
        images = rng.integers(0, 256, (rows, 3, px, px), dtype=np.uint8)
        summary = {name: noise(rows, wide) for name, (wide, _) in channels.items() if wide}
        spatial = {name: noise(rows, wide, grid, grid) for name, (_, wide) in channels.items()}
        return SplitTargets(images=images, labels=None, masks=None, summary=summary, spatial=spatial)

    def standardizer(channels: int, dims: int) -> Standardizer:
        forward = rng.standard_normal((dims, channels)) / channels**0.5
        return Standardizer(np.zeros(channels), forward, np.linalg.pinv(forward), 1.0)

    teachers = {}
    for name, (summary, spatial) in widths.items():
        of_summary = standardizer(summary, channels[name][0]) if summary else None
        teachers[name] = TeacherTargets("synthetic", of_summary, standardizer(spatial, channels[name][1]))
    return Targets(
        Path("synthetic"), "synthetic", "synthetic", split(), split(), teachers, None, None, px, grid, 0.0, ()
    )


def _first_rows(split: SplitTargets, rows: int) -> SplitTargets:
    return SplitTargets(
        images=split.images[:rows],
        labels=None if split.labels is None else split.labels[:rows],
        masks=None if split.masks is None else split.masks[:rows],
        summary={name: array[:rows] for name, array in split.summary.items()},
        spatial={name: array[:rows] for name, array in split.spatial.items()},
    )
