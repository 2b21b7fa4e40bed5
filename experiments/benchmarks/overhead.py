"""Measure the overhead of a search: Ray Tune, the loop, the store.

    python -m experiments.benchmarks.overhead --trials 200 --seconds 1 --workers 2     wall time over the ideal
    python -m experiments.benchmarks.overhead --trials 2000 --seconds 0 --workers 2    milliseconds a trial

Only the trials are synthetic: their stages sleep. The clock starts with the first result, so that the start of Ray and
its workers is left out; the sampler's time is reported separately. The measurement takes half the seconds, the rung the
other half. The first command takes two minutes on an idle machine, the second three.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.backend.ray_tune import open_cluster, run_study
from nas.backend.worker_spec import WorkerSpec
from nas.samplers import make_sampler
from nas.storage.store import Store
from nas.study.config import DistillConfig, SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState
from search_space import SPACES

OBJECTIVES = (Objective("score", "score", "", 0.0), Objective("throughput", "throughput", "x", 0.125, log=True))
FOLDERS = ("samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")
LOOP_METHODS = ("next_trial", "report")  # what a trial costs the driver, apart from Ray
SAMPLER_METHODS = (
    "infer_relative_search_space", "sample_relative", "sample_independent", "before_trial", "after_trial"
)  # fmt: skip


@dataclass
class Spent:
    """Wall and CPU seconds of the driver's thread."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def count(self, owner: Any, *names: str) -> None:
        """Add up the time of the methods `names` of `owner` from now on."""
        for name in names:
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return original(*arguments, **named)
            finally:
                self.wall_s += time.perf_counter() - wall_s
                self.cpu_s += time.thread_time() - cpu_s

        return call


@dataclass
class Clock:
    """Time spent since the first trial ended."""

    sampler: Spent = field(default_factory=Spent)
    loop: Spent = field(default_factory=Spent)  # including the sampler and the store
    at_first: tuple[float, ...] | None = None
    spent: tuple[float, ...] = ()  # trials; wall, CPU; of the sampler; of the loop

    def look(self, trials: int) -> None:
        """Record the time spent when a trial ends."""
        now = (trials, time.perf_counter(), time.thread_time())
        now += (self.sampler.wall_s, self.sampler.cpu_s, self.loop.wall_s, self.loop.cpu_s)
        self.at_first = self.at_first or now
        self.spent = tuple(after - before for after, before in zip(now, self.at_first, strict=True))


def sleeping(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    """Yield the stages of a sleeping trial: a measurement, then one rung."""
    half_s = float(spec.targets_dir) / 2  # a field that this trial does not use otherwise
    time.sleep(half_s)
    ratio = 1.0 + int(record.arch_id[:6], 16) / 2**24
    record = replace(record, params=1, macs=1, measurement=measurement(ratio))
    yield record
    time.sleep(half_s)
    rung = RungResult(0, 10, ratio / 2, {"lite0": {"spatial": ratio / 2}}, {}, {}, half_s)
    yield replace(record, rungs=(rung,), state=TrialState.COMPLETE)


def measurement(ratio: float) -> Measurement:
    """Return a synthetic measurement."""
    return Measurement(
        device="none", arm="fp32", batch=1, resolution=64, throughput_img_s=ratio, throughput_low_img_s=ratio,
        throughput_high_img_s=ratio, ratio=ratio, ratio_low=ratio, ratio_high=ratio, reference="eradio_pico",
        reference_img_s=1.0, latency_ms=1.0, peak_memory_mib=None, samples=1, seconds=0.0, verdict="ok",
    )  # fmt: skip


def info(config: SearchConfig) -> StudyInfo:
    """Return the description of the study."""
    return StudyInfo(
        name="overhead", created="", command="", config=config.to_dict(), environment={}, objectives=OBJECTIVES,
        rung_steps=config.distill.rung_steps, limits={}, teachers={}, data={"name": "none", "fingerprint": "none"},
        reference=config.reference, baselines=(), sessions=(),
    )  # fmt: skip


def run(folder: Path, trials: int, seconds: float, workers: int, sampler: str) -> Clock:
    """Run one study and return its clock."""
    config = SearchConfig(
        budget=trials, sampler=sampler, baselines=(), scale=(), distill=DistillConfig(rung_steps=(10,))
    )
    timed_sampler, clock = make_sampler(replace(config, sampler=sampler), SPACES[config.space], OBJECTIVES), Clock()
    clock.sampler.count(timed_sampler, *SAMPLER_METHODS)
    store = Store.create(folder / "run", info(config), timed_sampler)
    for name in FOLDERS:
        (folder / name).mkdir()
    spec = WorkerSpec(
        config=json.dumps(config.to_dict()),
        targets_dir=str(seconds),
        train_threads=1,
        measure_threads=1,
        **{name: str(folder / name) for name in FOLDERS},
    )

    def heard(loop: StudyLoop, record: TrialRecord) -> None:
        if record.state is TrialState.COMPLETE:
            clock.look(len(loop.trials))

    loop = StudyLoop(store, heard)
    clock.loop.count(loop, *LOOP_METHODS)
    with open_cluster(spec, workers) as cluster:
        run_study(loop, cluster, phases=sleeping)
    return clock


def main() -> None:
    """Print the overhead as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="number of trials (default: 200)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each trial (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time (default: 2)")
    parser.add_argument("--sampler", default="random", help="name of the sampler (default: random)")
    parser.add_argument("--profile", action="store_true", help="print a profile of the driver (default: no)")
    args = parser.parse_args()
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        if args.profile:
            profile.enable()
        clock = run(Path(folder), args.trials, args.seconds, args.workers, args.sampler)
        profile.disable()
    if args.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(70)
    trials, wall_s, cpu_s, sampler_wall_s, sampler_cpu_s, _, loop_cpu_s = clock.spent
    result = {
        "trials": int(trials),
        "wall_s": round(wall_s, 2),
        "ms_a_trial_without_sampler": round(1e3 * (wall_s - sampler_wall_s) / trials, 2),
        "cpu_ms_a_trial": {
            "sampler": round(1e3 * sampler_cpu_s / trials, 2),
            "loop and store": round(1e3 * (loop_cpu_s - sampler_cpu_s) / trials, 2),
            "ray": round(1e3 * (cpu_s - loop_cpu_s) / trials, 2),
        },
    }
    if args.seconds:
        result["wall_over_ideal"] = round(wall_s / (trials * args.seconds / args.workers), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
