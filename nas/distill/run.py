"""Train one architecture rung by rung: checkpoints on the way, weights and pictures at the end."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from backbones import Backbone, build
from backbones.weights import save as save_weights
from nas.bench import Bench
from nas.cache.targets import Targets
from nas.config import DIRECTIONS, SearchConfig
from nas.contact_sheet import sheet_path
from nas.distill import distributed
from nas.distill.adaptor import Adaptor
from nas.distill.adaptors import fold, save_heads
from nas.distill.evaluation.explained_variance import explained_variance
from nas.distill.evaluation.pictures import contact_sheet
from nas.distill.evaluation.probes import probe_metrics
from nas.distill.trainer import Distiller, TrainingError
from nas.measure.exclusive import training
from nas.places import checkpoint_path
from nas.records import RungResult, TrialRecord
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


class Checkpoint:
    """The one checkpoint of a training, at `path`, for whoever shows the same `identity`.

    A file that is damaged or of another identity counts as none: the training begins anew.
    """

    def __init__(self, path: Path, identity: str, every_s: float = 30.0) -> None:
        self._path, self._identity, self._every_s = path, identity, every_s
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough to write another."""
        return time.monotonic() - self._written >= self._every_s

    def save(self, content: dict[str, Any]) -> None:
        """Writes tensors and plain values beside the old checkpoint, then in its place."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            torch.save({"identity": self._identity, "content": content}, unfinished)
            unfinished.replace(self._path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None."""
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None
        known = isinstance(saved, dict) and saved.get("identity") == self._identity
        return dict(saved["content"]) if known else None


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
        slot = self._slot if distributed.rank() == 0 else nullcontext
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
            if distributed.rank() > 0:
                return None
            self._done.append(self._evaluate(rung, since=steps[rung - 1] if rung else 0))
            if distributed.world() > 1:
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
        if self._checkpoint.due and distributed.rank() == 0:
            self._save()

    def _save(self) -> None:
        rungs = [rung.to_dict() for rung in self._done]
        self._checkpoint.save({"distiller": self._distiller.state(), "rungs": rungs, "busy_s": self._slot.busy_s})


def kept_rungs(arch_id: str, bench: Workbench) -> list[RungResult]:
    """What was trained before, as the checkpoint of a training under way tells."""
    saved = _checkpoint(arch_id, bench).load()
    return [] if saved is None else [RungResult.from_dict(rung) for rung in saved["rungs"]]


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


def train_rank(record: TrialRecord, rung: int, bench: Workbench) -> RungResult | None:
    """The part of this rank in one rung of a record; the result in rank 0, None in the others."""
    torch.manual_seed(bench.config.seed)
    training = Training(record.arch_id, build(ArchSpec.from_dict(record.spec)), bench)
    try:
        return training.rung(rung)
    finally:
        training.close()
