"""Where a worker finds and leaves things, and its share of a node."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from nas.cli import checkpoint_interval_s

# A rank has a GPU for itself, beside the trials that measure there: two ranks do not fit, a rank and ten trials do.
_GPU_OF_A_RANK, _GPU_OF_ITS_TRIAL = 0.9, 0.01


@dataclass(frozen=True)
class WorkerSpec:
    """Absolute folders that every node sees, the locks' aside; and what a worker takes of its node.

    Measuring is exclusive on a whole device without a resource of Ray's for it: whoever trains or measures holds the
    device's lock (nas.measure.device_lock), a measurement alone. On CUDA a trial has its GPU to itself anyway; ranks
    that train there, and workers of one CPU, wait at the lock. A lock is a file named after the device on its own node,
    so nothing waits for another node, and the kernel gives back what a killed process held, which a resource that Ray
    counts could not promise. Processes in containers of their own have to share the folder if they share a device.
    """

    config: str  # SearchConfig as JSON
    targets_dir: str
    samples_dir: str
    weights_dir: str
    pictures_dir: str
    checkpoint_dir: str
    train_threads: int
    measure_threads: int
    lock_dir: str = ""  # of all devices; "": `nas.cli.lock_dir`, on each node its own
    gpus: float = 0.0
    checkpoint_s: float = field(default_factory=checkpoint_interval_s)
    scratch: str = ""  # folder that is gone after the session
    node_ids: tuple[str, ...] = ()  # of Ray, where work may go; (): anywhere

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        """Inverse of `to_json`."""
        plain = json.loads(text)
        return cls(**{**plain, "node_ids": tuple(plain["node_ids"])})

    def to_json(self) -> str:
        """As text, for trials of Tune."""
        return json.dumps(vars(self))

    @property
    def ranks(self) -> int:
        """Processes that train one architecture."""
        return int(json.loads(self.config)["distill"]["ranks"])

    @property
    def for_a_trial(self) -> dict[str, float]:
        """Resources of the process that measures, and trains where it is alone."""
        return {"CPU": 1, "GPU": self.gpus if self.ranks == 1 else self.gpus * _GPU_OF_ITS_TRIAL}

    @property
    def for_a_rank(self) -> dict[str, float]:
        """Resources of each process that only trains."""
        return {"CPU": 1, "GPU": self.gpus * _GPU_OF_A_RANK}

    @property
    def labels(self) -> dict[str, str]:
        """Ray's label selector for a process of a trial."""
        return {"ray.io/node-id": f"in({','.join(self.node_ids)})"} if self.node_ids else {}

    def trials_on(self, resources: dict[str, Any]) -> int:
        """How many trials a node with these resources takes at a time."""
        if self.gpus:
            return int(resources.get("GPU", 0) // (self.gpus * self.ranks))
        return int(resources.get("CPU", 0) // (1 if self.ranks == 1 else 1 + self.ranks))
