"""What the trials of one worker process have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas.cache.targets import Targets
from nas.config import SearchConfig
from nas.measure import Arm, Setting
from nas.measure.service import MeasurementService
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
    bench: MeasurementService
    lock_dir: Path
    samples_dir: Path
    weights_dir: Path
    pictures_dir: Path
    checkpoint_dir: Path
    checkpoint_s: float = 30.0
    together: Together | None = None


def setting_of(config: SearchConfig) -> Setting:
    """Return how a search measures: its device, batch, resolution, runtime and budget."""
    return Setting(
        device=config.device,
        batch=config.measure_batch,
        resolution=config.distill.image_px,
        arm=Arm.parse(config.measure_arm),
        budget_s=config.measure_seconds,
        seed=config.seed,
    )
