"""What must hold after every fault, checked without a line of the product's code: SQL, hashes, /proc, names of files.

`tests/experiments/test_chaos.py` holds that this module imports nothing of the project.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TRIALS = (
    "SELECT t.number, t.state, r.value_json, d.value_json FROM trials t"
    " LEFT JOIN trial_user_attributes r ON r.trial_id = t.trial_id AND r.key = 'record'"
    " LEFT JOIN trial_user_attributes d ON d.trial_id = t.trial_id AND d.key = 'driver'"
)
_ENDED = ("COMPLETE", "PRUNED", "FAIL")
_MIN_PIDS = 2  # of a sandbox: its first process


@dataclass(frozen=True)
class StoredTrial:
    """A row of a study: Optuna's state, the text of the record, and the driver that runs it."""

    state: str
    text: str | None
    driver: str | None

    @property
    def ended(self) -> bool:
        """Return whether the trial has ended."""
        return self.state in _ENDED

    @property
    def record(self) -> dict[str, Any]:
        """Return the record, empty where the trial has none yet."""
        record: dict[str, Any] = json.loads(self.text) if self.text else {}
        return record


def read_trials(database: Path | str) -> dict[int, StoredTrial]:
    """Read the trials of the only study in a SQLite file or behind a PostgreSQL URL."""
    if isinstance(database, Path):
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
            rows = connection.execute(_TRIALS).fetchall()
    else:
        import psycopg

        with psycopg.connect(database) as server:
            rows = server.execute(_TRIALS).fetchall()
    return {number: StoredTrial(*rest) for number, *rest in rows}


def results(trials: dict[int, StoredTrial]) -> int:
    """Return how many results trials have: measurements, rungs and ends."""
    records = [trial.record for trial in trials.values()]
    ended = sum(trial.ended for trial in trials.values())
    return ended + sum(bool(record.get("measurement")) + len(record.get("rungs", ())) for record in records)


@dataclass
class Witness:
    """Remembers a study's ended trials and their files, and says what has happened to them since.

    Args:
        database: A SQLite file or a PostgreSQL URL.
        weights: The folder of the trained weights, if the study has one.
        architectures: Architecture by trial number in a study without faults.
        scores: Scores of the rungs by architecture in a study without faults.
    """

    database: Path | str
    weights: Path | None = None
    architectures: dict[int, str] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    ended: dict[int, StoredTrial] = field(default_factory=dict)
    violations: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    _hashes: dict[str, str] = field(default_factory=dict)

    def look(self) -> dict[int, StoredTrial]:
        """Compare the study with what it was at the last look, and return its trials."""
        trials = read_trials(self.database)
        for number, before in self.ended.items():
            now = trials.get(number)
            if now is None or not now.ended:
                self._violated("lost", f"trial {number} had ended and is {now.state if now else 'gone'}")
            elif (now.state, now.text) != (before.state, before.text):
                self._violated("changed", f"trial {number} had ended and has changed")
        self.ended = {number: trial for number, trial in trials.items() if trial.ended}
        for number, trial in trials.items():
            self._compare(number, trial.record)
        self._compare_weights({t.record.get("arch_id", "") for t in self.ended.values()})
        return trials

    def end(self) -> None:
        """Check what must hold of a study that has ended."""
        trials = self.look()
        for number, trial in trials.items():
            if not trial.ended:
                self._violated("unfinished", f"trial {number} never ended")
        if sorted(trials) != list(range(len(trials))):
            self._violated("numbers", "trial numbers are not one after another")
        evaluated = Counter(t.record.get("arch_id") for t in trials.values() if t.record.get("state") != "duplicate")
        for architecture, times in evaluated.items():
            if times > 1:
                self._violated("repeated", f"architecture {architecture} was evaluated {times} times")
        for _ in range(check_database(self.database).total()):
            self._violated("damaged database", "the database's own check finds damage")

    def _compare(self, number: int, record: dict[str, Any]) -> None:
        """Compare a trial's architecture and scores with those of the study without faults."""
        architecture = record.get("arch_id")
        if architecture is None:
            return
        if self.architectures.get(number, architecture) != architecture:
            self._violated("other architecture", f"trial {number} is {architecture}, not {self.architectures[number]}")
        expected = self.scores.get(architecture, [])
        for rung, right in zip(record.get("rungs", ()), expected, strict=False):
            if rung["score"] != right:
                reason = f"trial {number}, rung {rung['rung']}: score {rung['score']} instead of {right}"
                self._violated("other score", reason)

    def _compare_weights(self, ended: Collection[str]) -> None:
        """Compare the weights of ended trials with those of the last look: a search may delete, not change them."""
        if self.weights is None or not self.weights.is_dir():
            return
        found = {}
        for path in self.weights.glob("*.safetensors"):
            if path.name.partition(".")[0] in ended:
                with suppress(FileNotFoundError):
                    found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for name, digest in found.items():
            if self._hashes.get(name, digest) != digest:
                self._violated("repeated", f"{name} has changed: its trial was trained again")
        self._hashes = found

    def _violated(self, kind: str, text: str) -> None:
        if text not in self.notes:
            self.violations[kind] += 1
            self.notes.append(text)


def check_database(database: Path | str) -> Counter[str]:
    """Return what SQLite's own checks find; those of PostgreSQL are programs of its own."""
    if not isinstance(database, Path):
        return Counter()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            foreign = connection.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.DatabaseError:
            return Counter({"damaged database": 1})
    return Counter({"damaged database": int(verdict != "ok") + len(foreign)}) + Counter()


def living(excluded: Collection[int] = ()) -> dict[int, str]:
    """Return the command lines of the processes of this sandbox, without zombies and those excluded."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid < _MIN_PIDS or pid == os.getpid() or pid in excluded:
            continue
        with suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if state not in "ZX":
                found[pid] = words
    return found


def children(ancestor: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def seconds_until_gone(excluded: Collection[int], limit_s: float = 60.0) -> tuple[float, dict[int, str]]:
    """Wait until no process but the excluded ones lives; return the seconds, and what still lives at the limit."""
    began_s = time.monotonic()
    while (left := living(excluded)) and time.monotonic() - began_s < limit_s:
        time.sleep(0.05)
    return time.monotonic() - began_s, left


def strangers(roots: Iterable[Path], allowed: Sequence[str], since_s: float) -> list[str]:
    """Return the files in `roots` that are newer than a time and whose names match none of the allowed patterns.

    Args:
        roots: Folders in which a search has nothing to write.
        allowed: Patterns of relative paths that it may write there.
        since_s: Seconds since the epoch.
    """
    found = []
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else ():
            with suppress(OSError):
                name = path.relative_to(root)
                if path.lstat().st_mtime >= since_s and not path.is_dir() and not any(map(name.match, allowed)):
                    found.append(str(path))
    return found
