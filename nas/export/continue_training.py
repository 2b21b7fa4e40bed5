"""``--train-longer STEPS``: distill a model further before it is exported, in processes of its own.

As many GPUs take part as divide the batch. The training continues from the weights and heads that the study kept, not
from nothing: the recipe's rate is constant, so there is no decayed rate to be raised again and nothing that the study
has learned is thrown away. The optimizer's moments were not kept: they start anew behind the recipe's warm-up, and the
images come in another order.
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
from nas.export import ExportError
from nas.measure.environment import torch_device
from nas.study.config import ConfigError, SearchConfig
from nas.study.records import RungResult, Study, TrialRecord

FOLDER = "continued"  # in the run's folder
SEED_OFFSET = 1000  # to the seed of the training before: the images come in another order


@dataclass(frozen=True)
class ContinuedTraining:
    """A training to be done: of which trial, from what, how long, by how many processes."""

    job: TrainingJob
    start: TrainedWeights | None  # None: from nothing

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
        """Return the file of its result, which is there when the training has ended."""
        return self.weights.with_suffix(".json")

    def result(self) -> TrainedWeights | None:
        """Return the trained weights; None where the training has not ended."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            result = RungResult.from_dict(json.loads(self.result_file.read_text()))
            if self.weights.is_file():
                total = replace(result, steps=result.steps + (self.start.result.steps if self.start else 0))
                how = "longer" if self.start else "from nothing"
                origin = f"distilled {self.job.steps} steps {how}"
                return TrainedWeights(self.weights, total, self.job.config.seed, origin)
        return None


def plan_continued(
    run_dir: Path, study: Study, trial: TrialRecord, start: TrainedWeights | None, steps: int, device: str | None
) -> ContinuedTraining:
    """Return the training that was asked for; the same for the same arguments."""
    own = SearchConfig.from_dict(study.info.config)
    kind = torch_device(device or own.device).type
    distill = replace(own.distill, rung_steps=(steps,), ranks=1)
    config = replace(own, device=kind, distill=distill, seed=own.seed if start is None else start.seed + SEED_OFFSET)
    config = with_ranks(config, len(visible_gpus()) if kind == "cuda" else 1)
    source = "nothing" if start is None else sha256(start.weights.read_bytes()).hexdigest()[:8]
    folder = run_dir / FOLDER / f"{steps}-from-{source}" / f"seed-{config.seed}"
    return ContinuedTraining(TrainingJob(trial, config, folder, start.weights if start else None), start)


def with_ranks(config: SearchConfig, most: int) -> SearchConfig:
    """Return the configuration with as many ranks, up to `most`, as divide the batches."""
    for ranks in range(most, 1, -1):
        with suppress(ConfigError):
            return replace(config, distill=replace(config.distill, ranks=ranks))
    return config


def continue_training(training: ContinuedTraining, targets: Path, progress: StageProgress) -> TrainedWeights:
    """Train, or continue where a training was stopped.

    Killed or interrupted, it loses what came after its last checkpoint, and the processes end.

    Raises:
        ExportError: the training failed, or another command does it.
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
                raise ExportError(f"--train-longer: {update.reason}{more}")
            if update.ended:
                _keep(training, update.rungs[-1])
            else:
                progress("steps trained", update.steps, job.steps)
    weights = training.result()
    assert weights is not None
    return weights


def _keep(training: ContinuedTraining, result: RungResult) -> None:
    unfinished = training.result_file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(result.to_dict()))
    unfinished.replace(training.result_file)


@contextmanager
def _only_command(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ExportError(f"another nas.export trains in {str(folder)!r}") from None
    try:
        yield
    finally:
        lock.release()
