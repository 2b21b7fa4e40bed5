"""A trial of several ranks: Ray Train starts them for every rung, and they go on from the rung before.

That costs the start of a few processes a rung, and saves all talk between scheduler and ranks.

The worker process: takes trials from Tune one after the other and steps through their stages.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ray import train, tune
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from nas.backend.worker_spec import WorkerSpec
from nas.cli import lock_dir
from nas.study.failures import Failure
from nas.study.records import RungResult, TrialRecord, TrialState


class _RankBackend(Backend):  # type: ignore[misc]
    """Set up nothing: ranks join by themselves (nas.distill.distributed). Each sees the others' GPUs, as NCCL wants."""

    share_cuda_visible_devices = True


class _RankConfig(TorchConfig):  # type: ignore[misc]
    """As Train's own, which would have PyTorch listen on all interfaces."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _RankBackend


def in_ranks(places: WorkerSpec, record: TrialRecord, rung: int) -> RungResult:
    """Trains one rung of a record in processes of its own; raises what the first of them raised."""
    with tempfile.TemporaryDirectory(dir=places.scratch) as folder:
        trainer = TorchTrainer(
            _rank,
            train_loop_config={
                "record": json.dumps(record.to_dict()),
                "rung": rung,
                "places": places.to_json(),
                "meeting_point": f"{folder}/ranks",
            },
            torch_config=_RankConfig(),
            scaling_config=train.ScalingConfig(
                num_workers=places.ranks,
                use_gpu=places.gpus > 0,
                resources_per_worker=places.for_a_rank,
                placement_strategy="STRICT_PACK",  # one machine: the lock that keeps measurements apart is a file
                label_selector=places.labels or None,
            ),
            run_config=train.RunConfig(name="rung", storage_path=folder),
        )
        try:
            result = trainer.fit()
        except train.WorkerGroupError as error:
            # Who has lost the others complains of the connection, a plain RuntimeError: not the cause.
            raise min(error.worker_failures.values(), key=lambda e: type(e) is RuntimeError) from error
    return RungResult.from_dict(result.return_value)


def _rank(settings: dict[str, Any]) -> dict[str, Any] | None:
    """One rank: its part of a rung; rank 0 has the result."""
    from nas.distill import distributed
    from nas.distill.run import train_rank

    pass

    context, bench = train.get_context(), workbench(WorkerSpec.from_json(settings["places"]))
    record = TrialRecord.from_dict(json.loads(settings["record"]))
    meeting_point = Path(settings["meeting_point"])
    with distributed.process_group(
        context.get_world_rank(), context.get_world_size(), meeting_point, bench.config.device
    ):
        result = train_rank(record, settings["rung"], bench)
    return None if result is None else result.to_dict()


Stages = Callable[[TrialRecord, WorkerSpec], Iterator[TrialRecord]]


class ArchTrainable(tune.Trainable):
    """One trial's stages, a record a step; the process and its workbench stay for the next trial.

    The config of a trial: "record" and "places" as JSON, and "stages", the function that makes its records.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray keeps for a trial."""
        places = _places(config["places"])
        selector = {"bundle_label_selector": [places.labels]} if places.node_ids else {}
        return tune.PlacementGroupFactory([{k: v for k, v in places.for_a_trial.items() if v}], **selector)

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in a fresh worker process."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune when the worker takes its next trial."""
        record = TrialRecord.from_dict(json.loads(new_config["record"]))
        self._sent = record
        self._stages: Iterator[TrialRecord] = new_config["stages"](record, _places(new_config["places"]))
        return True

    def step(self) -> dict[str, Any]:
        """The next record of the trial, as JSON: nested results would be flattened."""
        record = next(self._stages)
        try:
            text = json.dumps(record.to_dict())
        except (TypeError, ValueError) as error:
            reason = f"a result that cannot be sent: {error}"
            record = replace(self._sent, state=TrialState.FAILED, failure=Failure.UNPICKLABLE, reason=reason)
            text = json.dumps(record.to_dict())
        self._sent = record
        return {"record": text}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the store has the records."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, see `save_checkpoint`."""


def arch_stages(record: TrialRecord, places: WorkerSpec) -> Iterator[TrialRecord]:
    """The trial's records; a workbench that cannot be set up is a failed trial with its reason.

    It is set up at once, not with the first record: what a process takes to start counts towards no time limit.
    """
    try:
        from nas.backend.trial import run_trial

        bench = workbench(replace(places, node_ids=()))
        if places.ranks > 1:
            bench = replace(bench, train_in_ranks=partial(in_ranks, places))
    except Exception as error:
        reason = f"the worker could not start: {type(error).__name__}: {error}"
        return iter([replace(record, state=TrialState.FAILED, failure=Failure.ERROR, reason=reason)])
    return run_trial(record, bench)


@lru_cache(1)
def workbench(places: WorkerSpec) -> Any:
    """Imports torch and opens the teachers once for the life of a worker process."""
    import torch

    from nas.cache.targets import load_targets
    from nas.distill.run import TrialContext
    from nas.measure.environment import device_key
    from nas.measure.service import MeasurementService
    from nas.study.config import SearchConfig

    threads = max(1, places.train_threads // places.ranks)
    torch.set_num_threads(threads)
    config = SearchConfig.from_dict(json.loads(places.config))
    return TrialContext(
        config=config,
        targets=load_targets(Path(places.targets_dir)),
        service=MeasurementService(places.measure_threads),
        lock_dir=Path(places.lock_dir or lock_dir()) / device_key(config.device),
        samples_dir=Path(places.samples_dir),
        weights_dir=Path(places.weights_dir),
        pictures_dir=Path(places.pictures_dir),
        checkpoint_dir=Path(places.checkpoint_dir),
        checkpoint_s=places.checkpoint_s,
    )


_places = lru_cache(4)(WorkerSpec.from_json)
