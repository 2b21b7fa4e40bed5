"""A trial of several ranks: Ray Train starts them for every rung, and they go on from the rung before.

That costs the start of a few processes a rung, and saves all talk between scheduler and ranks.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ray import train
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from nas.records import RungResult, TrialRecord
from nas.running.places import Places


class _RankBackend(Backend):  # type: ignore[misc]
    """Set up nothing: ranks join by themselves (nas.distill.distributed). Each sees the others' GPUs, as NCCL wants."""

    share_cuda_visible_devices = True


class _RankConfig(TorchConfig):  # type: ignore[misc]
    """As Train's own, which would have PyTorch listen on all interfaces."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _RankBackend


def in_ranks(places: Places, record: TrialRecord, rung: int) -> RungResult:
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
    from nas.running.worker import workbench

    context, bench = train.get_context(), workbench(Places.from_json(settings["places"]))
    record = TrialRecord.from_dict(json.loads(settings["record"]))
    meeting_point = Path(settings["meeting_point"])
    with distributed.process_group(
        context.get_world_rank(), context.get_world_size(), meeting_point, bench.config.device
    ):
        result = train_rank(record, settings["rung"], bench)
    return None if result is None else result.to_dict()
