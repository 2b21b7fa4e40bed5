"""One study under kill -9 of its drivers, and of its database: nothing lost, nothing run twice, the database whole.

    python -m experiments.benchmarks.chaos --kills 30                          one driver, SQLite
    python -m experiments.benchmarks.chaos --kills 30 --drivers 2 --postgres   kills the database as well

A driver here is the real `StudyLoop` on a real store in a process of its own; only the training is made up: stages of
random short length with numbers from the architecture alone. After every kill all that was finished is noted, and has
to be there unchanged at the end. With the sampler `random`, whose choice depends on the trial's number alone, the
architectures asked are those of an undisturbed study.
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
    """A promise of the store was not kept."""


def new_study(run_dir: Path, budget: int, database: str | None = None, sampler: str = "random") -> None:
    """A study to be driven."""
    config = SearchConfig(budget=budget, sampler=sampler, distill=DistillConfig(rung_steps=RUNG_STEPS))
    info = StudyInfo(
        name=run_dir.name, created="", command="", config=config.to_dict(), environment={}, objectives=OBJECTIVES,
        rung_steps=RUNG_STEPS, limits={}, teachers={}, data={}, reference=config.reference, baselines=config.baselines,
    )  # fmt: skip
    Store.create(run_dir, info, _sampler(config), database)


def drive(run_dir: Path, stage_s: float) -> int:
    """A driver: runs the study to its end, a trial at a time; every stage takes up to twice `stage_s`."""
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
    """What a worker would send: a measurement, then rung after rung. The numbers depend on the architecture alone."""
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
    """Appends a line to the study's events, whole or not at all."""
    with (run_dir / "events").open("ab", buffering=0) as events:
        events.write(json.dumps({"what": what, "pid": os.getpid(), **more}).encode() + b"\n")


def events(run_dir: Path) -> list[dict[str, Any]]:
    """What the drivers noted, in order."""
    path = run_dir / "events"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass
class Chaos:
    """A study with its drivers, their killer and its bookkeeping."""

    run_dir: Path
    stage_s: float
    database: Server | None = None
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    finished: dict[int, TrialRecord] = field(default_factory=dict)  # as they were first seen
    kills: Counter[str] = field(default_factory=Counter)
    _seen: int = 0  # events that `look` has judged

    def start_driver(self) -> None:
        """One more, and waits until it opens the study."""
        command = [sys.executable, "-m", __spec__.name, "--drive", str(self.run_dir), "--stage-s", str(self.stage_s)]
        driver = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)
        self.drivers.append(driver)
        while not any(event["pid"] == driver.pid for event in events(self.run_dir)) and driver.poll() is None:
            time.sleep(0.02)

    def kill_driver(self, chance: random.Random) -> None:
        """kill -9 of one, and another in its place."""
        victim = self.drivers.pop(chance.randrange(len(self.drivers)))
        self.kills["driver"] += victim.poll() is None
        victim.kill()
        victim.wait()
        self.look()
        self.start_driver()

    def kill_database(self, chance: random.Random) -> None:
        """kill -9 of the postmaster, and a start after up to two seconds."""
        assert self.database is not None
        self.database.kill()
        self.kills["database"] += 1
        time.sleep(chance.uniform(0, 2))
        self.database.start()
        self.look()

    def look(self) -> None:
        """Notes what is finished. Raises Broken where a finished trial is gone, or is not what it was."""
        now = {t.number: t for t in read_study(self.run_dir).trials if t.state is not TrialState.RUNNING}
        for number, record in self.finished.items():
            if now.get(number) != record:
                raise Broken(f"trial {number} was finished and is now {now.get(number)}")
        for event in events(self.run_dir)[self._seen :]:
            if event["what"] == "runs" and event["number"] in self.finished:
                raise Broken(f"trial {event['number']} was finished, and was run again")
        self.finished, self._seen = now, len(events(self.run_dir))

    def end(self, timeout_s: float) -> None:
        """Waits until the drivers have ended the study."""
        for driver in self.drivers:
            if driver.wait(timeout_s):
                raise Broken(f"a driver ended with {driver.returncode}: {driver.stderr.read().decode()[-800:]}")  # type: ignore[union-attr]
        self.look()

    def begin(self, drivers: int) -> None:
        """Starts drivers that ask their first trial at the same moment."""
        (self.run_dir / "hold").touch()
        for _ in range(drivers):
            self.start_driver()
        while sum(event["what"] == "stands by" for event in events(self.run_dir)) < drivers:
            time.sleep(0.01)
        (self.run_dir / "hold").unlink()

    def run(self, kills: int, drivers: int, chance: random.Random, window_s: float, timeout_s: float = 600) -> None:
        """The whole: drivers, kills at random moments, the end."""
        self.begin(drivers)
        for _ in range(kills):
            time.sleep(chance.uniform(0, window_s))
            if self.database is not None and chance.random() < 0.3:
                self.kill_database(chance)
            else:
                self.kill_driver(chance)
        self.end(timeout_s)


def check(chaos: Chaos, undisturbed: Path | None) -> dict[str, Any]:
    """Numbers of a study that has ended. Raises Broken where it is not as it has to be."""
    study = read_study(chaos.run_dir)
    budget = study.info.config["budget"]
    if unfinished := [t.number for t in study.trials if t.state is TrialState.RUNNING]:
        raise Broken(f"trials {unfinished} never ended")
    if (counted := sum(t.counts for t in study.trials)) != budget:
        raise Broken(f"{counted} architectures were evaluated, the budget is {budget}")
    once = [t.arch_id for t in study.trials if t.state is not TrialState.DUPLICATE]
    if twice := [arch for arch, times in Counter(once).items() if times > 1]:
        raise Broken(f"asked and run twice: {twice}")
    if [t.number for t in study.trials] != list(range(len(study.trials))):
        raise Broken("trial numbers are not one after another")
    if undisturbed is not None and [t.arch_id for t in study.trials] != [
        t.arch_id for t in read_study(undisturbed).trials
    ]:
        raise Broken("not the architectures of an undisturbed study")
    whole(chaos)
    restarts = Counter(e["number"] for e in events(chaos.run_dir) if e["what"] == "runs")
    cut_off = sum(times - 1 for times in restarts.values())
    return {"trials": len(study.trials), "kills": dict(chaos.kills), "trials cut off and run again": cut_off}


def whole(chaos: Chaos) -> None:
    """Raises Broken where the database finds fault with itself."""
    if chaos.database is not None:
        chaos.database.check()
        return
    with closing(sqlite3.connect(chaos.run_dir / "study.db")) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok" or connection.execute("PRAGMA foreign_key_check").fetchall():
            raise Broken(f"the database is damaged: {verdict}")


@contextmanager
def chaos(folder: Path, budget: int, stage_s: float, postgres: bool = False) -> Iterator[Chaos]:
    """A study in `folder`/chaos, to be driven; its drivers end with the body."""
    with ExitStack() as stack:
        database = stack.enter_context(server()) if postgres else None
        if database is not None:
            os.environ.update(database.env)
        new_study(folder / "chaos", budget, database.url if database else None)
        made = Chaos(folder / "chaos", stage_s, database)
        try:
            yield made
        finally:
            for driver in made.drivers:
                driver.kill()
                driver.wait()


def undisturbed(folder: Path, budget: int) -> Path:
    """The same study without kills, in this process."""
    new_study(folder / "undisturbed", budget)
    drive(folder / "undisturbed", stage_s=0.0)
    return folder / "undisturbed"


def _sampler(config: SearchConfig) -> Any:
    return make_sampler(config, SPACES[config.space], OBJECTIVES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--drivers", type=int, default=1)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--stage-s", type=float, default=0.1, help="mean length of a trial's stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        return drive(asked.drive, asked.stage_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        chaos(Path(folder), asked.budget, asked.stage_s, asked.postgres) as it,
    ):
        it.run(asked.kills, asked.drivers, random.Random(asked.seed), window_s=2.0)
        print(json.dumps(check(it, undisturbed(Path(folder), asked.budget))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
