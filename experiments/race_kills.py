"""Kill a race again and again, its driver and its workers in turn, and compare it with one that was not killed.

    backbone-nas search --budget 6 --rung-steps 5,15 --train-images 128 --val-images 64 --run runs/small --no-race
    python -m experiments.race_kills runs/small --kills 20 --target 0.42 --race-steps 600 --fresh-images 1280

Both races run in copies of the study. Prints the kills of each kind, the finished trainings with their scores, and
whether both races named the same model by the same scores, to the last bit. Trainings that were begun ahead and that
one race alone has finished are left out.

Hardware:  two cores; 10 minutes
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from nas.storage.store import Store
from nas.study.records import TrialState

WAIT_S = (8.0, 20.0)  # from the start of a driver, or from the kill before; Ray starts within seven seconds


def start(run: Path, words: list[str]) -> subprocess.Popen[str]:
    """Start a race in a session of its own, with a checkpoint every few steps."""
    command = [sys.executable, "-m", "nas.race", str(run), "--json", *words]
    environment = {**os.environ, "BACKBONE_NAS_CHECKPOINT_S": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )


def workers(session: int) -> list[int]:
    """Return the processes of a session that run a training."""
    found = subprocess.run(["pgrep", "-s", str(session), "-f", "ray::ArchTrainable"], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def killed_race(run: Path, words: list[str], kills: int, rng: random.Random) -> tuple[dict[str, Any], Counter[str]]:
    """Return the result of a race that is killed at random moments, and the kills by kind."""
    done, process = Counter[str](), start(run, words)
    while True:
        try:
            out, _ = process.communicate(timeout=rng.uniform(*WAIT_S) if done.total() < kills else None)
            return dict(json.loads(out)), done
        except subprocess.TimeoutExpired:
            found = workers(process.pid)
        if done.total() % 2 and found:
            os.kill(rng.choice(found), signal.SIGKILL)
            done["worker"] += 1
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            done["driver"] += 1
            process = start(run, words)


def trainings(run: Path) -> dict[tuple[int, int], list[float]]:
    """Return the scores of each finished training by trial and seed."""
    with Store.open(run, read_only=True) as store:
        finished = [t for t in store.race_trainings() if t.record.state is TrialState.COMPLETE]
    return {(t.number, t.seed): [rung.score for rung in t.record.rungs] for t in finished}


def main() -> int:
    """Run both races and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished search")
    parser.add_argument("--kills", type=int, default=20, help="kills (default: 20)")
    arguments, words = parser.parse_known_args()  # the others are options of the races
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        for copy in (whole, killed):
            shutil.copytree(arguments.run, copy)
        result, done = killed_race(killed, words, arguments.kills, random.Random(0))
        out, _ = start(whole, words).communicate()
        alone, again = trainings(whole), trainings(killed)
        same = json.loads(out)["words"] == result["words"] and all(
            alone[job] == again[job] for job in alone.keys() & again
        )
        print(f"kills: {dict(done)}\n{result['words']}\ntrainings: {again}\nthe same to the last bit: {same}")
    return int(not same)


if __name__ == "__main__":
    raise SystemExit(main())
