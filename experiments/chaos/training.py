"""Kill a training of `backbone-nas train` at random moments, and compare it with one that was left alone.

    python -m experiments.chaos.training                ten kills, SIGKILL and SIGTERM in turns, in one process
    python -m experiments.chaos.training --workers 2    in two, whose order of summation is the same in both trainings

A kill comes a random time after the training's first new steps. Checked: the command's exit code and message, that the
history has every step once, that the averaged weights, scores and losses are those of the training that was left alone,
bit by bit, and that SIGTERM loses no step. After SIGKILL the steps since the last checkpoint are trained again; one is
written every two seconds here.

Hardware:  two cores, some ten minutes
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from backbones import load
from nas.cli import INTERRUPTED
from nas.run_folder import CHECKPOINTS, checkpoint_path
from nas.storage.store import read_study
from nas.study.training_files import SPEED, STEP, WAITING, read_history
from search_space import preset

ARCH, STEPS, CHECKPOINT_S = "eradio_femto", 400, 2.0
PATIENCE_S = 600.0


def command(run: Path, cache: Path, workers: int, resume: bool) -> list[str]:
    """Return the command that begins or continues the training."""
    begun = [sys.executable, "-m", "nas.train"]
    if resume:
        return [*begun, "--resume", str(run), "--cache", str(cache)]
    data = ["--train-images", "256", "--val-images", "64", "--teachers", "hed", "--batch-size", "16"]
    timing = ["--measure-batch-size", "2", "--measure-seconds", "0.2", "--device", "cpu"]
    length = ["--train-steps", str(STEPS), "--eval-every", "100", "--workers", str(workers)]
    return [
        *begun,
        ARCH,
        *length,
        *data,
        *timing,
        "--distill",
        "precision=fp32",
        "--cache",
        str(cache),
        "--run",
        str(run),
    ]


def start(words: list[str]) -> subprocess.Popen[str]:
    """Start a command."""
    variables = {**os.environ, "BACKBONE_NAS_CHECKPOINT_S": str(CHECKPOINT_S)}
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=variables)


def steps_of(run: Path) -> float:
    """Return the last step in the history."""
    return max(read_history(run).get(STEP, []), default=0)


def kill(process: subprocess.Popen[str], run: Path, number: int, moment: random.Random) -> str | None:
    """Kill a training after its first new steps; return what was wrong. A training that ended before is left alone."""
    before, until = steps_of(run), time.monotonic() + PATIENCE_S
    while steps_of(run) <= before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(moment.uniform(0, 4))
    sent = signal.SIGKILL if number % 2 else signal.SIGTERM
    process.send_signal(sent)
    _, errors = process.communicate(timeout=PATIENCE_S)
    trained, kept = steps_of(run), kept_step(run)
    print(f"{sent.name}, step {trained:.0f} is in the history, {kept} in the checkpoint", flush=True)
    if sent is signal.SIGTERM and process.returncode not in (0, INTERRUPTED):
        return f"kill {number}: exit code {process.returncode}: {errors[-300:]}"
    if sent is signal.SIGTERM and process.returncode and kept < trained:
        return f"kill {number}: SIGTERM lost steps {kept} to {trained:.0f}"
    return None


def kept_step(run: Path) -> int:
    """Return the step of the newest checkpoint; 0 where there is none."""
    path = checkpoint_path(run / CHECKPOINTS, preset(ARCH).arch_id)
    if not path.exists():
        return 0
    return int(torch.load(path, weights_only=True)["content"]["distiller"]["step"])


def differences(alone: Path, killed: Path) -> list[str]:
    """Return in what two finished trainings differ."""
    spec = preset(ARCH)
    found = []
    weights = [load(run / "weights" / f"{spec.arch_id}.safetensors", spec).state_dict() for run in (alone, killed)]
    found += [f"weights: {name}" for name, value in weights[0].items() if not torch.equal(value, weights[1][name])]
    scores = [[rung.score for rung in read_study(run).trials[0].rungs] for run in (alone, killed)]
    found += [f"scores: {scores}"] * (scores[0] != scores[1])
    one, two = (read_history(run) for run in (alone, killed))
    found += [f"history: {n}" for n in one if n not in (SPEED, WAITING) and not np.array_equal(one[n], two[n])]
    return found


def main() -> None:
    """Run both trainings, and print what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="kills (default: 10)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the training (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    arguments = parser.parse_args()
    moment, wrong = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        cache, alone, killed = (Path(folder) / name for name in ("cache", "alone", "killed"))
        _, errors = (process := start(command(alone, cache, arguments.workers, False))).communicate()
        assert process.returncode == 0, errors
        process = start(command(killed, cache, arguments.workers, False))
        for number in range(arguments.kills):
            if (reason := kill(process, killed, number, moment)) is not None:
                wrong.append(reason)
            process = start(command(killed, cache, arguments.workers, True))
        _, errors = process.communicate(timeout=PATIENCE_S)
        wrong += [f"the last command: {errors[-300:]}"] * (process.returncode != 0)
        wrong += differences(alone, killed)
    print("\n".join(wrong) or f"{arguments.kills} kills: weights, scores and losses are equal bit by bit", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
