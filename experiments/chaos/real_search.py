"""Faults of a real search: real workers of Ray, real timing, real distillation, in a sandbox.

A fault is a function of the running search. It returns a note on what it did, or None where nothing was there to hit.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.chaos import invariants
from experiments.chaos.sandbox import Sandbox, starve, sweep_cgroups

SETTINGS = [
    *["--teachers", "xfeat", "--train-images", "48", "--val-images", "16", "--batch-size", "8"],
    *["--rung-steps", "15,45", "--distill", "precision=fp32", "--baselines", "none", "--scale", "none"],
    *["--measure-seconds", "0.2", "--sampler", "random", "--seed", "7"],
]
# What a search leaves in /tmp: the locks of its devices, and Ray's session folder while it lives.
ALLOWED = ("backbone-nas-*", "backbone-nas-*/*", "backbone-nas-*/**/*")
_BACK_S = 600.0  # the longest wait for a search to go on
_GONE_S = 60.0
_INTERRUPTED = 130  # the documented exit code after SIGINT, SIGTERM and SIGHUP


class Stuck(RuntimeError):
    """The search does not go on after a fault."""


@dataclass
class RealSearch:
    """A search of random architectures under faults.

    Args:
        sandbox: Its folders.
        budget: Architectures to evaluate.
        chance: Draws moments and victims.
        workers: Trials at a time.
        drifting: Whether the processes' clock can be set.
        trial_timeout_s: Seconds after which a stage of a trial hangs.
        settings: Flags of the search.
    """

    sandbox: Sandbox
    budget: int
    chance: random.Random
    workers: int = 2
    drifting: bool = False
    trial_timeout_s: int = 300
    settings: list[str] = field(default_factory=lambda: list(SETTINGS))
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)  # of drivers that ended by themselves
    orphans_s: list[float] = field(default_factory=list)  # until the processes of a dead driver were gone

    @property
    def database(self) -> Path:
        """Return the study's file."""
        return self.sandbox.run / "study.db"

    @property
    def log(self) -> str:
        """Return what the commands have printed."""
        path = self.sandbox.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of the product."""
        with (self.sandbox.folder / "log").open("ab") as log:
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            environment = self.sandbox.environment(self.drifting)
            return subprocess.Popen(
                [sys.executable, "-m", "nas", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.sandbox.folder / "cwd",
            )  # fmt: skip

    def start(self) -> None:
        """Start a driver: the search's first, or one that resumes it."""
        words = ["--workers", str(self.workers), "--cache", str(self.sandbox.cache)]
        words += ["--trial-timeout", str(self.trial_timeout_s)]
        if self.database.exists():
            words += ["--resume", str(self.sandbox.run)]
        else:
            words += ["--run", str(self.sandbox.run), "--budget", str(self.budget), *self.settings]
        self.drivers.append(self.command("search", *words))

    def trials(self) -> dict[int, invariants.StoredTrial]:
        """Return the stored trials; none where there is no study yet."""
        try:
            return invariants.read_trials(self.database)
        except Exception:  # not created yet, or a disk that is full
            return {}

    @property
    def complete(self) -> bool:
        """Return whether the budget is spent."""
        counted = [t for t in self.trials().values() if t.ended and t.state != "FAIL"]
        return sum(t.record.get("state") != "duplicate" for t in counted) >= self.budget

    def reap(self) -> list[int]:
        """Forget the drivers that have ended, and return their exit codes."""
        over = [driver for driver in self.drivers if driver.poll() is not None]
        self.drivers = [driver for driver in self.drivers if driver not in over]
        codes = [int(driver.returncode) for driver in over]
        self.codes += codes
        return codes

    def wait_for_report(self, limit_s: float = _BACK_S) -> float:
        """Wait until a trial has new results, resume the search where it ended, and return the seconds.

        Raises:
            Stuck: Nothing new came.
        """
        began_s, before = time.monotonic(), self._results()
        while time.monotonic() - began_s < limit_s:
            self.reap()
            if not self.drivers:
                if self.complete:
                    return time.monotonic() - began_s
                self.expect_no_traceback()
                self.await_gone()
                self.start()
            if self._results() > before:
                return time.monotonic() - began_s
            time.sleep(0.1)
        raise Stuck(f"no report for {limit_s:.0f} s; the last lines: {self.log[-600:]}")

    def _results(self) -> int:
        return invariants.results(self.trials())

    def expect_no_traceback(self) -> None:
        """Check what the last command has printed."""
        last = self.log.rpartition("\n$ ")[2]
        if "Traceback (most recent call last)" in last:
            self.violations.append(f"traceback: {last[-500:]}")

    def await_gone(self) -> None:
        """Wait until nothing of the ended drivers lives."""
        seconds, left = invariants.seconds_until_gone([os.getppid()], _GONE_S)
        self.orphans_s.append(seconds)
        for pid, words in left.items():
            self.violations.append(f"orphan after {_GONE_S:.0f} s: {words[:120]}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self, limit_s: float = 600.0) -> None:
        """Let the search come to its end, resumed where it ends early."""
        began_s = time.monotonic()
        while not self.complete or self.drivers:
            if not self.drivers:
                self.start()
            if time.monotonic() - began_s > limit_s:
                raise Stuck(f"the search does not end; the last lines: {self.log[-600:]}")
            if self.reap() and not self.drivers and not self.complete:
                self.expect_no_traceback()
                self.await_gone()
            time.sleep(0.2)
        self.await_gone()

    def close(self) -> None:
        """Kill what is left."""
        for pid in invariants.living([os.getppid()]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for driver in self.drivers:
            driver.wait()
        sweep_cgroups()

    # Victims

    def processes(self, *words: str) -> list[int]:
        """Return the processes whose command line has one of the words."""
        return [pid for pid, line in invariants.living().items() if any(word in line for word in words)]

    def trainers(self) -> list[int]:
        """Return the processes that run trials."""
        return [pid for pid, line in invariants.living().items() if line.startswith("ray::ArchTrainable")]

    def driver(self) -> subprocess.Popen[bytes] | None:
        """Return a driver."""
        self.reap()
        return self.chance.choice(self.drivers) if self.drivers else None

    def kill_drivers(self) -> None:
        """Kill all drivers, and wait until nothing of them lives."""
        for driver in self.drivers:
            driver.kill()
            driver.wait()
        self.drivers = []
        self.await_gone()


Fault = Callable[[RealSearch], str | None]


def kill_driver(search: RealSearch) -> str | None:
    """Kill the driver with SIGKILL."""
    if search.driver() is None:
        return None
    search.kill_drivers()
    ended = sum(trial.ended for trial in search.trials().values())
    search.start()
    return f"SIGKILL after {ended} ended trials"


def terminate_driver(search: RealSearch) -> str | None:
    """Send SIGTERM, SIGINT or SIGHUP to the driver, which must end by itself."""
    if (driver := search.driver()) is None:
        return None
    word = search.chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    driver.send_signal(word)
    try:
        code = driver.wait(60)
    except subprocess.TimeoutExpired:
        search.violations.append(f"{word.name}: the driver still runs after 60 s")
        driver.kill()
        code = driver.wait()
    search.drivers.remove(driver)
    if code != _INTERRUPTED:
        search.violations.append(f"{word.name}: exit code {code}")
    search.expect_no_traceback()
    search.await_gone()
    search.start()
    return word.name


def freeze(search: RealSearch) -> str | None:
    """Stop the driver, a worker or a process of Ray with SIGSTOP, and continue it after up to eight seconds."""
    victims = search.trainers() + search.processes("raylet", "gcs_server") + [d.pid for d in search.drivers]
    if not victims:
        return None
    victim, seconds = search.chance.choice(victims), search.chance.uniform(1, 8)
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(victim, signal.SIGCONT)
    return f"{seconds:.0f} s"


def kill_worker(search: RealSearch) -> str | None:
    """Kill a process that runs trials."""
    return _kill(search, search.trainers())


def kill_measuring(search: RealSearch) -> str | None:
    """Kill a process that times a model, or the one that starts them."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < 10:
        servers = search.processes("nas.measure.forkserver")
        timing = [pid for pid in servers if any(pid in invariants.children(other) for other in servers)]
        if timing or (servers and search.chance.random() < 0.01):
            return _kill(search, timing or servers)
        time.sleep(0.02)
    return None


def kill_ray(search: RealSearch) -> str | None:
    """Kill a process of Ray itself."""
    return _kill(search, search.processes("raylet/raylet", "gcs_server", "dashboard_agent", "runtime_env/agent"))


def _kill(search: RealSearch, victims: list[int]) -> str | None:
    if not victims:
        return None
    with suppress(ProcessLookupError):
        os.kill(search.chance.choice(victims), signal.SIGKILL)
        return "SIGKILL"
    return None


def fill_disk(search: RealSearch) -> str | None:
    """Fill the file system of the run folder for up to 15 seconds."""
    filler = search.sandbox.folder / "disk" / "filler"
    end_s = time.monotonic() + search.chance.uniform(2, 15)
    with filler.open("wb", buffering=0) as file:
        while time.monotonic() < end_s and search.drivers:
            with suppress(OSError):  # what others delete is filled too
                file.write(bytes(1 << 16))
                continue
            time.sleep(0.05)
            search.reap()
    filler.unlink()
    return "ended the driver" if not search.drivers else "driver went on"


def remount_read_only(search: RealSearch) -> str | None:
    """Remount the run folder read-only under a dead driver: select must work, --resume must say why it cannot."""
    if search.driver() is None:
        return None
    search.kill_drivers()
    disk = search.sandbox.folder / "disk"
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    began = len(search.log)
    if search.trials() and (code := search.command("select", str(search.sandbox.run)).wait(120)) not in (0, 1):
        search.violations.append(f"select on a read-only file system: exit code {code}: {search.log[began:][-300:]}")
    search.start()
    if not (code := search.drivers.pop().wait(120)):
        search.violations.append("--resume on a read-only file system: exit code 0")
    search.expect_no_traceback()
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    search.await_gone()
    search.start()
    return f"--resume ended with {code}"


def exhaust_memory(search: RealSearch) -> str | None:
    """Limit a worker's memory to little more than it has: by its cgroup, whose kill is final, or by RLIMIT_AS."""
    if not (victims := search.trainers()):
        return None
    victim = search.chance.choice(victims)
    if search.chance.random() < 0.5 and starve(victim, search.chance.randint(24, 64)):
        return "cgroup"
    with suppress(OSError, ProcessLookupError):
        pages = int(Path(f"/proc/{victim}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (search.chance.randint(0, 8) << 20)
        resource.prlimit(victim, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        time.sleep(search.chance.uniform(3, 10))
        with suppress(ProcessLookupError):
            resource.prlimit(victim, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return "RLIMIT_AS"
    return None


def spoil_gradients(search: RealSearch) -> str | None:
    """Make the gradients of one training step NaN."""
    return _hook(search, "nan")


def hang_training(search: RealSearch) -> str | None:
    """Let one training step never return."""
    return _hook(search, "hang")


def _hook(search: RealSearch, name: str) -> str | None:
    flag = search.sandbox.faults / name
    flag.touch()
    began_s = time.monotonic()
    while flag.exists() and time.monotonic() - began_s < 30:
        time.sleep(0.05)
    if not flag.exists():
        return name
    flag.unlink(missing_ok=True)
    return None


def set_clock(search: RealSearch) -> str | None:
    """Set the clock of all processes by up to a year, or let it run at another rate."""
    if not search.drivers:
        return None
    offset = search.chance.choice([-1, 1]) * 10 ** search.chance.uniform(0, 7.5)
    rate = search.chance.choice(["", "", " x1.5", " x0.5"])
    unfinished = search.sandbox.clock.with_suffix(".new")
    unfinished.write_text(f"{offset:+.0f}{rate}\n")
    unfinished.rename(search.sandbox.clock)
    return f"{offset:+.0f} s{rate}"


def damage_checkpoints(search: RealSearch) -> str | None:
    """Damage every checkpoint under a dead driver: the trainings must begin again, to the same scores."""
    folder = search.sandbox.run / "checkpoints"
    if search.driver() is None or not any(path.is_file() for path in folder.rglob("*")):
        return None
    search.kill_drivers()
    files = [path for path in folder.rglob("*") if path.is_file()]
    notes = [damage(path, search.chance) for path in files]
    search.start()
    return notes[0] if notes else None


def damage_shard(search: RealSearch) -> str | None:
    """Damage a file that trainings read under a dead driver: --resume must name it, and train on none of it.

    Poses, labels and masks are read when a model is evaluated, after its training.
    """
    if search.driver() is None:
        return None
    search.kill_drivers()
    victim = search.chance.choice([p for p in sorted(search.sandbox.cache.rglob("*.npy")) if _is_trained_on(p)])
    content, rungs = victim.read_bytes(), _rungs(search)
    note, began = damage(victim, search.chance), len(search.log)
    search.start()
    end_s = time.monotonic() + _BACK_S
    while not search.reap() and _rungs(search) == rungs and time.monotonic() < end_s:
        time.sleep(0.1)
    said = search.log[began:]
    if search.drivers:
        what = "a trial was trained on it" if _rungs(search) > rungs else f"not noticed in {_BACK_S:.0f} s"
        search.violations.append(f"{victim.name}: {note}: {what}")
        search.kill_drivers()
    elif victim.name not in said and victim.parent.name not in said:
        search.violations.append(f"{victim.name}: {note}: not named: {said[-400:]}")
    search.expect_no_traceback()
    search.await_gone()
    victim.write_bytes(content)
    search.start()
    return note


def _is_trained_on(path: Path) -> bool:
    return not any(word in path.name for word in ("poses", "labels", "masks"))


def _rungs(search: RealSearch) -> int:
    """Return how many rungs all trials have finished."""
    return sum(len(trial.record.get("rungs", ())) for trial in search.trials().values())


def change_teacher(search: RealSearch) -> str | None:
    """Change one number of a teacher's weights under a dead driver: --resume must refuse the other teacher."""
    if search.driver() is None or not search.trials():
        return None
    search.kill_drivers()
    weights = Path(next(w for w in search.settings if w.endswith(".safetensors")).partition("=")[2])
    content = weights.read_bytes()
    changed = bytearray(content)
    changed[-search.chance.randrange(1, 1 << 16)] ^= 0x08
    weights.write_bytes(changed)
    began = len(search.log)
    search.start()
    try:
        code = search.drivers[-1].wait(120)
        search.drivers.pop()
        if not code or "Traceback" in search.log[began:]:
            search.violations.append(f"another teacher: exit code {code}: {search.log[began:][-300:]}")
    except subprocess.TimeoutExpired:
        search.violations.append(f"another teacher was not noticed: {search.log[began:][-300:]}")
        search.kill_drivers()
    weights.write_bytes(content)
    search.await_gone()
    search.start()
    return "one bit of the weights"


def damage(path: Path, chance: random.Random) -> str:
    """Damage a file in one of five ways, and return which."""
    content = bytearray(path.read_bytes())
    way = chance.choice(["bit", "bits", "truncated", "zeros", "empty"])
    if way == "bit":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif way == "bits":
        for _ in range(20):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif way == "truncated":
        del content[chance.randrange(1, len(content)) :]
    elif way == "zeros":
        begin = chance.randrange(len(content))
        content[begin : begin + 4096] = bytes(len(content[begin : begin + 4096]))
    else:
        content.clear()
    path.write_bytes(content)
    return way


FAULTS: dict[str, Fault] = {
    "kill driver": kill_driver,
    "signal driver": terminate_driver,
    "freeze": freeze,
    "kill worker": kill_worker,
    "kill measuring process": kill_measuring,
    "kill Ray process": kill_ray,
    "full disk": fill_disk,
    "read-only file system": remount_read_only,
    "out of memory": exhaust_memory,
    "NaN gradients": spoil_gradients,
    "hanging step": hang_training,
    "clock set": set_clock,
    "damaged checkpoint": damage_checkpoints,
    "damaged cache": damage_shard,
    "changed teacher": change_teacher,
}


def summary(search: RealSearch) -> dict[str, Any]:
    """Return what the trials say of runs that were repeated or failed."""
    records = [trial.record for trial in search.trials().values()]
    return {
        "trials": len(records),
        "retried": sum(record.get("tries", 1) > 1 for record in records),
        "failed": sum(record.get("state") == "failed" for record in records),
        "failures": sorted({str(record.get("failure")) for record in records if record.get("state") == "failed"}),
    }
