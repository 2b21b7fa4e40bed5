"""Parse and check the arguments of ``backbone-nas replay``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from nas.cli import PROGRAM, OneLineParser
from nas.flags import add_flag
from nas.ranges import Budget, Range, Seed, Workers, check_fields
from nas.study.config import SAMPLERS, ConfigError

BENCHES = ("nasbench201",)
DATASETS = ("cifar10", "cifar100", "imagenet16")
SOURCES = ("parameters", "cost", "size", "structure", "proxies")  # of a cell's features before it is trained
DEFAULT_SOURCES = ("cost", "structure")
DEFAULT_SAMPLERS = ("known-cost", "random", "nsga2", "tpe")

_EXAMPLES = """examples:
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms       compare samplers, 20 seeds each
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --sampler evolution --dataset cifar100
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --rungs 3 --workers 8 --json
"""


@dataclass(frozen=True)
class ReplaySettings:
    """Settings of a replay.

    Args:
        latency: Latencies in ms, as FILE.csv:COLUMN.
        bench: Name of the benchmark.
        dataset: Data set of the accuracies.
        samplers: Samplers to compare.
        seeds: Number of searches of each sampler.
        seed: Seed of the first search.
        budget: Architectures that each search evaluates.
        rungs: Rungs of successive halving; all but the last are emulated.
        workers: Simulated trials at a time.
        knowledge: Features of cells that the known-cost sampler uses, of `SOURCES`.
        proxies_csv: File of training-free proxies; None: there is none.
        run_dir: Folder of the first search's study; None: a folder in runs/.
        json: Whether to print one JSON object instead of the table.
        plot: File of the picture; None: replay.png in the run folder.

    Raises:
        ConfigError: A name is unknown or a number out of its range.
    """

    latency: str
    bench: str = BENCHES[0]
    dataset: str = "cifar10"
    samplers: tuple[str, ...] = DEFAULT_SAMPLERS
    seeds: Annotated[int, Range(1, 10_000)] = 20
    seed: Seed = 0
    budget: Budget = 200
    rungs: Annotated[int, Range(1, 10)] = 1
    workers: Workers = 1
    knowledge: tuple[str, ...] = DEFAULT_SOURCES
    proxies_csv: str | None = None
    run_dir: Path | None = None
    json: bool = False
    plot: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        names = (("BENCH", (self.bench,), BENCHES), ("--dataset", (self.dataset,), DATASETS))
        for flag, chosen, choices in (
            *names,
            ("--sampler", self.samplers, SAMPLERS),
            ("--knowledge", self.knowledge, SOURCES),
        ):
            if unknown := [name for name in chosen if name not in choices]:
                raise ConfigError(f"{flag}: {unknown[0]!r}: choose one of: {', '.join(choices)}")

    def folder(self) -> Path:
        """Return the run folder, which is named after the time by default."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
        return self.run_dir or Path(f"runs/{stamp}-replay-{self.dataset}")


def parse(words: Sequence[str]) -> ReplaySettings:
    """Parse a command line.

    Args:
        words: Words after the command's name.

    Raises:
        ConfigError: A name is unknown or a number out of its range.
        SystemExit: An option is unknown or malformed; one line was printed.
    """
    options: dict[str, Any] = vars(parser().parse_args(words))
    if "sampler" in options:
        options["samplers"] = (options.pop("sampler"),)
    paths: dict[str, Any] = {name: Path(options.pop(name)) for name in ("run_dir", "plot") if name in options}
    return ReplaySettings(**options, **paths)


def parser() -> OneLineParser:
    """Build the parser. An absent flag has no entry in the namespace."""
    defaults = ReplaySettings(latency="")
    built = OneLineParser(
        prog=f"{PROGRAM} replay",
        description="Compare samplers on published results. Nothing is trained or measured.",
        epilog=_EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    add = built.add_argument
    add(
        "bench",
        metavar="BENCH",
        help=f"published benchmark: {', '.join(BENCHES)} (needs pip install 'backbone-nas[bench]')",
    )
    latency = "column of latencies in ms; the column 'arch' has the cells' names"
    add("--latency", required=True, metavar="FILE.csv:COLUMN", help=latency)
    add("--dataset", metavar="NAME", help=f"data set: {', '.join(DATASETS)} (default: {defaults.dataset})")
    compared = f"sampler to replay: {', '.join(SAMPLERS)} (default: compare {', '.join(DEFAULT_SAMPLERS)})"
    add("--sampler", metavar="NAME", help=compared)
    add(
        "--budget", type=int, metavar="N", help=f"architectures that each search evaluates (default: {defaults.budget})"
    )
    add("--seeds", type=int, metavar="N", help=f"number of searches of each sampler (default: {defaults.seeds})")
    add("--seed", type=int, metavar="N", help=f"seed of the first search (default: {defaults.seed})")
    add("--workers", type=int, metavar="N", help=f"simulated trials at a time (default: {defaults.workers})")
    rungs = "rungs of successive halving; all but the last are EMULATED, because no results of them are published"
    add("--rungs", type=int, metavar="N", help=f"{rungs} (default: {defaults.rungs})")
    features = f"features of cells that known-cost uses: {', '.join(SOURCES)} (default: {','.join(DEFAULT_SOURCES)})"
    add("--knowledge", type=_names, metavar="A,B", help=features)
    add(
        "--proxies",
        dest="proxies_csv",
        metavar="FILE.csv",
        help="training-free proxies, with a column 'arch' (default: none)",
    )
    run = "folder of the first search's study, the report and the picture (default: runs/<date>-replay-<dataset>)"
    add("--run", dest="run_dir", metavar="DIR", help=run)
    add_flag(add, "--json", "no")
    add_flag(add, "--plot", "replay.png in the run folder")
    return built


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
