"""What a worker needs: its settings and folders, and its share of a node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.machine import checkpoint_interval_s, cpu_count
from nas.run_folder import CHECKPOINTS, PICTURES, SAMPLES, WEIGHTS
from nas.study.config import DistillConfig, SearchConfig


@dataclass(frozen=True)
class WorkerSpec:
    """Settings, folders and resources of a worker. Every node sees the folders, except that of the locks.

    A measurement has a whole device to itself, without a resource of Ray's for it: a process that trains or measures
    holds the device's lock (`nas.measure.device_lock`), a measurement alone. On CUDA a trial has its GPUs to itself
    anyway; workers of one CPU wait for the lock. A lock is a file named after the device on its own node. So no process
    waits for another node, and the kernel releases the lock of a killed process, which a resource that Ray counts could
    not guarantee. Containers that share a device have to share the folder of the locks.

    Args:
        config: The study's `SearchConfig` as JSON.
        targets_dir: File or folder of the teachers' targets.
        samples_dir: Takes the raw samples of measurements.
        weights_dir: Takes trained weights.
        pictures_dir: Takes contact sheets.
        checkpoint_dir: Takes checkpoints of unfinished trainings.
        train_threads: CPU threads of a training, over all its ranks.
        measure_threads: CPU threads of a measurement; 0 where nothing is measured.
        lock_dir: Folder of all devices' locks; "" for `nas.machine.lock_dir` of each node.
        gpus: GPUs of a training process, 0 or 1.
        checkpoint_s: Seconds of training between two checkpoints.
        scratch: Folder that is removed at the end of the session.
        node_ids: Ray's ids of the nodes that may run the trial; () for any.
    """

    config: str
    targets_dir: str
    samples_dir: str
    weights_dir: str
    pictures_dir: str
    checkpoint_dir: str
    train_threads: int
    measure_threads: int
    lock_dir: str = ""
    gpus: float = 0.0
    checkpoint_s: float = field(default_factory=checkpoint_interval_s)
    scratch: str = ""
    node_ids: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        """Read what `to_json` returned."""
        plain = json.loads(text)
        return cls(**{**plain, "node_ids": tuple(plain["node_ids"])})

    def to_json(self) -> str:
        """Return the specification as text, for the configuration of a Tune trial."""
        return json.dumps(vars(self))

    @property
    def ranks(self) -> int:
        """Return the number of processes that train one candidate."""
        return int(json.loads(self.config)["distill"]["ranks"])

    @property
    def trial_resources(self) -> dict[str, float]:
        """Return Ray's resources of a trial, which one node has to have: those of all its processes.

        It keeps them to its end. So no trial that has begun waits for what another one holds, and it measures on a GPU
        on which its own ranks train.
        """
        return {"CPU": 1 if self.ranks == 1 else 1 + self.ranks, "GPU": self.gpus * self.ranks}

    @property
    def label_selector(self) -> dict[str, str]:
        """Return Ray's label selector of the nodes that may run the trial."""
        return {"ray.io/node-id": f"in({','.join(self.node_ids)})"} if self.node_ids else {}

    def capacity_of(self, resources: dict[str, Any]) -> int:
        """Return how many trials at a time a node with these resources of Ray's can run."""
        needed = self.trial_resources.items()
        return min(int(resources.get(kind, 0) // number) for kind, number in needed if number)


def training_spec(config: SearchConfig, folder: Path, targets: Path, workers_per_machine: int) -> WorkerSpec:
    """Return what a worker needs for trainings of measured models, and make their folders.

    Args:
        config: Settings of the trainings, with their seed.
        folder: Takes weights, contact sheets and checkpoints.
        targets: Folder of the teachers' targets.
        workers_per_machine: Trainings at a time on a machine, which share its CPUs.
    """
    folders = {name: folder / name for name in (SAMPLES, WEIGHTS, PICTURES, CHECKPOINTS)}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return WorkerSpec(
        config=json.dumps(config.to_dict()),
        targets_dir=str(targets.resolve()),
        samples_dir=str(folders[SAMPLES].resolve()),
        weights_dir=str(folders[WEIGHTS].resolve()),
        pictures_dir=str(folders[PICTURES].resolve()),
        checkpoint_dir=str(folders[CHECKPOINTS].resolve()),
        train_threads=max(1, cpu_count() // workers_per_machine),
        measure_threads=0,
        gpus=1.0 if config.device.startswith("cuda") else 0.0,
    )


def recipe_here(recipe: DistillConfig, gpus: Sequence[str]) -> DistillConfig:
    """Return the recipe of a study with the processes that a training takes on this machine.

    Ranks share each batch, perhaps because no GPU holds the whole one. Where GPUs are fewer, one of them takes it in as
    many parts: the effective batch stays, but BatchNorm sees each part alone. On a CPU one process takes it whole,
    because ranks there would share the memory.

    Args:
        recipe: The study's.
        gpus: Names of the devices to use; empty on a CPU.
    """
    if not gpus:
        return replace(recipe, ranks=1)
    if len(gpus) >= recipe.ranks:
        return recipe
    return replace(recipe, ranks=1, accumulate=recipe.accumulate * recipe.ranks)
