"""Run the chaos campaign: faults of every kind against real searches, and the invariants after each.

    python -m experiments.chaos                       1,000 faults; the same command continues after an interruption
    python -m experiments.chaos --faults 60           a share of each kind
    python -m experiments.chaos --kinds "full disk"   only episodes of some kinds
    python -m experiments.chaos --table               print the table of what has been done

An episode is one study under some faults of one kind, in a sandbox with processes, temporary files and file systems of
its own. Its row is appended to the results when it ends; rows that are there are not done again. The checks share no
code with the product (`experiments/chaos/invariants.py`): SQL, hashes, /proc and names of files. Needs Linux and root;
PostgreSQL and libfaketime where their kinds are to run. Takes hours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmarks.postgres import NoServer, binaries
from experiments.chaos import sandbox

RESULTS = sandbox.ROOT / "experiments" / "results" / "chaos.jsonl"
_LIMIT_S = 2400.0  # of an episode
_MIN_TRIES = 3  # episodes of a kind without a fault, after which it is given up
_TRUTH = 50  # architectures of the search without faults
# Level, kind, faults of 1,000, faults of an episode. Levels: a real search; the study loop with synthetic training on
# SQLite or PostgreSQL; a Ray cluster with real training; files of a finished real search.
PLAN = (
    ("search", "kill driver", 10, 10),
    ("search", "signal driver", 5, 5),
    ("search", "freeze", 5, 5),
    ("search", "kill worker", 10, 10),
    ("search", "kill measuring process", 10, 10),
    ("search", "kill Ray process", 5, 5),
    ("search", "full disk", 5, 5),
    ("search", "read-only file system", 5, 5),
    ("search", "out of memory", 10, 10),
    ("search", "NaN gradients", 10, 10),
    ("search", "hanging step", 3, 3),
    ("search", "clock set", 10, 10),
    ("search", "damaged checkpoint", 4, 4),
    ("search", "damaged cache", 5, 5),
    ("search", "changed teacher", 5, 5),
    ("search", "mixed", 5, 5),
    ("cluster", "kill node, worker or driver", 10, 10),
    ("SQLite", "kill driver", 220, 20),
    ("SQLite", "freeze", 90, 20),
    ("SQLite", "full disk", 60, 20),
    ("SQLite", "clock set", 81, 20),
    ("PostgreSQL", "kill database", 120, 20),
    ("PostgreSQL", "clock set", 40, 20),
    ("PostgreSQL", "mixed", 60, 20),
    ("files", "damaged weights", 70, 45),
    ("files", "damaged heads", 70, 45),
    ("files", "damaged cache, verified", 72, 55),
)


@dataclass(frozen=True)
class Episode:
    """One study under faults of one kind."""

    level: str
    kind: str
    number: int
    faults: int

    @property
    def name(self) -> str:
        """Return the episode's name, which is also its folder's."""
        return f"{self.level}-{self.kind}-{self.number}".replace(" ", "-").replace(",", "")

    @property
    def seed(self) -> int:
        """Return the seed of moments and victims."""
        return sum(map(ord, self.name))


def plan(faults: int, rows: list[dict[str, Any]]) -> list[Episode]:
    """Return the episodes that are missing, kinds in turn, so that an early end leaves something of each.

    Args:
        faults: Faults of all kinds together.
        rows: What has been done. An episode hits less than it should where its study ends early; another makes up.
    """
    episodes = []
    for level, kind, share, size in PLAN:
        done = [row for row in rows if (row["level"], row["kind"]) == (level, kind)]
        if len(done) > _MIN_TRIES and not any(row["faults"] for row in done):
            continue  # there is nothing to hit
        wanted = max(1, round(share * faults / 1000)) - sum(row["faults"] for row in done)
        sizes = [min(size, wanted - begin) for begin in range(0, max(0, wanted), size)]
        episodes += [Episode(level, kind, number, size) for number, size in enumerate(sizes, len(done))]
    return sorted(episodes, key=lambda episode: episode.number)


def read(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the episodes that have ended."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


class Campaign:
    """Runs episodes and appends their rows.

    Args:
        results: The file of rows.
        work: The folder of the sandboxes.
    """

    def __init__(self, results: Path, work: Path) -> None:
        self._results, self._work = results, work
        self._truth = work / "truth.json"
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._began_s, self._hit = time.monotonic(), 0
        self.stopped = False

    def run(self, episodes: list[Episode], jobs: int) -> None:
        """Run episodes, `jobs` at a time."""
        self._work.mkdir(parents=True, exist_ok=True)
        if not self._truth.exists() and any(episode.level in ("search", "files") for episode in episodes):
            print("a search without faults, for its scores", flush=True)
            truth = self._in_sandbox("truth", {"level": "truth", "budget": _TRUTH})
            self._truth.write_text(json.dumps(truth))
        left = self._hit + sum(episode.faults for episode in episodes)
        with ThreadPoolExecutor(jobs) as pool:
            for row in pool.map(self._episode, episodes):
                if row is not None:
                    self._hit += row["faults"]
                    self._say(row, left)

    def _episode(self, episode: Episode) -> dict[str, Any] | None:
        if self.stopped:
            return None
        what = {**asdict(episode), "seed": episode.seed, "truth": str(self._truth)}
        result = self._in_sandbox(episode.name, what)
        if self.stopped:
            return None
        row = {**asdict(episode), **result}
        with self._lock, self._results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if not row["violations"]:
            shutil.rmtree(self._work / episode.name, ignore_errors=True)
        return row

    def _in_sandbox(self, name: str, what: dict[str, Any]) -> dict[str, Any]:
        """Run `episode` and return what it prints; a row with one violation where it fails."""
        folder = self._work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        words = [sys.executable, "-m", "experiments.chaos.episode", str(folder), json.dumps(what)]
        # In a session of its own, Ctrl-C does not reach it: the campaign ends it.
        process = subprocess.Popen(
            sandbox.command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=sandbox.ROOT,
            start_new_session=True,
        )  # fmt: skip
        self._running.add(process)
        try:
            out, error = process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            error = f"no end after {_LIMIT_S:.0f} s: {error}"
        self._running.discard(process)
        if process.returncode == 0:
            row: dict[str, Any] = json.loads(out.splitlines()[-1])
            return row
        if what["level"] == "truth" and not self.stopped:
            raise sandbox.NoSandbox(error.strip()[-800:])
        return {"faults": 0, "lost": 0, "repeated": 0, "violations": [f"the episode failed: {error.strip()[-800:]}"]}

    def _say(self, row: dict[str, Any], left: int) -> None:
        seconds = time.monotonic() - self._began_s
        eta = f", ETA {seconds * (left - self._hit) / self._hit / 60:.0f} min" if self._hit else ""
        words = f"{len(row['violations'])} violations" if row["violations"] else "nothing violated"
        print(
            f"[{seconds / 60:.0f} min] {self._hit}/{left} faults{eta} | {row['level']}, {row['kind']}: "
            f"{row['faults']} faults, {words}",
            flush=True,
        )

    def stop(self) -> None:
        """End the running episodes; they will be run again."""
        self.stopped = True
        for process in list(self._running):
            process.kill()


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of rows, summed by level and kind."""
    yield "| study | fault | faults | lost | repeated | run again | failed | s until the next result | violations |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    of_rows = ((row["level"], row["kind"]) for row in rows)  # also of faults that are in no plan any more
    kinds = dict.fromkeys([*((level, kind) for level, kind, *_ in PLAN), *of_rows])
    groups = [(*kind, [r for r in rows if (r["level"], r["kind"]) == kind]) for kind in kinds]
    for level, kind, group in [*groups, ("**all**", "", rows)]:
        if not group:
            continue
        back_s = [s for row in group for s in row.get("back_s", ())]
        seconds = f"{median(back_s):.0f} (max {max(back_s):.0f})" if back_s and kind else ""
        sums = [sum(row.get(name, 0) for row in group) for name in ("faults", "lost", "repeated", "retried", "failed")]
        broken = sum(len(row["violations"]) for row in group)
        yield f"| {level} | {kind} | {' | '.join(map(str, sums))} | {seconds} | {broken} |"


def _skipped() -> dict[str, str]:
    """Return the levels and kinds that cannot run here, each with the reason."""
    skipped = {}
    try:
        binaries()
    except NoServer as error:
        skipped["PostgreSQL"] = str(error)
    try:
        sandbox.faketime()
    except sandbox.NoSandbox as error:
        skipped["clock set"] = str(error)
    return skipped


def main() -> int:
    """Run what is missing of the campaign; 1 where an invariant was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000, help="faults of all kinds together (default: 1000)")
    parser.add_argument("--kinds", metavar="A,B", help="only these kinds or levels (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="episodes at a time (default: 2)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of rows (default: %(default)s)")
    work = Path("/var/tmp/backbone-nas-chaos")
    parser.add_argument("--work", type=Path, default=work, help="folder of the sandboxes (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print the table of the results, and run nothing")
    args = parser.parse_args()
    if not args.table:
        try:
            sandbox.check(args.work)
        except sandbox.NoSandbox as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        skipped = _skipped()
        for what, reason in skipped.items():
            print(f"skipped: {what}: {reason}")
        wanted = set(args.kinds.split(",")) if args.kinds else None

        def missing() -> list[Episode]:
            return [
                e for e in plan(args.faults, read(args.results))
                if not {e.level, e.kind} & set(skipped) and (wanted is None or wanted & {e.level, e.kind})
            ]  # fmt: skip

        campaign = Campaign(args.results, args.work)
        for word in (signal.SIGINT, signal.SIGTERM):
            signal.signal(word, lambda *_: campaign.stop())
        while not campaign.stopped and (episodes := missing()):
            campaign.run(episodes, args.jobs)
        if campaign.stopped:
            print("stopped; the same command continues")
            return os.EX_TEMPFAIL
    rows = read(args.results)
    print("\n".join(table(rows)))
    return int(any(row["violations"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
