"""Train in the processes that torchrun has started: `torchrun --nproc-per-node 8 -m nas.train -- ARCH ...`.

Rank 0 does what the command does without torchrun; the others wait until it trains, and train with it. All machines
need the run folder and the cache under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from nas.backend.teacher_gpus import share
from nas.backend.training_rank import RankSpec, TrainingJob, train_as_rank
from nas.machine import checkpoint_interval_s, cpu_count, lock_dir
from nas.study.records import RungResult


def lead(job: TrainingJob, targets: Path, on_steps: Callable[[int], None]) -> Iterator[RungResult]:
    """Train as rank 0, and yield the evaluations.

    Args:
        job: The training.
        targets: File of the teachers' outputs.
        on_steps: Gets the number of steps done, every few steps.
    """
    from nas.distill import distributed

    with distributed.launched_group():
        task = job.resolved(), targets.resolve()
        distributed.from_rank_0(task)
        for result in train_as_rank(_rank_spec(*task), on_steps):
            assert result is not None
            yield result


def release() -> None:
    """Tell the other ranks, as rank 0, that there is nothing to train; each `follow` waits for this or for `lead`."""
    from nas.distill import distributed

    with distributed.launched_group():
        distributed.from_rank_0(None)


def follow() -> None:
    """Train as a rank above 0, as rank 0 says."""
    from nas.distill import distributed

    with distributed.launched_group():
        task: tuple[TrainingJob, Path] | None = distributed.from_rank_0(None)
        if task is None:
            return
        for _ in train_as_rank(_rank_spec(*task), lambda steps: None):
            pass


def _rank_spec(job: TrainingJob, targets: Path) -> RankSpec:
    on_this_machine, local_rank = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ["LOCAL_RANK"])
    if job.live is not None:
        job = replace(job, live=replace(job.live, devices=share(job.live.devices, local_rank, on_this_machine)))
    return RankSpec(
        job=job,
        rank=int(os.environ["RANK"]),
        targets=targets,
        lock_dir=lock_dir(),
        checkpoint_s=checkpoint_interval_s(),
        threads=max(1, cpu_count() // on_this_machine),
        gpus=None,
        meeting_point=Path(),  # torchrun has its own
        local_rank=local_rank,
    )
