"""``--train-longer STEPS``: the net distilled on before it is exported, in processes of its own.

As many GPUs take part as divide the batch.
It goes on from the weights and heads that the study kept, not from nothing: the recipe's rate is constant, so there is
no decayed rate to be raised again and nothing that the study has learned to be thrown away. What was not kept, the
optimizer's moments, starts anew behind the recipe's warm-up, and the images come in another order.
"""

from __future__ import annotations

import json
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas.config import ConfigError, SearchConfig
from nas.exporting.choice import ExportError
from nas.exporting.kept import Kept
from nas.exporting.longer_worker import Job, train
from nas.finals.crew import MEMORY, ctrl_c_is_ours, how_it_ended
from nas.finals.worker import Places
from nas.measure.environment import torch_device
from nas.places import checkpoint_interval_s, checkpoint_path, lock_dir
from nas.progress import StageProgress
from nas.records import RungResult, Study, TrialRecord

FOLDER = "longer"  # in the run's folder
OTHER_ORDER = 1000  # on the seed of the training before


@dataclass(frozen=True)
class Longer:
    """A training to be done: of which net, from what, how long, by how many processes."""

    trial: TrialRecord
    start: Kept | None  # None: from nothing
    steps: int
    config: SearchConfig  # the study's, but for device, rungs, ranks and seed
    folder: Path

    @property
    def kept(self) -> Path:
        """Where its weights are when it is over."""
        return self.folder / f"seed-{self.config.seed}" / "weights" / f"{self.trial.arch_id}.safetensors"

    @property
    def told(self) -> Path:
        """Where its result is when it is over."""
        return self.kept.with_suffix(".json")

    def done(self) -> Kept | None:
        """What came of it; None where it is not over."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            result = RungResult.from_dict(json.loads(self.told.read_text()))
            if self.kept.is_file():
                before = self.start.result.steps if self.start else 0
                total = replace(result, steps=before + result.steps)
                how = "longer" if self.start else "from nothing"
                return Kept(self.kept, total, self.config.seed, f"distilled {self.steps} steps {how}")
        return None


def planned(run_dir: Path, study: Study, trial: TrialRecord, start: Kept | None, given: Namespace) -> Longer:
    """The training that was asked for; the same for the same command."""
    own = SearchConfig.from_dict(study.info.config)
    device = torch_device(given.device or own.device).type
    distill = replace(own.distill, rung_steps=(given.train_longer,), ranks=1)
    config = replace(own, device=device, distill=distill, seed=own.seed if start is None else start.seed + OTHER_ORDER)
    source = "nothing" if start is None else sha256(start.weights.read_bytes()).hexdigest()[:8]
    folder = run_dir / FOLDER / f"{given.train_longer}-from-{source}"
    return Longer(trial, start, given.train_longer, with_ranks(config, _cards(device)), folder)


def with_ranks(config: SearchConfig, most: int) -> SearchConfig:
    """With as many ranks, up to `most`, as the batches divide among."""
    for ranks in range(most, 1, -1):
        with suppress(ConfigError):
            return replace(config, distill=replace(config.distill, ranks=ranks))
    return config


def distil(longer: Longer, targets: Path, progress: StageProgress) -> Kept:
    """Trains, or goes on where a training was left; ExportError where it fails.

    Killed or interrupted, it loses what came after its last checkpoint, and the processes end.
    """
    if known := longer.done():
        return known
    ranks = longer.config.distill.ranks
    longer.folder.mkdir(parents=True, exist_ok=True)
    with _alone(longer.folder), tempfile.TemporaryDirectory(prefix="backbone-nas-") as scratch:
        result = _heard(_started(longer, _places(longer, targets, ranks), Path(scratch)), longer.steps, progress)
    unfinished = longer.told.with_suffix(".tmp")
    unfinished.write_text(json.dumps(result.to_dict()))
    unfinished.replace(longer.told)
    checkpoint_path(longer.kept.parent.with_name("checkpoints"), longer.trial.arch_id).unlink(missing_ok=True)
    found = longer.done()
    assert found is not None
    return found


def _started(longer: Longer, places: Places, scratch: Path) -> tuple[Any, list[Any]]:
    """The end of a pipe that rank 0 tells its steps through, and the processes."""
    for name, value in MEMORY.items():
        os.environ.setdefault(name, value)
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    weights = None if longer.start is None else str(longer.start.weights.resolve())
    config = longer.config
    ranks = config.distill.ranks
    job = Job(longer.trial, config.seed, places, weights, ranks, str(scratch / "ranks"))
    pipes = [theirs, *[None] * (ranks - 1)]
    processes = [context.Process(target=train, args=(job, *end), daemon=True) for end in enumerate(pipes)]
    with ctrl_c_is_ours():
        for process in processes:
            process.start()
    theirs.close()
    return ours, processes


def _heard(started: tuple[Any, Sequence[Any]], steps: int, progress: StageProgress) -> RungResult:
    """What rank 0 sends, until it sends the result; then, or where something went wrong, the processes end."""
    pipe, processes = started
    others = {process.sentinel: process for process in processes[1:]}
    try:
        while True:
            ready = wait([pipe, *others])
            if pipe in ready:
                word = pipe.recv()
                if isinstance(word, dict):
                    return RungResult.from_dict(word)
                if isinstance(word, str):
                    raise ExportError(f"--train-longer: {word}")
                progress("steps trained", word, steps)
            for gone in (others.pop(sentinel) for sentinel in ready if sentinel in others):
                gone.join()
                if gone.exitcode:
                    raise ExportError(f"--train-longer: {how_it_ended(gone.exitcode)}; the same command goes on")
    except EOFError:
        processes[0].join()
        raise ExportError(f"--train-longer: {how_it_ended(processes[0].exitcode)}; the same command goes on") from None
    finally:
        for process in processes:
            process.kill()
            process.join()
        pipe.close()


def _places(longer: Longer, targets: Path, ranks: int) -> Places:
    return Places(
        config=json.dumps(longer.config.to_dict()),
        targets=str(targets.resolve()),
        lock_dir=str(lock_dir()),
        folder=str(longer.folder.resolve()),
        threads=max(1, _cpus() // ranks),
        checkpoint_s=checkpoint_interval_s(),
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ExportError(f"another nas.export trains in {str(folder)!r}") from None
    try:
        yield
    finally:
        lock.release()


def _cards(device: str) -> int:
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
