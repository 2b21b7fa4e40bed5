"""A worker process of Ray: it takes trials from Tune one after the other and steps through their phases.

A trial of several ranks stays in its worker for the measurement. The worker starts new processes for the ranks of every
rung, and they continue from the checkpoint of the rung before. That costs the start of a few processes per rung, and
needs no messages between the scheduler and the ranks.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from nas.backend.local_ranks import LocalRanks
from nas.backend.worker_spec import WorkerSpec
from nas.machine import lock_dir
from nas.study.failures import Failure, is_disk_error
from nas.study.records import RungResult, TrialRecord, TrialState

if TYPE_CHECKING:
    from nas.backend.trial import TrialContext

# Runs a trial in the worker; yields its record after each phase: the measurement, and every rung.
RunTrial = Callable[[TrialRecord, WorkerSpec], Iterator[TrialRecord]]
_parse_spec = lru_cache(4)(WorkerSpec.from_json)


class ArchTrainable(tune.Trainable):
    """The phases of one trial, one record per step; the process and its trial context stay for the next trial.

    The configuration of a Tune trial has "record" and "spec" as JSON, and "phases", the function that yields records.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return the resources that Ray reserves for a trial."""
        spec = _parse_spec(config["spec"])
        selector = {"bundle_label_selector": [spec.label_selector]} if spec.node_ids else {}
        return tune.PlacementGroupFactory([{k: v for k, v in spec.trial_resources.items() if v}], **selector)

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial; Tune calls this in a new worker process."""
        self._worker = f"{ray.get_runtime_context().get_node_id()[:8]}:{os.getpid()}"
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; Tune calls this in a worker process that it uses again."""
        record = TrialRecord.from_dict(json.loads(new_config["record"]))
        self._sent = record
        self._phases: Iterator[TrialRecord] = new_config["phases"](record, _parse_spec(new_config["spec"]))
        return True

    def step(self) -> dict[str, Any]:
        """Return the next record of the trial as JSON: Tune would flatten a nested result."""
        record = replace(next(self._phases), worker=self._worker)
        try:
            text = json.dumps(record.to_dict())
        except (TypeError, ValueError) as error:
            reason = f"a result that cannot be sent: {error}"
            record = replace(self._sent, state=TrialState.FAILED, failure=Failure.UNPICKLABLE, reason=reason)
            text = json.dumps(record.to_dict())
        self._sent = record
        return {"record": text}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: the store has the records."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing, see `save_checkpoint`."""


def trial_phases(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    """Return an iterator over the trial's records; a trial context that cannot be set up is a failed trial.

    The context is set up by the call, not with the first record: no time limit covers the start of a process.
    """
    try:
        from nas.backend.trial import run_trial

        context = trial_context(replace(spec, node_ids=()))
        if spec.ranks > 1:
            context = replace(context, train_in_ranks=partial(train_in_ranks, spec))
    except Exception as error:
        reason = f"the worker could not start: {type(error).__name__}: {error}"
        failure = Failure.DISK_ERROR if is_disk_error(error) else Failure.ERROR
        return iter([replace(record, state=TrialState.FAILED, failure=failure, reason=reason)])
    return run_trial(record, context)


@lru_cache(1)
def trial_context(spec: WorkerSpec) -> TrialContext:
    """Return the context of a worker process: torch and the targets are loaded once in its life."""
    import torch

    from nas.backend.trial import TrialContext
    from nas.cache.targets import load_targets
    from nas.distill.rungs import TrainingContext
    from nas.distill.trainer import indexed_device
    from nas.measure.environment import device_key
    from nas.measure.service import MeasurementService
    from nas.study.config import SearchConfig

    threads = max(1, spec.train_threads // spec.ranks)
    torch.set_num_threads(threads)
    config = SearchConfig.from_dict(json.loads(spec.config))
    training = TrainingContext(
        config=config,
        targets=load_targets(Path(spec.targets_dir), checked=True),
        lock_dir=Path(spec.lock_dir or lock_dir()) / device_key(str(indexed_device(config.device))),
        weights_dir=Path(spec.weights_dir),
        pictures_dir=Path(spec.pictures_dir),
        checkpoint_dir=Path(spec.checkpoint_dir),
        checkpoint_s=spec.checkpoint_s,
    )
    service = MeasurementService(spec.measure_threads) if spec.measure_threads else None
    return TrialContext(training, service, Path(spec.samples_dir))


def train_in_ranks(spec: WorkerSpec, record: TrialRecord, rung: int) -> RungResult:
    """Train one rung of a trial in processes of its own; raise the error of a rank that caused the failure.

    They run on this process's node, where one lock keeps measurements apart, and see its GPUs: NCCL wants to see all.
    """
    device = str(json.loads(spec.config)["device"])
    with tempfile.TemporaryDirectory(dir=spec.scratch) as folder:
        settings = [_RankOfTrial(record, rung, spec, rank, Path(folder) / "ranks") for rank in range(spec.ranks)]
        ranks = LocalRanks(_train_rank, settings, device)
        try:
            (result,) = ranks.messages()
        finally:
            ranks.end(0.0)
    assert isinstance(result, RungResult)
    return result


@dataclass(frozen=True)
class _RankOfTrial:
    record: TrialRecord
    rung: int
    spec: WorkerSpec
    rank: int
    meeting_point: Path


def _train_rank(own: _RankOfTrial, send: Callable[[Any], None], should_stop: Callable[[], bool]) -> None:
    """Train one rank's part of a rung; rank 0 sends the result."""
    import torch

    from nas.distill import distributed
    from nas.distill.rungs import train_rank

    if own.spec.gpus:
        torch.cuda.set_device(own.rank)
    context = trial_context(own.spec).training
    with distributed.process_group(own.rank, own.spec.ranks, own.meeting_point, context.config.device):
        result = train_rank(own.record, own.rung, context)
    if result is not None:
        send(result)
