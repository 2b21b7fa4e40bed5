"""Faults of drivers and databases: the real `StudyLoop` on a real store, with synthetic training.

    python -m experiments.chaos.loop_study RUN          drive the study in RUN to its end; chaos starts this

Phases have random short lengths and numbers derived from the architecture. The sampler `random` depends on the trial's
number alone, so a study's architectures must be those of an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.postgres import PASSWORD, NoServer, Server, server
from experiments.chaos.invariants import Witness, read_trials, results
from nas.samplers import make_sampler
from nas.storage.errors import retry_while_unavailable
from nas.storage.store import Store
from nas.study.config import DistillConfig, SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState
from search_space import SPACES

ROOT = Path(__file__).parents[2]
OBJECTIVES = (Objective("score", "", "", reference=0.0), Objective("throughput", "", "x", reference=0.125, log=True))
RUNG_STEPS = (10, 30)
_BACK_S = 120.0


class Broken(AssertionError):
    """The study does not go on, or a driver has ended as it must not."""


def new_study(run_dir: Path, budget: int, database: str | None = None, sampler: str = "random") -> None:
    """Create a study without trials."""
    config = SearchConfig(budget=budget, sampler=sampler, scale=(), distill=DistillConfig(rung_steps=RUNG_STEPS))
    info = StudyInfo(
        name=run_dir.name, created="", command="", config=config.to_dict(), environment={}, objectives=OBJECTIVES,
        rung_steps=RUNG_STEPS, limits={}, teachers={}, data={}, reference=config.reference, baselines=config.baselines,
    )  # fmt: skip
    Store.create(run_dir, info, _sampler(config), database)


def drive(run_dir: Path, stage_s: float) -> int:
    """Run the study to its end, a trial at a time; every stage takes up to twice `stage_s`."""
    note(run_dir, "opens")

    def say(line: str) -> None:
        note(run_dir, "says", line=line)

    config = retry_while_unavailable(lambda: SearchConfig.from_dict(Store.open(run_dir).info.config), say, "")
    store = retry_while_unavailable(lambda: Store.open(run_dir, _sampler(config)), say, "")
    store.notify = say
    loop = StudyLoop(store)
    chance = random.Random(os.getpid())
    while not loop.finished:
        record = loop.next_trial()
        if record is None:
            time.sleep(0.05)
            continue
        note(run_dir, "runs", number=record.number)
        for stage in stages(record):
            time.sleep(chance.uniform(0, 2 * stage_s))
            if not loop.report(stage):
                break
        note(run_dir, "stored", number=record.number)
    loop.close({})
    return 0


def stages(record: TrialRecord) -> Iterator[TrialRecord]:
    """Yield a worker's reports: a measurement, then each rung. The numbers depend on the architecture alone."""
    draw = random.Random(record.arch_id)
    ratio, score = draw.uniform(0.3, 3), draw.uniform(0.1, 0.6)
    measured = Measurement(
        device="cpu", arm="", batch=1, resolution=64, throughput_img_s=ratio, throughput_low_img_s=ratio,
        throughput_high_img_s=ratio, ratio=ratio, ratio_low=ratio, ratio_high=ratio, reference="", reference_img_s=1.0,
        latency_ms=1.0, peak_memory_mib=None, samples=1, seconds=0.0, verdict="ok",
    )  # fmt: skip
    yield (record := replace(record, measurement=measured, params=1, macs=1))
    for rung, steps in enumerate(RUNG_STEPS):
        result = RungResult(rung, steps, score * (rung + 1) / 2, {}, {}, {}, 0.0)
        state = TrialState.COMPLETE if rung + 1 == len(RUNG_STEPS) else TrialState.RUNNING
        yield (record := replace(record, rungs=(*record.rungs, result), state=state))


def note(run_dir: Path, what: str, **more: Any) -> None:
    """Append a line to the study's events, completely or not at all."""
    with _events(run_dir).open("ab", buffering=0) as events:
        events.write(json.dumps({"what": what, "pid": os.getpid(), **more}).encode() + b"\n")


def events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the drivers' events, in order."""
    path = _events(run_dir)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _events(run_dir: Path) -> Path:
    """Return the file of the events: not in the file system that a fault fills."""
    return run_dir.parents[1] / f"{run_dir.name}.events"


@dataclass
class LoopStudy:
    """A study with its drivers, and the witness of what happens to it.

    Args:
        run_dir: The study's folder.
        stage_s: Mean seconds of a trial's stages.
        chance: Draws victims and moments.
        database: A PostgreSQL server; None for SQLite.
        environment: That of the drivers; None for this process's.
    """

    run_dir: Path
    stage_s: float
    chance: random.Random
    database: Server | None = None
    environment: dict[str, str] | None = None
    clock: Path | None = None
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    witness: Witness = field(init=False)
    _seen: int = 0  # events that `look` has checked

    def __post_init__(self) -> None:
        """Begin to watch."""
        self.witness = Witness(self.source)

    @property
    def source(self) -> Path | str:
        """Return where the trials are."""
        if self.database is None:
            return self.run_dir / "study.db"
        return self.database.url.replace("nas@", f"nas:{PASSWORD}@")

    def start_driver(self) -> None:
        """Start a driver, and wait until it opens the study."""
        command = [sys.executable, "-m", __spec__.name, str(self.run_dir), "--stage-s", str(self.stage_s)]
        driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=self.environment)
        self.drivers.append(driver)
        while not any(event["pid"] == driver.pid for event in events(self.run_dir)) and driver.poll() is None:
            time.sleep(0.02)

    def look(self) -> None:
        """Compare the study with what it was, and the drivers' events with what had ended before."""
        known = set(self.witness.ended)
        self.witness.look()
        for event in (happened := events(self.run_dir))[self._seen :]:
            if event["what"] == "runs" and event["number"] in known:
                self.witness.violations["repeated"] += 1
                self.witness.notes.append(f"trial {event['number']} had ended, and was run again")
        self._seen = len(happened)

    @property
    def over(self) -> bool:
        """Return whether a driver has ended the study."""
        return any(driver.poll() == 0 for driver in self.drivers)

    def wait_for_report(self, limit_s: float = _BACK_S) -> float:
        """Wait until a trial has new results or the study is over, and return the seconds; Broken where none come."""
        began_s, before = time.monotonic(), self._results()
        while time.monotonic() - began_s < limit_s:
            self.replace_failed()
            if self.over or self._results() > before:
                return time.monotonic() - began_s
            time.sleep(0.02)
        raise Broken(f"no report for {limit_s:.0f} s")

    def _results(self) -> int:
        with suppress(Exception):  # a database that is killed
            return results(read_trials(self.source))
        return 0

    def replace_failed(self, allowed: str = "No space|disk is full|unavailable|read-only") -> None:
        """Start a driver in place of one that ended with an error that a user could have caused; others are Broken."""
        for driver in [driver for driver in self.drivers if driver.poll()]:
            said = driver.stderr.read().decode(errors="replace")  # type: ignore[union-attr]
            if not any(words in said for words in allowed.split("|")):
                raise Broken(f"a driver ended with {driver.returncode}: {said[-800:]}")
            self.drivers.remove(driver)
            self.start_driver()

    def end(self, timeout_s: float) -> None:
        """Wait until the drivers have ended the study, and check it."""
        end_s = time.monotonic() + timeout_s
        while any(driver.poll() is None for driver in self.drivers):
            if time.monotonic() > end_s:
                raise Broken(f"the study has not ended after {timeout_s:.0f} s")
            self.replace_failed()
            time.sleep(0.05)
        self.replace_failed()
        self.look()
        self.witness.end()
        if self.database is not None:
            try:
                self.database.check()
            except NoServer as error:
                self.witness.violations["damaged database"] += 1
                self.witness.notes.append(str(error))

    def cut_off(self) -> int:
        """Return how many trials were run again after they were cut off."""
        runs = [event["number"] for event in events(self.run_dir) if event["what"] == "runs"]
        return len(runs) - len(set(runs))

    def driver(self) -> subprocess.Popen[bytes] | None:
        """Return the living driver."""
        self.replace_failed()
        alive = [driver for driver in self.drivers if driver.poll() is None]
        return self.chance.choice(alive) if alive else None

    def close(self) -> None:
        """Kill the drivers."""
        for driver in self.drivers:
            driver.kill()
            driver.wait()


Fault = Callable[[LoopStudy], str | None]


def kill_driver(study: LoopStudy) -> str | None:
    """Kill a driver with SIGKILL, and start another."""
    if (victim := study.driver()) is None:
        return None
    victim.kill()
    victim.wait()
    study.drivers.remove(victim)
    study.start_driver()
    return "SIGKILL"


def freeze_driver(study: LoopStudy) -> str | None:
    """Stop a driver with SIGSTOP, and continue it after up to 20 seconds."""
    if (victim := study.driver()) is None:
        return None
    seconds = study.chance.choice([0.5, 2, 5, 20]) * study.chance.random()
    victim.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    victim.send_signal(signal.SIGCONT)
    return f"{seconds:.1f} s"


def kill_database(study: LoopStudy) -> str | None:
    """Kill the postmaster with SIGKILL, and start it after up to two seconds."""
    if study.database is None or study.driver() is None:
        return None
    study.database.kill()
    time.sleep(study.chance.uniform(0, 2))
    study.database.start()
    return "SIGKILL"


def fill_disk(study: LoopStudy) -> str | None:
    """Fill the study's file system for up to three seconds."""
    if study.driver() is None:
        return None
    filler, end_s = study.run_dir.parent / "filler", time.monotonic() + study.chance.uniform(0.5, 3)
    with filler.open("wb", buffering=0) as file:
        while time.monotonic() < end_s:
            with suppress(OSError):
                file.write(bytes(1 << 14))
                continue
            time.sleep(0.02)
    filler.unlink()
    return "filled"


def set_clock(study: LoopStudy) -> str | None:
    """Set the drivers' clock by up to a year."""
    if study.clock is None or study.driver() is None:
        return None
    offset = study.chance.choice([-1, 1]) * 10 ** study.chance.uniform(0, 7.5)
    unfinished = study.clock.with_suffix(".new")
    unfinished.write_text(f"{offset:+.0f}\n")
    unfinished.rename(study.clock)
    return f"{offset:+.0f} s"


FAULTS: dict[str, Fault] = {
    "kill driver": kill_driver,
    "freeze": freeze_driver,
    "kill database": kill_database,
    "full disk": fill_disk,
    "clock set": set_clock,
}


@contextmanager
def loop_study(
    folder: Path, budget: int, stage_s: float, chance: random.Random, postgres: bool = False, **more: Any
) -> Iterator[LoopStudy]:
    """Yield a study in `folder`/disk/chaos; its drivers end with the body."""
    with ExitStack() as stack:
        database = stack.enter_context(server()) if postgres else None
        if database is not None:
            os.environ.update({"PGPASSWORD": PASSWORD})
            if more.get("environment"):
                more["environment"]["PGPASSWORD"] = PASSWORD
        run_dir = folder / "disk" / "chaos"
        run_dir.parent.mkdir(exist_ok=True)
        new_study(run_dir, budget, database.url if database else None)
        study = LoopStudy(run_dir, stage_s, chance, database, **more)
        try:
            yield study
        finally:
            study.close()


def undisturbed(folder: Path, budget: int) -> dict[int, str]:
    """Run the same study without faults, in this process; return its architectures."""
    run_dir = folder / "undisturbed" / "run"
    run_dir.mkdir(parents=True)
    new_study(run_dir, budget)
    drive(run_dir, stage_s=0.0)
    trials = read_trials(run_dir / "study.db")
    return {number: trial.record["arch_id"] for number, trial in trials.items()}


def _sampler(config: SearchConfig) -> Any:
    return make_sampler(config, SPACES[config.space], OBJECTIVES)


def main() -> int:
    """Drive a study to its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--stage-s", type=float, default=0.1, help="mean length of a trial's stages (default: 0.1)")
    args = parser.parse_args()
    return drive(args.run, args.stage_s)


if __name__ == "__main__":
    raise SystemExit(main())
