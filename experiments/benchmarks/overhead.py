"""What the machinery of a search costs beside the work: Ray Tune, the loop, the store.

    python -m experiments.benchmarks.overhead --trials 200 --seconds 1 --workers 2     wall time over the ideal
    python -m experiments.benchmarks.overhead --trials 2000 --seconds 0 --workers 2    milliseconds a trial

Everything is real but the work: the trials' stages sleep. The clock starts with the first result, so that starting
Ray and its workers is left out; the time that the sampler takes is counted apart. Half the seconds are the
measurement's, half the rung's. Two minutes for the first, three for the second on an idle machine.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from nas.config import DistillConfig, SearchConfig
from nas.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState
from nas.runner import Places, run_study
from nas.samplers import make_sampler
from nas.store import Store
from nas.study import StudyLoop
from search_space import SPACES

OBJECTIVES = (Objective("quality", "quality", "", 0.0), Objective("throughput", "throughput", "x", 0.125, log=True))
FOLDERS = ("samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")


@dataclass
class Timed:
    """Counts the seconds of a sampler's calls."""

    seconds: float = 0.0
    first: float | None = None  # the clock when the first result came
    last: float = 0.0
    at_first: int = 0  # trials that were over by then
    sampler_at_first: float = field(default=0.0)


def counted(sampler: BaseSampler, timed: Timed) -> BaseSampler:
    """The sampler, with its seconds added up."""
    for name in ("infer_relative_search_space", "sample_relative", "sample_independent", "before_trial", "after_trial"):
        original = getattr(sampler, name)

        def call(*arguments: Any, original: Any = original, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                timed.seconds += time.perf_counter() - began

        setattr(sampler, name, call)
    return sampler


def sleeping(record: TrialRecord, places: Places) -> Iterator[TrialRecord]:
    """The stages of a trial that does nothing: a measurement, then one rung."""
    half_s = float(places.targets_dir) / 2  # the one field that this trial has no other use for
    time.sleep(half_s)
    ratio = 1.0 + int(record.arch_id[:6], 16) / 2**24
    record = replace(record, params=1, macs=1, measurement=measurement(ratio))
    yield record
    time.sleep(half_s)
    rung = RungResult(0, 10, ratio / 2, {"lite0": {"spatial": ratio / 2}}, {}, {}, half_s)
    yield replace(record, rungs=(rung,), state=TrialState.COMPLETE)


def measurement(ratio: float) -> Measurement:
    return Measurement(
        device="none", arm="fp32", batch=1, resolution=64, throughput_img_s=ratio, throughput_low_img_s=ratio,
        throughput_high_img_s=ratio, ratio=ratio, ratio_low=ratio, ratio_high=ratio, reference="eradio_pico",
        reference_img_s=1.0, latency_ms=1.0, peak_memory_mib=None, samples=1, seconds=0.0, verdict="ok",
    )  # fmt: skip


def info(config: SearchConfig) -> StudyInfo:
    return StudyInfo(
        name="overhead", created="", command="", config=config.to_dict(), environment={}, objectives=OBJECTIVES,
        rung_steps=config.distill.rung_steps, limits={}, teachers={}, data={"name": "none", "fingerprint": "none"},
        reference=config.reference, baselines=(), sessions=({"started": "", "wall_s": 0.0},),
    )  # fmt: skip


def run(folder: Path, trials: int, seconds: float, workers: int, sampler: str) -> Timed:
    """One study; its clock."""
    config = SearchConfig(budget=trials, sampler=sampler, baselines=(), distill=DistillConfig(rung_steps=(10,)))
    timed = Timed()
    made = counted(make_sampler(sampler, SPACES[config.space], OBJECTIVES, 0), timed)
    store = Store.create(folder / "run", info(config), made)
    for name in FOLDERS:
        (folder / name).mkdir()
    places = Places(
        config=json.dumps(config.to_dict()),
        targets_dir=str(seconds),
        train_threads=1,
        measure_threads=1,
        **{name: str(folder / name) for name in FOLDERS},
    )

    def heard(loop: StudyLoop, record: TrialRecord) -> None:
        if record.state is TrialState.COMPLETE:
            timed.last = time.perf_counter()
            if timed.first is None:
                timed.first, timed.at_first, timed.sampler_at_first = timed.last, loop.evaluated, timed.seconds

    run_study(StudyLoop(store, heard), places, workers, stages=sleeping)
    return timed


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--trials", type=int, default=200, help="(default 200)")
    made.add_argument("--seconds", type=float, default=1.0, help="of each trial (default 1)")
    made.add_argument("--workers", type=int, default=2, help="(default 2)")
    made.add_argument("--sampler", default="random", help="(default random)")
    made.add_argument("--profile", action="store_true", help="where the driver's time goes, to stdout")
    wanted = made.parse_args()
    profile = cProfile.Profile()
    cpu_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if wanted.profile:
            profile.enable()
        timed = run(Path(folder), wanted.trials, wanted.seconds, wanted.workers, wanted.sampler)
        profile.disable()
    if wanted.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(70)
    assert timed.first is not None
    after = wanted.trials - timed.at_first
    wall_s, sampler_s = timed.last - timed.first, timed.seconds - timed.sampler_at_first
    found = {
        "trials": after,
        "wall_s": round(wall_s, 2),
        "ms_a_trial": round(1e3 * (wall_s - sampler_s) / after, 2),
        "sampler_ms_a_trial": round(1e3 * sampler_s / after, 2),
        "driver_cpu_ms_a_trial": round(1e3 * (time.process_time() - cpu_s) / wanted.trials, 2),
    }
    if wanted.seconds:
        found["wall_over_ideal"] = round(wall_s / (after * wanted.seconds / wanted.workers), 4)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
