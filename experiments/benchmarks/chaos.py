"""Kill a study's drivers and its database with SIGKILL; check that nothing is lost, run twice or damaged.

    python -m experiments.benchmarks.chaos --kills 30                          one driver, SQLite
    python -m experiments.benchmarks.chaos --kills 30 --drivers 2 --postgres   kills the database as well

A driver is a process with the real `StudyLoop` on a real store; only the training is synthetic: stages of random short
length, with numbers derived from the architecture. Trials that are finished after a kill must be unchanged at the end.
The sampler `random` depends on the trial's number alone, so its architectures must be those of an undisturbed study.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.postgres import Server, server
from nas.samplers import make_sampler
from nas.storage.errors import retry_while_unavailable
from nas.storage.store import Store, read_study
from nas.study.config import DistillConfig, SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState
from search_space import SPACES

OBJECTIVES = (Objective("score", "", "", reference=0.0), Objective("throughput", "", "x", reference=0.125, log=True))
RUNG_STEPS = (10, 30)


class Broken(AssertionError):
    """The store has lost, repeated or damaged something."""


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
    note(run_dir, "stands by")
    while (run_dir / "hold").exists():
        time.sleep(0.001)
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
    with (run_dir / "events").open("ab", buffering=0) as events:
        events.write(json.dumps({"what": what, "pid": os.getpid(), **more}).encode() + b"\n")


def events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the drivers' events, in order."""
    path = run_dir / "events"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass
class Chaos:
    """A study with its drivers, their killer and its bookkeeping."""

    run_dir: Path
    stage_s: float
    database: Server | None = None
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    finished: dict[int, TrialRecord] = field(default_factory=dict)  # as first seen
    kills: Counter[str] = field(default_factory=Counter)
    _seen: int = 0  # events that `look` has checked

    def start_driver(self) -> None:
        """Start one more driver, and wait until it opens the study."""
        command = [sys.executable, "-m", __spec__.name, "--drive", str(self.run_dir), "--stage-s", str(self.stage_s)]
        driver = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)
        self.drivers.append(driver)
        while not any(event["pid"] == driver.pid for event in events(self.run_dir)) and driver.poll() is None:
            time.sleep(0.02)

    def kill_driver(self, chance: random.Random) -> None:
        """Kill a driver with SIGKILL, and start another."""
        victim = self.drivers.pop(chance.randrange(len(self.drivers)))
        self.kills["driver"] += victim.poll() is None
        victim.kill()
        victim.wait()
        self.look()
        self.start_driver()

    def kill_database(self, chance: random.Random) -> None:
        """Kill the postmaster with SIGKILL, and start it after up to two seconds."""
        assert self.database is not None
        self.database.kill()
        self.kills["database"] += 1
        time.sleep(chance.uniform(0, 2))
        self.database.start()
        self.look()

    def look(self) -> None:
        """Record the finished trials. Broken where an earlier one is missing, changed or run again."""
        now = {t.number: t for t in read_study(self.run_dir).trials if t.state is not TrialState.RUNNING}
        for number, record in self.finished.items():
            if now.get(number) != record:
                raise Broken(f"trial {number} was finished and is now {now.get(number)}")
        for event in events(self.run_dir)[self._seen :]:
            if event["what"] == "runs" and event["number"] in self.finished:
                raise Broken(f"trial {event['number']} was finished, and was run again")
        self.finished, self._seen = now, len(events(self.run_dir))

    def end(self, timeout_s: float) -> None:
        """Wait until the drivers have ended the study."""
        for driver in self.drivers:
            if driver.wait(timeout_s):
                raise Broken(f"a driver ended with {driver.returncode}: {driver.stderr.read().decode()[-800:]}")  # type: ignore[union-attr]
        self.look()

    def begin(self, drivers: int) -> None:
        """Start drivers that ask for their first trial at the same moment."""
        (self.run_dir / "hold").touch()
        for _ in range(drivers):
            self.start_driver()
        while sum(event["what"] == "stands by" for event in events(self.run_dir)) < drivers:
            time.sleep(0.01)
        (self.run_dir / "hold").unlink()

    def run(self, kills: int, drivers: int, chance: random.Random, window_s: float, timeout_s: float = 600) -> None:
        """Start the drivers, kill at random moments, and wait for the end."""
        self.begin(drivers)
        for _ in range(kills):
            time.sleep(chance.uniform(0, window_s))
            if self.database is not None and chance.random() < 0.3:
                self.kill_database(chance)
            else:
                self.kill_driver(chance)
        self.end(timeout_s)


def check(chaos: Chaos, undisturbed: Path | None) -> dict[str, Any]:
    """Return the numbers of an ended study. Broken where it is not as it must be."""
    study = read_study(chaos.run_dir)
    budget = study.info.config["budget"]
    if unfinished := [t.number for t in study.trials if t.state is TrialState.RUNNING]:
        raise Broken(f"trials {unfinished} never ended")
    if (counted := sum(t.counts for t in study.trials)) != budget:
        raise Broken(f"{counted} architectures were evaluated, the budget is {budget}")
    once = [t.arch_id for t in study.trials if t.state is not TrialState.DUPLICATE]
    if twice := [arch for arch, times in Counter(once).items() if times > 1]:
        raise Broken(f"run twice: {twice}")
    if [t.number for t in study.trials] != list(range(len(study.trials))):
        raise Broken("trial numbers are not one after another")
    if undisturbed is not None and [t.arch_id for t in study.trials] != [
        t.arch_id for t in read_study(undisturbed).trials
    ]:
        raise Broken("not the architectures of an undisturbed study")
    check_database(chaos)
    restarts = Counter(e["number"] for e in events(chaos.run_dir) if e["what"] == "runs")
    cut_off = sum(times - 1 for times in restarts.values())
    baselines = sum(bool(t.baseline) for t in study.trials)  # beside the budget
    kills = dict(chaos.kills)
    return {"evaluated": counted, "baselines": baselines, "kills": kills, "trials cut off and run again": cut_off}


def check_database(chaos: Chaos) -> None:
    """Run the database's integrity check; Broken where it fails."""
    if chaos.database is not None:
        chaos.database.check()
        return
    with closing(sqlite3.connect(chaos.run_dir / "study.db")) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok" or connection.execute("PRAGMA foreign_key_check").fetchall():
            raise Broken(f"the database is damaged: {verdict}")


@contextmanager
def chaos(folder: Path, budget: int, stage_s: float, postgres: bool = False) -> Iterator[Chaos]:
    """Yield a study in `folder`/chaos; its drivers end with the body."""
    with ExitStack() as stack:
        database = stack.enter_context(server()) if postgres else None
        if database is not None:
            os.environ.update(database.env)
        new_study(folder / "chaos", budget, database.url if database else None)
        study = Chaos(folder / "chaos", stage_s, database)
        try:
            yield study
        finally:
            for driver in study.drivers:
                driver.kill()
                driver.wait()


def undisturbed(folder: Path, budget: int) -> Path:
    """Run the same study without kills, in this process."""
    new_study(folder / "undisturbed", budget)
    drive(folder / "undisturbed", stage_s=0.0)
    return folder / "undisturbed"


def _sampler(config: SearchConfig) -> Any:
    return make_sampler(config, SPACES[config.space], OBJECTIVES)


def main() -> int:
    """Print the numbers of a study under kills as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    strikes = "strikes; one at a driver that has already ended is not counted as a kill (default: 30)"
    parser.add_argument("--kills", type=int, default=30, help=strikes)
    parser.add_argument("--drivers", type=int, default=1)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--stage-s", type=float, default=0.1, help="mean length of a trial's stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        return drive(args.drive, args.stage_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        chaos(Path(folder), args.budget, args.stage_s, args.postgres) as it,
    ):
        it.run(args.kills, args.drivers, random.Random(args.seed), window_s=2.0)
        print(json.dumps(check(it, undisturbed(Path(folder), args.budget))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
