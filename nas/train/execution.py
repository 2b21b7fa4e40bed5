"""Execute a training: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

from nas.backend.pool import TrainingPool, visible_gpus
from nas.backend.training_rank import TrainingJob, remove_checkpoint
from nas.cli import OperationFailed
from nas.stage_progress import StageProgress
from nas.study.records import RungResult


class TrainingFailed(OperationFailed, RuntimeError):
    """A training or its measurement broke down; the message is one line with the reason."""


class StateSaved(KeyboardInterrupt):
    """An interruption of a training that has saved its state."""


class Execution:
    """A training in processes of its own.

    Args:
        job: The training.
        targets: File of the teachers' outputs.
        address: Address of the Ray cluster whose processes train; None for processes of this command.
        progress: Shows the steps.
        show: Shows a line.

    Attributes:
        saved: Whether the training was interrupted, and its state is saved.
    """

    def __init__(
        self, job: TrainingJob, targets: Path, address: str | None, progress: StageProgress, show: Callable[[str], None]
    ) -> None:
        self._job, self._targets, self._address, self._progress, self._show = job, targets, address, progress, show
        self.saved = False

    def rungs(self) -> Generator[RungResult, None, None]:
        """Train, and yield the evaluations; those of an earlier session first.

        Raises:
            TrainingFailed: The training broke down.
            KeyboardInterrupt: It was asked to end.
        """
        if self._address is None:
            yield from self._in_own_processes()  # the pool removes the checkpoint
        else:
            yield from self._on_cluster(self._address)
            remove_checkpoint(self._job)

    def _on_cluster(self, address: str) -> Iterator[RungResult]:
        from nas.backend.ray_train import RayTrainingFailed, train_on_cluster  # imports Ray Train, which takes seconds
        from nas.measure.memory import release_cached

        release_cached(self._job.config.device)  # of this process's teachers: a node of the cluster may be this machine
        try:
            yield from train_on_cluster(self._job, self._targets, address, self._on_steps, self._show, self._note_saved)
        except RayTrainingFailed as error:
            raise TrainingFailed(str(error)) from None

    def _in_own_processes(self) -> Iterator[RungResult]:
        pool = TrainingPool(self._targets, 1, visible_gpus() if self._job.config.device == "cuda" else ())
        known = 0
        try:
            with closing(pool.run([self._job])) as updates:
                for update in updates:
                    if update.reason is not None:
                        raise TrainingFailed(update.reason)
                    self._on_steps(update.steps)
                    yield from update.rungs[known:]
                    known = len(update.rungs)
        finally:
            self.saved = pool.saved

    def _on_steps(self, steps: int) -> None:
        self._progress("steps trained", steps, self._job.steps)

    def _note_saved(self, saved: bool) -> None:
        self.saved = saved
