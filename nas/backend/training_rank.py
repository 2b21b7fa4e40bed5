"""One process of a training: the job, the process's own settings, and the training of its rank.

`nas.backend.local_ranks` and `nas.backend.cluster_ranks` start such processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import OperationFailed
from nas.run_folder import CHECKPOINTS, PICTURES, WEIGHTS, checkpoint_path, heads_file
from nas.study.config import SearchConfig
from nas.study.records import RungResult, TrialRecord

if TYPE_CHECKING:
    from nas.distill.live import LiveTeachers
    from nas.distill.rungs import TrainingContext

MAX_REASON_CHARACTERS = 300


class TrainingFailed(OperationFailed, RuntimeError):
    """A training or its measurement broke down; the message is one line with the reason."""


@dataclass(frozen=True)
class TrainingJob:
    """A training of one candidate through all rungs of `config`, by one process per rank.

    Args:
        trial: The candidate.
        config: Settings of the training, with its seed.
        folder: Takes weights, contact sheets and checkpoints.
        start: File of the weights to continue from, with the heads in the same folder; None for initial weights.
        history: Whether the folder also takes the training's history, and every rung is probed, see `TrainingContext`.
        event_logs: Where the history is shown, too; names of `nas.distill.event_logs`.
        kept_checkpoints: Number of checkpoints that are kept.
        live: Teachers that run while the student trains; None for the cached targets.
    """

    trial: TrialRecord
    config: SearchConfig
    folder: Path
    start: Path | None = None
    history: bool = False
    event_logs: tuple[str, ...] = ("tensorboard",)
    kept_checkpoints: int = 1
    live: LiveTeachers | None = None

    def resolved(self) -> TrainingJob:
        """Return the job with absolute paths, for processes that may run in other folders."""
        return replace(self, folder=self.folder.resolve(), start=self.start and self.start.resolve())

    @property
    def steps(self) -> int:
        """Return the number of steps of the training."""
        return self.config.distill.rung_steps[-1]

    @property
    def ranks(self) -> int:
        """Return the number of processes."""
        return self.config.distill.ranks

    @property
    def checkpoint(self) -> Path:
        """Return the file that an unfinished training continues from."""
        return checkpoint_path(self.folder / CHECKPOINTS, self.trial.arch_id)


@dataclass(frozen=True)
class RankSpec:
    """The settings of one process of a job.

    Args:
        job: The job.
        rank: Number of the process among the ranks.
        targets: File of the teachers' outputs.
        lock_dir: Folder of all devices' locks.
        checkpoint_s: Seconds of training between two checkpoints.
        threads: CPU threads.
        local_rank: Number of its GPU among those that it sees.
    """

    job: TrainingJob
    rank: int
    targets: Path
    lock_dir: Path
    checkpoint_s: float
    threads: int
    local_rank: int


def remove_checkpoint(job: TrainingJob) -> None:
    """Remove the checkpoint of a finished job, and what its killed processes were writing."""
    for path in job.checkpoint.parent.glob(f"{job.checkpoint.name}*"):
        path.unlink(missing_ok=True)


def stopping_s(save_s: float, least_s: float) -> float:
    """Return the seconds in which a training ends when it is asked to: a save under way, its last step, a save.

    Args:
        save_s: Seconds that its last checkpoint took.
        least_s: The least.
    """
    return max(least_s, 3 * save_s)


def train_as_rank(
    spec: RankSpec,
    on_steps: Callable[[int], None],
    should_stop: Callable[[], bool],
    on_saved: Callable[[float], None] = lambda seconds: None,
) -> Iterator[RungResult | None]:
    """Train this process's part of a job and yield the result of every rung; None in ranks above 0.

    Args:
        spec: The process's settings. With several ranks it has joined their process group.
        on_steps: Gets the number of steps done, every few steps.
        should_stop: Tells whether the training is to save its state and raise TrainingStopped.
        on_saved: Gets the seconds that a checkpoint took, after each one.
    """
    import torch

    from backbones import build_network, load
    from backbones.weights import checksum_of
    from nas.distill.folded_heads import load_heads
    from nas.distill.rungs import Training

    job = spec.job
    arch, device = job.trial.network, job.config.device
    torch.set_num_threads(spec.threads)
    torch.manual_seed(job.config.seed)
    if device == "cuda":
        torch.cuda.set_device(spec.local_rank)
    model, adaptors = build_network(arch), None
    if job.start is not None:
        heads = heads_file(job.start)
        model, adaptors = load(job.start, arch), load_heads(heads, model=checksum_of(job.start))
    training = Training(job.trial.arch_id, model, _context(spec, should_stop), adaptors, on_steps, on_saved)
    try:
        for rung in range(len(job.config.distill.rung_steps)):
            yield training.rung(rung)
    finally:
        training.close()


def _context(spec: RankSpec, should_stop: Callable[[], bool]) -> TrainingContext:
    """Return the context of a training of this job: its settings, targets and folders."""
    from nas.cache.targets import load_targets
    from nas.distill.rungs import TrainingContext
    from nas.distill.trainer import indexed_device
    from nas.measure.environment import device_key

    job = spec.job
    folders = {name: job.folder / name for name in (WEIGHTS, PICTURES, CHECKPOINTS)}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return TrainingContext(
        config=job.config,
        targets=load_targets(spec.targets, checked=True),
        lock_dir=spec.lock_dir / device_key(str(indexed_device(job.config.device))),
        weights_dir=folders[WEIGHTS],
        pictures_dir=folders[PICTURES],
        checkpoint_dir=folders[CHECKPOINTS],
        checkpoint_s=spec.checkpoint_s,
        history_dir=job.folder if job.history else None,
        event_logs=job.event_logs,
        probes=job.history,
        kept_checkpoints=job.kept_checkpoints,
        live=job.live,
        should_stop=should_stop,
    )
