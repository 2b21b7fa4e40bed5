"""One process, a rank, of a training that goes on from kept weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from nas.command import one_line
from nas.finals.worker import REASON_CHARACTERS, Places, workbench
from nas.orphans import end_with_parent
from nas.records import RungResult, TrialRecord


@dataclass(frozen=True)
class Job:
    """What all ranks share. weights: file to go on from, its heads beside it; None: from nothing."""

    trial: TrialRecord
    seed: int
    places: Places
    weights: str | None
    ranks: int
    meeting_point: str


def train(job: Job, rank: int, pipe: Connection | None) -> None:
    """The process's whole life. Rank 0 has the pipe: it sends steps, then the RungResult as plain data, or a reason."""
    end_with_parent()
    try:
        result = _train(job, rank, pipe)
        if pipe is not None and result is not None:
            pipe.send(result.to_dict())
    except Exception as error:
        if pipe is None:
            raise
        pipe.send(f"{type(error).__name__}: {one_line(error)}"[:REASON_CHARACTERS])


def _train(job: Job, rank: int, pipe: Connection | None) -> RungResult | None:
    import torch

    from backbones import build, load
    from nas.distill import parallel
    from nas.distill.adaptors import load_heads
    from nas.training import Training
    from search_space import ArchSpec

    bench, spec = workbench(job.seed, job.places), ArchSpec.from_dict(job.trial.spec)
    device = bench.config.device
    torch.set_num_threads(job.places.threads)
    torch.manual_seed(job.seed)
    if device == "cuda":
        torch.cuda.set_device(rank)
    net, adaptors = build(spec), None
    if job.weights is not None:
        net, adaptors = load(Path(job.weights), spec), load_heads(Path(job.weights).with_suffix(".heads.safetensors"))
    together = job.ranks > 1
    with parallel.joined(rank, job.ranks, Path(job.meeting_point), device) if together else nullcontext():
        training = Training(job.trial.arch_id, net, bench, adaptors, pipe.send if pipe else lambda steps: None)
        try:
            return training.rung(0)
        finally:
            training.close()
