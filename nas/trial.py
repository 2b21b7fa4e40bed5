"""One architecture from its spec to its numbers: build, check limits, measure, train rung by rung."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from backbones import Backbone, build
from backbones.weights import save as save_weights
from nas.bench import Bench, save_samples, setting_of
from nas.cache.targets import Targets
from nas.config import DIRECTIONS, SearchConfig
from nas.contact_sheet import sheet_path
from nas.counters import side_by_side, totals
from nas.diagnosis import diagnose
from nas.distill import parallel
from nas.distill.adaptor import Adaptor
from nas.distill.adaptors import fold, save_heads
from nas.distill.checkpoint import Checkpoint
from nas.distill.evaluate import explained_variance
from nas.distill.pictures import contact_sheet
from nas.distill.probes import probe_metrics
from nas.distill.trainer import Distiller, TrainingError
from nas.limits import limited
from nas.measure import Unmeasured
from nas.measure.exclusive import measuring, training
from nas.places import checkpoint_path
from nas.records import Measurement, RungResult, TrialRecord, TrialState
from search_space import ArchSpec

Together = Callable[[TrialRecord, int], RungResult]


@dataclass(frozen=True)
class Workbench:
    """What a worker process keeps from trial to trial.

    `bench` measures, in processes of its own. `lock_dir` holds the device's locks; `samples_dir` takes the raw samples
    of measurements, `weights_dir` and `pictures_dir` the averaged weights and the contact sheets of trials that reach
    the last rung, `checkpoint_dir` the state of those that are under way. `together` trains one rung of a record in
    several processes, each of which calls `train_rank`; without it this process trains.
    """

    config: SearchConfig
    targets: Targets
    bench: Bench
    lock_dir: Path
    samples_dir: Path
    weights_dir: Path
    pictures_dir: Path
    checkpoint_dir: Path
    checkpoint_s: float = 30.0
    together: Together | None = None


def run_trial(record: TrialRecord, bench: Workbench) -> Iterator[TrialRecord]:
    """Yields the record after the measurement and after every rung; the last one is no longer running.

    The caller ends the trial early by not asking for the next rung. An error of the trial ends up in the
    last record, which keeps what was known before.
    """
    last = record
    try:
        for last in _stages(record, bench):
            yield last
    except Exception as error:
        failure, reason = diagnose(error, bench.config.device)
        yield replace(last, state=TrialState.FAILED, failure=failure, reason=reason)


def _stages(record: TrialRecord, bench: Workbench) -> Iterator[TrialRecord]:
    config = bench.config
    spec = ArchSpec.from_dict(record.spec)
    counted = totals(spec, config.distill.image_px)
    record = replace(record, params=counted.params, macs=counted.macs)
    limits = config.limits if record.origin == "sampler" else {}  # baselines are there to be compared with
    broken = broken_limit(record, limits)
    if not broken:
        record = replace(record, measurement=record.measurement or _measure(record, bench))
        broken = broken_limit(record, limits) or _not_as_asked(record)
    if broken:
        yield replace(record, state=TrialState.INFEASIBLE, reason=broken)
        return
    yield record
    rungs = _train(record, bench)
    for left in reversed(range(len(config.distill.rung_steps))):
        if not left:  # before what is trained could be lost by it
            with training(bench.lock_dir):  # who measures has the machine alone
                record = replace(record, counters=_counters(spec, config))
        record = replace(record, rungs=(*record.rungs, next(rungs)))
        yield replace(record, state=TrialState.RUNNING if left else TrialState.COMPLETE)


def _counters(spec: ArchSpec, config: SearchConfig) -> dict[str, int | None]:
    """MACs of one image by those who count them otherwise than we do. A training's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        _, *others = side_by_side(build(spec), config.distill.image_px)
    return {counter.name: counter.macs for counter in others}


def broken_limit(record: TrialRecord, limits: dict[str, float]) -> str | None:
    """The first hard limit that what is known of `record` breaks, in words, or None."""
    known = limited(record, record.measurement)
    for name, limit in limits.items():
        value = known.get(name, limit)
        if (value < limit) if name.startswith("min_") else (value > limit):
            return f"{name.replace('_', '-')}: {value:.4g} against a limit of {limit:.4g}"
    return None


def _not_as_asked(record: TrialRecord) -> str | None:
    """Why a throughput can stand beside no other: it is of another batch, in words; None where it can."""
    measured = record.measurement
    if measured is None or measured.requested_batch in (None, measured.batch):
        return None
    return f"memory: of a batch of {measured.requested_batch} images {measured.batch} fit"


def _measure(record: TrialRecord, bench: Workbench) -> Measurement:
    """Throughput beside the reference, while nothing trains on the device."""
    config = bench.config
    setting = setting_of(config)
    with measuring(bench.lock_dir):
        measured = bench.bench.measure(record.spec, config.reference, setting, name_of_reference=config.reference)
    save_samples(measured, bench.samples_dir / f"{record.arch_id}.json")
    if measured.record.verdict == "wrong output":
        error = measured.record.output_error
        raise Unmeasured("wrong output", "not finite" if error is None else f"{error:.2g} off fp32 eager's")
    return measured.record


def _train(record: TrialRecord, bench: Workbench) -> Iterator[RungResult]:
    rungs = range(len(bench.config.distill.rung_steps))
    if bench.together is not None:
        saved = _checkpoint(record.arch_id, bench).load() or {"rungs": []}
        done = [RungResult.from_dict(rung) for rung in saved["rungs"]]
        yield from done
        yield from (bench.together(record, rung) for rung in rungs[len(done) :])
        return
    torch.manual_seed(bench.config.seed)
    training = Training(record.arch_id, build(ArchSpec.from_dict(record.spec)), bench)
    try:
        yield from (cast(RungResult, training.rung(rung)) for rung in rungs)
    finally:
        training.close()


def train_rank(record: TrialRecord, rung: int, bench: Workbench) -> RungResult | None:
    """The part of this rank in one rung of a record; the result in rank 0, None in the others."""
    torch.manual_seed(bench.config.seed)
    training = Training(record.arch_id, build(ArchSpec.from_dict(record.spec)), bench)
    try:
        return training.rung(rung)
    finally:
        training.close()


class Training:
    """The rungs of one architecture; what was trained before the process died is not trained again.

    adaptors: heads to begin with, of an earlier training; None: fresh ones. tell: hears of the steps trained, often.
    """

    def __init__(
        self,
        arch_id: str,
        backbone: Backbone,
        bench: Workbench,
        adaptors: Mapping[str, Adaptor] | None = None,
        tell: Callable[[int], None] = lambda steps: None,
    ) -> None:
        config = bench.config
        self._arch_id, self._bench, self._tell = arch_id, bench, tell
        self._slot = TimedSlot(bench.lock_dir)
        # One hold for all ranks: one that has the device and one behind a waiting measurement would wait for ever.
        slot = self._slot if parallel.rank() == 0 else nullcontext
        self._distiller = Distiller(
            backbone, bench.targets, config.distill, seed=config.seed, device=config.device, slot=slot
        )
        if adaptors is not None:
            self._distiller.begin_with(adaptors)
        self._checkpoint = _checkpoint(arch_id, bench)
        self._done: list[RungResult] = []
        saved = self._checkpoint.load()
        if saved is not None:
            self._distiller.restore(saved["distiller"])
            self._done = [RungResult.from_dict(rung) for rung in saved["rungs"]]
            self._slot.busy_s = saved["busy_s"]

    def rung(self, rung: int) -> RungResult | None:
        """The result of the next rung or of an earlier one, trained here or before; None in all ranks but the first."""
        if rung == len(self._done):
            steps = self._bench.config.distill.rung_steps
            self._distiller.advance(steps[rung], self._between)
            if parallel.rank() > 0:
                return None
            self._done.append(self._evaluate(rung, since=steps[rung - 1] if rung else 0))
            if parallel.world() > 1:
                self._save()  # the next rung begins in other processes
        return self._done[rung]

    def close(self) -> None:
        """Ends the reading ahead."""
        self._distiller.close()

    def _evaluate(self, rung: int, since: int) -> RungResult:
        config, averaged, targets = self._bench.config, self._distiller.averaged, self._bench.targets
        last = rung == len(config.distill.rung_steps) - 1
        with self._slot():
            teachers = explained_variance(averaged, targets.val, config.device)
            if config.distill.summary_loss in DIRECTIONS:
                teachers = {name: {"spatial": heads["spatial"]} for name, heads in teachers.items()}
            metrics = probe_metrics(averaged, targets, config.device) if last else {}
            sheet = contact_sheet(averaged, targets, config.device) if last else None
        score = quality(teachers, config.distill.score)
        if not math.isfinite(score):
            raise TrainingError(f"the quality is not finite after {self._distiller.step} steps")
        if sheet is not None:
            sheet.write(sheet_path(self._bench.pictures_dir, self._arch_id))
            net = cast(Backbone, averaged.backbone)
            save_weights(net, self._bench.weights_dir / f"{self._arch_id}.safetensors")
            heads = fold(averaged.heads, targets.teachers, net.spatial_stride)
            save_heads(heads, self._bench.weights_dir / f"{self._arch_id}.heads.safetensors")
        return RungResult(
            rung=rung,
            steps=self._distiller.step,
            quality=score,
            teachers=teachers,
            losses=self._distiller.mean_losses(since),
            metrics=metrics,
            seconds=self._slot.busy_s - sum(done.seconds for done in self._done),
        )

    def _between(self) -> None:
        self._tell(self._distiller.step)
        if self._checkpoint.due and parallel.rank() == 0:
            self._save()

    def _save(self) -> None:
        rungs = [rung.to_dict() for rung in self._done]
        self._checkpoint.save({"distiller": self._distiller.state(), "rungs": rungs, "busy_s": self._slot.busy_s})


def _checkpoint(arch_id: str, bench: Workbench) -> Checkpoint:
    path = checkpoint_path(bench.checkpoint_dir, arch_id)
    return Checkpoint(path, _identity(arch_id, bench), bench.checkpoint_s)


def _identity(arch_id: str, bench: Workbench) -> str:
    """All that a training's numbers depend on."""
    config = bench.config
    return json.dumps([arch_id, bench.targets.fingerprint, config.seed, config.to_dict()["distill"]], sort_keys=True)


class TimedSlot:
    """The device's lock for training; `busy_s` adds up the seconds in it, without those spent waiting for it."""

    def __init__(self, lock_dir: Path) -> None:
        self._lock_dir = lock_dir
        self.busy_s = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with training(self._lock_dir):
            began = time.perf_counter()
            try:
                yield
            finally:
                self.busy_s += time.perf_counter() - began


def quality(teachers: dict[str, dict[str, float]], score: str) -> float:
    """Explained variance of the teachers' maps ("both": mean over each one's heads), each teacher weighing the same."""
    means = [sum(heads.values()) / len(heads) if score == "both" else heads["spatial"] for heads in teachers.values()]
    return sum(means) / len(means)
