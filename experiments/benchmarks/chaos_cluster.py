"""Kill the driver, workers and nodes of a local Ray cluster at random moments while a study runs on it.

    python -m experiments.benchmarks.chaos_cluster --kills 30 --budget 90 --seed 0

The Ray nodes are on the loopback interface; small models are really distilled from XFeat; kills are SIGKILL. A killed
node restarts after a while, a driver at once, and the study continues. At the end all architectures of the budget must
be evaluated, no finished trial may have begun again, every failed one must have been killed twice, and the database
must pass its integrity check. Prints one line of JSON; exit code 1 where a check fails. Takes twenty minutes on two
CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from nas.cache import open_targets
from nas.storage.store import STUDY_FILE, read_study
from nas.study.failures import Failure
from nas.study.records import TrialState
from tests.nas.backend.journal import begun_again, journal
from tests.nas.backend.ray_nodes import ROOT, RayNodes, descendants, environment


def workers(nodes: RayNodes) -> list[int]:
    """Return the ids of the processes that run trials."""
    pids = []
    for process in {child for node in nodes.nodes if node.poll() is None for child in descendants(node.pid)}:
        with suppress(OSError):
            if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::ArchTrainable"):
                pids.append(process)
    return sorted(pids)


class Driver:
    """The process that drives the study; after a kill a new one continues."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._command = [sys.executable, "-m", "tests.nas.backend.cluster_driver", json.dumps(settings)]
        self.start()

    def start(self) -> None:
        """Start the process."""
        self.process = subprocess.Popen(self._command, env=environment(), cwd=ROOT)

    @property
    def over(self) -> bool:
        """Return whether the process has ended."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill the process and start another."""
        self.process.kill()
        self.process.wait()
        self.start()


def strike(driver: Driver, nodes: RayNodes, rng: random.Random) -> str | None:
    """Kill the driver (chance 1/5), a node other than the head (1/5), or a worker; return None where none runs."""
    lot, victims = rng.random(), [node for node in nodes.nodes[1:] if node.poll() is None]
    if lot < 0.2:
        driver.kill()
        return "driver"
    if lot < 0.4 and victims:
        nodes.kill(rng.choice(victims))
        time.sleep(rng.uniform(0, 5))
        nodes.add()
        return "node"
    if not (running := workers(nodes)):
        return None
    with suppress(ProcessLookupError):
        os.kill(rng.choice(running), signal.SIGKILL)
    return "worker"


def chaos(folder: Path, budget: int, kills: int, seed: int, pause_s: float) -> dict[str, object]:
    """Run the study under kills, then to its end; return its outcome."""
    rng, done, run = random.Random(seed), Counter[str](), folder / "run"
    run.mkdir()
    targets = open_targets(
        "builtin", "xfeat", root=folder / "cache", train_images=24, val_images=8, image_px=64, grid=4, seed=0
    )
    with RayNodes() as nodes:
        nodes.add()
        settings = {"run": str(run), "targets": str(targets.path), "address": nodes.address, "made_up": False}
        driver = Driver({**settings, "budget": budget, "steps": [60, 180]})
        while not driver.over and done.total() < kills:
            time.sleep(rng.expovariate(1 / pause_s))
            if not driver.over and (what := strike(driver, nodes, rng)):
                done[what] += 1
                print(f"{what} killed, {done.total()} of {kills}", file=sys.stderr, flush=True)
        code = driver.process.wait()
    return {"exit_code": code, "killed": dict(done), **outcome(run)}


def outcome(run: Path) -> dict[str, object]:
    """Return the outcome by the study and the workers' journal."""
    trials = read_study(run).trials
    with sqlite3.connect(run / STUDY_FILE) as database:
        (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
    return {
        "evaluated": sum(trial.counts for trial in trials),
        "states": dict(Counter(trial.state.value for trial in trials)),
        "run_twice": sum(trial.tries == 2 for trial in trials),
        "failed_otherwise": [
            trial.reason
            for trial in trials
            if trial.state is TrialState.FAILED and (trial.failure, trial.tries) != (Failure.LOST_WORKER, 2)
        ],
        "begun_although_over": begun_again(run),
        "begins": sum(what == "begins" for *_, what in journal(run)),
        "checkpoints_left": sorted(path.name for path in (run / "checkpoint_dir").glob("[!.]*")),
        "integrity": integrity,
    }


def main() -> int:
    """Print the outcome; 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="number of kills (default: 30)")
    parser.add_argument("--budget", type=int, default=90, help="architectures to evaluate (default: 90)")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and victims (default: 0)")
    parser.add_argument(
        "--pause", type=float, default=15.0, metavar="S", help="mean seconds between kills (default: 15)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = chaos(Path(folder), args.budget, args.kills, args.seed, args.pause)
    print(json.dumps(result))
    complete = result["exit_code"] == 0 and result["evaluated"] == args.budget and result["integrity"] == "ok"
    lost = result["failed_otherwise"] or result["begun_although_over"] or result["checkpoints_left"]
    return 0 if complete and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
