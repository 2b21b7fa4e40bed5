"""The arguments of ``nas.replay``, checked before any table is read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.cli import OneLineParser, picture_file
from nas.replay.nasbench201 import KNOWN_BY_DEFAULT, REFERENCES, SOURCES
from nas.samplers import SAMPLERS
from nas.study.config import ConfigError

BENCHES = ("nasbench201",)
COMPARED = ("known-cost", "random", "nsga2", "tpe")

_EXAMPLES = """examples:
  python -m nas.replay nasbench201 --latency gpu.csv:titan_rtx_256_ms       samplers compared, 20 seeds each
  python -m nas.replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --sampler evolution --dataset cifar100
  python -m nas.replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --rungs 3 --workers 8 --json
"""


@dataclass(frozen=True)
class ReplaySettings:
    """Searches to be replayed.

    Args:
        latency: latencies in ms, as FILE.csv:COLUMN.
        samplers: the samplers that are compared.
        seeds: searches of each sampler, the first with seed `seed`.
        budget: architectures that each search evaluates.
        rungs: rungs of successive halving; those below the last are emulated.
        workers: simulated trials at a time.
        knowledge: what the known-cost sampler is told of each cell, of `SOURCES`.
        proxies_csv: file of training-free proxies.
        run_dir: folder of the first search's study; None for one under runs/.
        json: whether one JSON object is printed in place of the table.
        plot: file of the picture; None for one in the run folder.

    Raises:
        ConfigError: a name is unknown or a number out of its range.
    """

    latency: str
    bench: str = BENCHES[0]
    dataset: str = "cifar10"
    samplers: tuple[str, ...] = COMPARED
    seeds: int = 20
    seed: int = 0
    budget: int = 200
    rungs: int = 1
    workers: int = 1
    knowledge: tuple[str, ...] = KNOWN_BY_DEFAULT
    proxies_csv: str | None = None
    run_dir: Path | None = None
    json: bool = False
    plot: Path | None = None

    def __post_init__(self) -> None:
        names = (("BENCH", (self.bench,), BENCHES), ("--dataset", (self.dataset,), REFERENCES))
        for flag, given, known in (
            *names,
            ("--sampler", self.samplers, SAMPLERS),
            ("--knowledge", self.knowledge, SOURCES),
        ):
            if unknown := [name for name in given if name not in known]:
                raise ConfigError(f"{flag}: {unknown[0]!r}: choose one of: {', '.join(known)}")
        for name in ("seeds", "budget", "rungs", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}: {getattr(self, name)}: must be 1 or more")

    def folder(self) -> Path:
        """Return the run folder; by default it is named after the present second."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
        return self.run_dir or Path(f"runs/{stamp}-replay-{self.dataset}")


def replay_settings(argv: Sequence[str] | None = None) -> ReplaySettings:
    """Parse a command line. SystemExit after one line, or ConfigError, where it cannot be."""
    given: dict[str, Any] = vars(parser().parse_args(argv))
    if "sampler" in given:
        given["samplers"] = (given.pop("sampler"),)
    paths: dict[str, Any] = {name: Path(given.pop(name)) for name in ("run_dir", "plot") if name in given}
    return ReplaySettings(**given, **paths)


def parser() -> argparse.ArgumentParser:
    """Return the parser. An absent flag leaves no trace in the namespace."""
    defaults = ReplaySettings(latency="")
    made = OneLineParser(
        prog="python -m nas.replay",
        description="Compares samplers on published results: nothing is trained or measured.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = made.add_argument
    add("bench", metavar="BENCH", help=f"{', '.join(BENCHES)}; needs pip install 'backbone-nas[bench]'")
    latency = "latencies in ms, with a column 'arch' of the cells' names"
    add("--latency", required=True, metavar="FILE.csv:COLUMN", help=latency)
    add("--dataset", metavar="NAME", help=f"{', '.join(REFERENCES)} (default: {defaults.dataset})")
    compared = f"{', '.join(SAMPLERS)} (default: {', '.join(COMPARED)} beside each other)"
    add("--sampler", metavar="NAME", help=compared)
    add(
        "--budget", type=int, metavar="N", help=f"architectures that each search evaluates (default: {defaults.budget})"
    )
    add("--seeds", type=int, metavar="N", help=f"searches of each sampler (default: {defaults.seeds})")
    add("--seed", type=int, help=f"seed of the first search (default: {defaults.seed})")
    add("--workers", type=int, metavar="N", help=f"simulated trials at a time (default: {defaults.workers})")
    rungs = "rungs of successive halving; values below the last are EMULATED, for none are published"
    add("--rungs", type=int, metavar="N", help=f"{rungs} (default: {defaults.rungs})")
    known = f"what the known-cost sampler is told: {', '.join(SOURCES)} (default: {','.join(KNOWN_BY_DEFAULT)})"
    add("--knowledge", type=_names, metavar="A,B", help=known)
    add("--proxies", dest="proxies_csv", metavar="FILE.csv", help="training-free proxies, with a column 'arch'")
    run = "folder of the first search's study, of the report and the picture (default: runs/<date>-replay-<dataset>)"
    add("--run", dest="run_dir", metavar="DIR", help=run)
    add("--json", action="store_true", help="print one JSON object in place of the table")
    picture = "picture of the samplers' curves, as PNG, SVG or PDF (default: replay.png in the run folder)"
    add("--plot", type=picture_file, metavar="FILE", help=picture)
    return made


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
