"""What the trials of one worker process have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas.cache.targets import Targets
from nas.config import SearchConfig
from nas.measure.service import Bench
from nas.records import RungResult, TrialRecord

Together = Callable[[TrialRecord, int], RungResult]


@dataclass(frozen=True)
class Workbench:
    """What a worker process keeps from trial to trial.

    `bench` measures, in processes of its own. `lock_dir` holds the device's locks; `samples_dir` takes the raw samples
    of measurements, `weights_dir` and `pictures_dir` the averaged weights and the contact sheets of trials that reach
    the last rung, `checkpoint_dir` the state of those that are under way. `together` trains one rung of a record in
    several processes, each of which calls `train_rank`; without it this process trains.
    """

    config: SearchConfig
    targets: Targets
    bench: Bench
    lock_dir: Path
    samples_dir: Path
    weights_dir: Path
    pictures_dir: Path
    checkpoint_dir: Path
    checkpoint_s: float = 30.0
    together: Together | None = None
