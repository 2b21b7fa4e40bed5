"""Compare the simulation of `nas.plan` with real searches, from the records of those searches.

    python -m experiments.benchmarks.simulated_wall                   the stored example: real and simulated
    python -m experiments.benchmarks.simulated_wall --run runs/mine   another study, all of it in one session
    python -m experiments.benchmarks.simulated_wall --fit             fit the learning speeds in nas.plan.forecast
    python -m experiments.benchmarks.simulated_wall --run runs/mine --keep    make it the stored example

Every architecture keeps its recorded seconds and values; the simulation decides again which ones continue to the next
rung, and when. If it continues one that was early-stopped, the next rung takes the median growth of the others'
seconds, and the unknown score stays the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, median
from typing import Any

from nas.backend.simulated import Cluster, SimulatedSearch
from nas.plan.forecast import LEARNING, Candidate, Workload, simulate_candidates
from nas.storage.store import read_study
from nas.study.config import SearchConfig
from nas.study.pareto import coordinate
from nas.study.records import StudyRecord

RESULTS = Path(__file__).parents[1] / "results"
RECORDED, CONTROL = RESULTS / "recorded_search.json", RESULTS / "sampler_control.json"
ASK_S, TELL_S = 0.1, 0.01  # of a short study, with Tune's 28 ms a trial


def recorded(study: StudyRecord, workers: int) -> dict[str, Any]:
    """Return the study's data for the simulation."""
    score, throughput = study.info.objectives
    trials = []
    for trial in study.trials:
        measured, ratio = trial.measurement, trial.predicted_ratio
        if not trial.rungs or (measured is None and ratio is None):
            continue
        speed = coordinate(throughput, measured.ratio if measured else ratio or 0.0)
        trials.append(
            {
                "baseline": trial.baseline is not None,
                "measure_s": round(measured.seconds, 3) if measured else 0.0,
                "rung_s": [round(rung.seconds, 3) for rung in trial.rungs],
                "points": [[round(coordinate(score, r.score), 5), round(speed, 5)] for r in trial.rungs],
                "finished_s": round(trial.finished_s or 0.0, 2),
            }
        )
    config = study.info.config
    return {
        "command": study.info.command,
        "device": study.info.environment.get("device_name"),
        "workers": workers,
        "wall_s": study.info.sessions[0]["wall_s"],
        "budget": config["budget"],
        "reduction_factor": config["reduction_factor"],
        "measure_first": config.get("measure_first", True),
        "rungs": len(study.info.rung_steps),
        "reached": [
            sum(len(t["rungs"]) > i for t in map(vars, study.trials) if not t["baseline"])
            for i in range(len(study.info.rung_steps))
        ],
        "trials": trials,
    }


def start_s(of: dict[str, Any]) -> float:
    """Return the seconds before the first trial (Ray, workers, imports), from the first trials' ends."""
    firsts = of["trials"][: of["workers"]]
    return max(0.0, min(t["finished_s"] - t["measure_s"] - sum(t["rung_s"]) for t in firsts))


def again(of: dict[str, Any], ask_s: float = ASK_S, tell_s: float = TELL_S) -> SimulatedSearch:
    """Simulate the recorded search, with all workers on one device."""
    whole = [t["rung_s"] for t in of["trials"] if len(t["rung_s"]) == of["rungs"]]
    growth = [median(later[i + 1] / later[i] for later in whole) for i in range(of["rungs"] - 1)]

    def candidate(trial: dict[str, Any]) -> Candidate:
        seconds, scores = list(trial["rung_s"]), [score for score, _ in trial["points"]]
        for i in range(len(seconds) - 1, of["rungs"] - 1):
            seconds.append(seconds[i] * growth[i])
            scores.append(scores[i])
        return Candidate(trial["measure_s"], tuple(seconds), tuple(scores), speed=trial["points"][0][1])

    baselines = [candidate(t) for t in of["trials"] if t["baseline"]]
    sampled = [candidate(t) for t in of["trials"] if not t["baseline"]]
    cluster = Cluster(1, of["workers"], start_s(of), ask_s, tell_s)
    names = SearchConfig().baselines[: len(baselines)]
    first = of.get("measure_first", True)  # as all searches before 2026-11-27
    settings = {"reduction_factor": of["reduction_factor"], "baselines": names, "scale": (), "measure_first": first}
    config = SearchConfig(budget=len(sampled), **settings)
    return simulate_candidates(config, lambda asked, over: sampled[asked], cluster, baselines)


def fit() -> None:
    """Print how many of 200 trials reach each rung, mean of ten seeds, and those of the recorded searches."""
    times = [Candidate(1.7, (1.6, 2.8, 8.9))]  # of the stored example; the numbers hardly depend on them
    config = SearchConfig(budget=200, baselines=(), scale=(), measure_first=True)
    cluster = Cluster(1, 2, 5.0, ASK_S, TELL_S)
    for learning in (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8):
        runs = [
            simulate_candidates(config, Workload(times, learning=learning, seed=seed).draw, cluster)
            for seed in range(10)
        ]
        means = " ".join(f"{mean(run.reached[rung] for run in runs):5.0f}" for rung in range(3))
        print(
            f"learning {learning:3.1f}: reach rungs {means}"
            + ", ".join(f"   <- {name}" for name, of in LEARNING.items() if of == learning)
        )
    for name in ("random", "evolution"):
        complete = [row["complete"] for row in json.loads(CONTROL.read_text()) if row["sampler"] == name]
        print(f"recorded, {name}: reach the last rung {complete}")
    print(f"recorded, the stored example: reach rungs {json.loads(RECORDED.read_text())['reached']}")


def main() -> None:
    """Print real and simulated wall time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    if args.fit:
        fit()
        return
    of = recorded(read_study(args.run), args.workers) if args.run else json.loads(RECORDED.read_text())
    if args.keep:
        RECORDED.write_text(json.dumps(of, separators=(",", ":")))
    simulated = again(of)
    print(f"{of['command']}: start-up {start_s(of):.1f} s")
    real_s, simulated_s = of["wall_s"], simulated.wall_s
    print(f"wall time: real {real_s:.0f} s, simulated {simulated_s:.0f} s ({simulated_s / real_s:.3f}x)")
    print(f"trials at each rung: real {of['reached']}, simulated {list(simulated.reached)}")
    print(f"utilization {simulated.utilization:.3f};", {doing.value: round(s) for doing, s in simulated.spent.items()})


if __name__ == "__main__":
    main()
