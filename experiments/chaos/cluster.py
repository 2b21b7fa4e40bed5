"""Faults of a Ray cluster: two nodes on the loopback network, whose workers train small models.

Workers, nodes and the driver are killed with SIGKILL. A killed node restarts after a while, a driver at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.chaos.invariants import Witness, children, read_trials, results
from nas.cache import open_targets
from tests.nas.backend.journal import begun_again
from tests.nas.backend.ray_nodes import ROOT, RayNodes, environment

_BACK_S = 600.0
STEPS = [30, 90]


class Cluster:
    """A study on a cluster.

    Args:
        folder: Takes the run folder and the cache.
        budget: Architectures to evaluate.
        nodes: The cluster.
        chance: Draws victims.
    """

    def __init__(self, folder: Path, budget: int, nodes: RayNodes, chance: random.Random) -> None:
        self.run, self.nodes, self.chance = folder / "run", nodes, chance
        self.run.mkdir(parents=True)
        targets = open_targets(
            "builtin", "xfeat", root=folder / "cache", train_images=24, val_images=8, image_px=64, grid=4, seed=0
        )
        settings = {"run": str(self.run), "targets": str(targets.path), "address": nodes.address, "made_up": False}
        words = json.dumps({**settings, "budget": budget, "steps": STEPS})
        self._command = [sys.executable, "-m", "tests.nas.backend.cluster_driver", words]
        self.witness = Witness(self.run / "study.db", self.run / "weights")
        self.start()

    def start(self) -> None:
        """Start the driver."""
        self.driver = subprocess.Popen(self._command, env=environment(), cwd=ROOT)

    def wait_for_report(self) -> float:
        """Wait until a trial has new results or the driver has ended, and return the seconds; TimeoutError else."""
        began_s, before = time.monotonic(), self._results()
        while time.monotonic() - began_s < _BACK_S:
            if self.driver.poll() is not None or self._results() > before:
                return time.monotonic() - began_s
            time.sleep(0.1)
        raise TimeoutError(f"no report for {_BACK_S:.0f} s")

    def _results(self) -> int:
        with suppress(Exception):  # not created yet
            return results(read_trials(self.run / "study.db"))
        return 0

    def kill_driver(self) -> str:
        """Kill the driver and start another."""
        self.driver.kill()
        self.driver.wait()
        self.start()
        return "driver"

    def kill_node(self) -> str | None:
        """Kill a node other than the head with its workers; another one joins after up to five seconds."""
        if not (victims := [node for node in self.nodes.nodes[1:] if node.poll() is None]):
            return None
        self.nodes.kill(self.chance.choice(victims))
        time.sleep(self.chance.uniform(0, 5))
        self.nodes.add()
        return "node"

    def kill_worker(self) -> str | None:
        """Kill a process that runs trials."""
        pids = []
        for process in {child for node in self.nodes.nodes if node.poll() is None for child in children(node.pid)}:
            with suppress(OSError):
                if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::ArchTrainable"):
                    pids.append(process)
        if not pids:
            return None
        with suppress(ProcessLookupError):
            os.kill(self.chance.choice(sorted(pids)), signal.SIGKILL)
        return "worker"


def run(folder: Path, faults: int, seed: int) -> dict[str, Any]:
    """Run a study under kills of nodes, workers and the driver; return what the episode's row needs."""
    chance, notes, back_s, violations = random.Random(seed), list[str](), list[float](), list[str]()
    with RayNodes() as nodes:
        nodes.add()
        study = Cluster(folder, 5 * faults + 4, nodes, chance)
        try:
            for _ in range(faults):
                study.wait_for_report()
                time.sleep(chance.uniform(0, 3))
                if study.driver.poll() is not None:
                    break
                fault = chance.choice([study.kill_node, study.kill_node, study.kill_worker, study.kill_driver])
                if note := fault():
                    notes.append(note)
                    back_s.append(study.wait_for_report())
                    study.witness.look()
            if code := study.driver.wait(1200):
                violations.append(f"the driver ended with {code}")
            study.witness.end()
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            violations.append(str(error))
        finally:
            study.driver.kill()
            study.driver.wait()
    violations += [f"architecture {arch} was begun again" for arch in begun_again(study.run)]
    records = [trial.record for trial in study.witness.ended.values()]
    return {
        "witness": study.witness, "violations": violations, "notes": notes, "back_s": [round(s, 1) for s in back_s],
        "faults": len(notes), "trials": len(records), "retried": sum(r.get("tries", 1) > 1 for r in records),
        "failed": sum(r.get("state") == "failed" for r in records),
    }  # fmt: skip
