"""``--extra-steps STEPS``: distill a model further before its export, in separate processes.

The training uses the largest number of GPUs that divides the batch. It continues from the study's weights and heads:
the recipe's learning rate is constant, so a continued training needs no new schedule. The optimizer's moments were not
saved: they start at zero, behind the recipe's warm-up. The images come in another order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from nas.analysis.run_files import TrainedWeights, weights_file
from nas.backend.pool import TrainingJob, TrainingPool, visible_gpus
from nas.cli import StageProgress
from nas.export import ExportError, ExportFailed
from nas.files import atomic_write, parse_json
from nas.measure.environment import torch_device
from nas.study.config import ConfigError, SearchConfig
from nas.study.records import RungResult, StudyRecord, TrialRecord

FOLDER = "continued"  # in the run's folder
SEED_OFFSET = 1000  # from the earlier training's seed, for another order of the images


@dataclass(frozen=True)
class ContinuedTraining:
    """A planned training, and the weights that it continues from."""

    job: TrainingJob
    start: TrainedWeights | None  # None: from initial weights

    @property
    def ranks(self) -> int:
        """Return the number of processes."""
        return self.job.ranks

    @property
    def weights(self) -> Path:
        """Return the file of its weights."""
        return weights_file(self.job.folder, self.job.trial.arch_id)

    @property
    def result_file(self) -> Path:
        """Return the file of its result, which exists once the training has ended."""
        return self.weights.with_suffix(".json")

    def result(self) -> TrainedWeights | None:
        """Return the trained weights; None where the training has not ended."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            result = RungResult.from_dict(parse_json(self.result_file.read_bytes()))
            if self.weights.is_file():
                total = replace(result, steps=result.steps + (self.start.result.steps if self.start else 0))
                origin = f"distilled {self.job.steps} {'more steps' if self.start else 'steps'}"
                return TrainedWeights(self.weights, total, self.job.config.seed, origin)
        return None


def plan_continued(
    run_dir: Path, study: StudyRecord, trial: TrialRecord, start: TrainedWeights | None, steps: int, device: str | None
) -> ContinuedTraining:
    """Return the requested training; the same arguments give the same one."""
    searched = SearchConfig.from_dict(study.info.config)
    kind = torch_device(device or "auto").type
    distill = replace(searched.distill, rung_steps=(steps,), ranks=1)
    seed = searched.seed if start is None else start.seed + SEED_OFFSET
    config = replace(searched, device=kind, distill=distill, seed=seed)
    config = with_ranks(config, len(visible_gpus()) if kind == "cuda" else 1)
    source = "initial" if start is None else sha256(start.weights.read_bytes()).hexdigest()[:8]
    folder = run_dir / FOLDER / f"{steps}-from-{source}" / f"seed-{config.seed}"
    return ContinuedTraining(TrainingJob(trial, config, folder, start.weights if start else None), start)


def with_ranks(config: SearchConfig, max_ranks: int) -> SearchConfig:
    """Return the configuration with the largest number of ranks, up to `max_ranks`, that divides the batches."""
    for ranks in range(max_ranks, 1, -1):
        with suppress(ConfigError):
            return replace(config, distill=replace(config.distill, ranks=ranks))
    return config


def continue_training(training: ContinuedTraining, targets: Path, progress: StageProgress) -> TrainedWeights:
    """Train, or continue an interrupted training.

    A killed or interrupted training loses the steps after its last checkpoint, and its processes end.

    Raises:
        ExportFailed: the training failed.
        ExportError: another command runs the same training.
    """
    if (weights := training.result()) is not None:
        return weights
    job = training.job
    job.folder.mkdir(parents=True, exist_ok=True)
    gpus = visible_gpus() if job.config.device == "cuda" else ()
    with _only_command(job.folder.parent), closing(TrainingPool(targets, 1, gpus).run([job])) as updates:
        for update in updates:
            if update.reason is not None:
                more = "; the same command continues from its checkpoint" if job.checkpoint.exists() else ""
                raise ExportFailed(f"--extra-steps: {update.reason}{more}")
            if update.ended:
                atomic_write(training.result_file, json.dumps(update.rungs[-1].to_dict()))
            else:
                progress("steps trained", update.steps, job.steps)
    weights = training.result()
    assert weights is not None
    return weights


@contextmanager
def _only_command(folder: Path) -> Iterator[None]:
    """Hold the training's lock; ExportError where another command holds it."""
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ExportError(f"another backbone-nas export is training in {str(folder)!r}") from None
    try:
        yield
    finally:
        lock.release()
