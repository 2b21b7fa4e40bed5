"""One training in a process of its own: what it does to memory or to the device ends with it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nas.command import one_line
from nas.orphans import end_with_parent
from nas.places import checkpoint_path
from nas.records import TrialRecord

REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Places:
    """What all trainings share. `folder` takes a folder a seed, with weights, contact sheets and checkpoints."""

    config: str  # SearchConfig as JSON, but for the seed
    targets: str  # path of the teachers' set
    lock_dir: str
    folder: str
    threads: int
    checkpoint_s: float

    def of_seed(self, seed: int) -> Path:
        """Where the files of a seed lie."""
        return Path(self.folder) / f"seed-{seed}"


def train(pipe: Connection, record: dict[str, Any], seed: int, places: Places, card: str | None) -> None:
    """The process's whole life: sends each RungResult as plain data, then None; or in its place a reason, a text.

    card: what CUDA_VISIBLE_DEVICES is to say; None leaves it.
    """
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card  # before anything wakes CUDA
    end_with_parent()
    try:
        _train(pipe, TrialRecord.from_dict(record), seed, places)
        pipe.send(None)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {one_line(error)}"[:REASON_CHARACTERS])


def _train(pipe: Connection, record: TrialRecord, seed: int, places: Places) -> None:
    import torch

    from backbones import build
    from nas.distill.run import Training
    from search_space import ArchSpec

    torch.set_num_threads(places.threads)
    bench = workbench(seed, places)
    torch.manual_seed(seed)
    training = Training(record.arch_id, build(ArchSpec.from_dict(record.spec)), bench)
    try:
        for rung in range(len(bench.config.distill.rung_steps)):
            result = training.rung(rung)
            assert result is not None  # only ranks have none
            pipe.send(result.to_dict())
    finally:
        training.close()
    with suppress(FileNotFoundError):
        checkpoint_path(bench.checkpoint_dir, record.arch_id).unlink()


def workbench(seed: int, places: Places) -> Any:
    """What a training of this seed needs: settings, targets, the folders that it writes into."""
    from dataclasses import replace

    from nas.cache.targets import load_targets
    from nas.config import SearchConfig
    from nas.contact_sheet import FOLDER
    from nas.distill.run import TrialContext
    from nas.measure.environment import device_key
    from nas.measure.service import MeasurementService

    config = replace(SearchConfig.from_dict(json.loads(places.config)), seed=seed)
    own = places.of_seed(seed)
    folders = {name: own / name for name in ("weights", FOLDER, "checkpoints")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return TrialContext(
        config=config,
        targets=load_targets(Path(places.targets)),
        service=MeasurementService(places.threads),  # starts nothing until it is asked, which a training does not
        lock_dir=Path(places.lock_dir) / device_key(config.device),
        samples_dir=own,
        weights_dir=folders["weights"],
        pictures_dir=folders[FOLDER],
        checkpoint_dir=folders["checkpoints"],
        checkpoint_s=places.checkpoint_s,
    )
