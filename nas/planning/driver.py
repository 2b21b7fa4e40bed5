"""What the one driver costs, measured: a real loop on a real study in a temporary folder, with workers that make up
numbers."""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from nas.config import SearchConfig
from nas.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState
from nas.samplers import make_sampler
from nas.store import Store
from nas.study import StudyLoop
from search_space import SPACES

TUNE_S = 0.028  # of Ray Tune for a new trial in a reused process, measured once (issue 6); not part of what is timed
TRIALS = 30  # at most
FEWEST = 14  # after which a model has been asked a few times
PATIENCE_S = 4.0


@dataclass(frozen=True)
class DriverTimes:
    """Median seconds of one ask among the later ones, Tune's share included, and of one result."""

    ask_s: float
    tell_s: float


def driver_times(config: SearchConfig, objectives: tuple[Objective, ...]) -> DriverTimes:
    """Asks for some trials with the search's own sampler and storage, and tells what became of them."""
    small = replace(config, budget=TRIALS, baselines=(), limits={})
    asks: list[float] = []
    tells: list[float] = []
    rng = random.Random(config.seed)
    with tempfile.TemporaryDirectory(prefix="nas-plan-") as folder:
        sampler = make_sampler(config, SPACES[config.space], objectives)
        loop = StudyLoop(Store.create(Path(folder) / "study", _info(small, objectives), sampler))
        end = time.perf_counter() + PATIENCE_S
        while not loop.finished and (len(asks) < FEWEST or time.perf_counter() < end):
            began = time.perf_counter()
            record = loop.next_trial()
            asks.append(time.perf_counter() - began)
            while record is not None:
                record = _next(record, small, rng)
                began = time.perf_counter()
                goes_on = loop.take(record)
                tells.append(time.perf_counter() - began)
                if not goes_on:
                    break
    return DriverTimes(TUNE_S + median(asks[len(asks) // 2 :]), median(tells))


def _next(record: TrialRecord, config: SearchConfig, rng: random.Random) -> TrialRecord:
    """What a worker would send next, with random numbers in it."""
    if record.measurement is None:
        size = int(10 ** rng.gauss(6, 0.5))
        return replace(record, params=size, macs=10 * size, measurement=_measurement(2 ** rng.gauss(0, 1), config))
    quality = rng.random()
    rung = RungResult(
        len(record.rungs), config.distill.rung_steps[len(record.rungs)], quality, {"t": {"spatial": quality}}, {}, {}, 0
    )
    last = rung.rung + 1 == len(config.distill.rung_steps)
    return replace(
        record, rungs=(*record.rungs, rung), state=TrialState.COMPLETE if last else TrialState.RUNNING
    )  # fmt: skip


def _measurement(ratio: float, config: SearchConfig) -> Measurement:
    return Measurement(
        config.device, config.measure_arm, 1, 1, ratio, ratio, ratio, ratio, ratio, ratio, config.reference, 1.0,
        1 / ratio, 10 / ratio, 1, 0.0, "ok",
    )  # fmt: skip


def _info(config: SearchConfig, objectives: tuple[Objective, ...]) -> StudyInfo:
    return StudyInfo(
        name="plan", created="", command="", config=config.to_dict(), environment={}, objectives=objectives,
        rung_steps=config.distill.rung_steps, limits={}, teachers={}, data={}, reference=config.reference, baselines=(),
        sessions=({"started": "", "wall_s": 0.0},),
    )  # fmt: skip
