"""Define the settings of ``backbone-nas replay`` and its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nas.cli import OneLineParser
from nas.extras import install_command
from nas.flags import Picture, parse_as, parser_of, shared
from nas.study.config import KNOWN_COST, SAMPLERS
from nas.validation import Budget, ConfigError, Flag, OneOf, Seed, Text, Workers, checked

SIZES = "sizes"  # the source of the linear term
# Sources of what known-cost knows of a cell before it is trained: all, and the default. Hybrid has those of a search.
SOURCES = ("parameters", "cost", "params", "structure", SIZES)
DEFAULT_SOURCES = ("cost", "structure", SIZES)
BENCHES = ("nasbench201", "hybrid")
DATASETS = ("cifar10", "cifar100", "imagenet16")

_EXAMPLES = """examples:
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms       compare samplers, 20 seeds each
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --sampler evolution --dataset cifar100
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --workers 8 --json
  backbone-nas replay hybrid --workers 2 --sampler known-cost,evolution,random      on our table, which needs no file
"""


@checked
@dataclass(frozen=True)
class ReplaySettings:
    """Settings of a replay."""

    bench: Annotated[
        str,
        OneOf(BENCHES),
        Flag(
            f"published benchmark: {', '.join(BENCHES)} (nasbench201 needs {install_command('bench')})",
            names=("BENCH",),
        ),
    ]
    latency: Annotated[
        Text | None,
        Flag("nasbench201: column of latencies in ms; the column 'arch' has the cells' names", "FILE.csv:COLUMN"),
    ] = None
    table_file: Annotated[
        Text | None,
        Flag(
            "hybrid: rows as experiments.hybrid_table makes them, a .json.gz file",
            "FILE",
            "the published table",
            names=("--table",),
        ),
    ] = None
    dataset: Annotated[str, OneOf(DATASETS), Flag("nasbench201: data set of the accuracies")] = DATASETS[0]
    samplers: Annotated[
        tuple[Text, ...],
        Field(min_length=1),
        Flag(f"samplers to compare: {', '.join(SAMPLERS)}", "A,B", names=("--sampler",)),
    ] = (KNOWN_COST, "random", "nsga2", "tpe")
    budget: Annotated[Budget, Flag("architectures that each search evaluates", "N")] = 200
    seeds: Annotated[int, Field(strict=True, ge=1, le=10_000), Flag("number of searches of each sampler", "N")] = 20
    seed: Annotated[Seed, Flag("seed of the first search", "N")] = 0
    workers: Annotated[Workers, Flag("simulated trials at a time", "N")] = 1
    jobs: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1024)] | None,
        Flag("searches at a time, each in a process", "N", "one a core"),
    ] = None
    knowledge: Annotated[
        tuple[Text, ...] | None,
        Flag(f"nasbench201: what known-cost knows of cells: {', '.join(SOURCES)}", "A,B", ",".join(DEFAULT_SOURCES)),
    ] = None
    run_dir: Annotated[
        Path | None,
        Flag(
            "folder of the first search's study, the report and the picture",
            "DIR",
            "runs/<date>-replay-<dataset>",
            names=("--run",),
        ),
    ] = None
    json: Annotated[bool, shared("json")] = False
    plot: Annotated[Picture | None, shared("plot", "replay.png in the run folder")] = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.sources if name not in SOURCES]:
            raise ConfigError(f"--knowledge: {unknown[0]!r}: choose one of: {', '.join(SOURCES)}")
        if strange := [name for name in self.samplers if name not in SAMPLERS]:
            raise ConfigError(f"--sampler: {strange[0]!r}: choose one of: {', '.join(SAMPLERS)}")
        if twice := [name for name in self.samplers if self.samplers.count(name) > 1]:
            raise ConfigError(f"--sampler: {twice[0]!r} is named twice")
        unused = {"--table": self.table_file}
        if self.bench == "hybrid":
            dataset = None if self.dataset == DATASETS[0] else self.dataset
            unused = {"--latency": self.latency, "--dataset": dataset}
            if self.knowledge:
                unused = {"--knowledge": ",".join(self.knowledge)}
        if given := [flag for flag, value in unused.items() if value is not None]:
            raise ConfigError(f"{given[0]}: {self.bench} has no use for it; leave the flag out")

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources of what is known of architectures."""
        if self.bench == "hybrid":
            return ()
        return DEFAULT_SOURCES if self.knowledge is None else self.knowledge

    def folder(self) -> Path:
        """Return the run folder, which is named after the time by default."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
        return self.run_dir or Path(f"runs/{stamp}-replay-{self.dataset if self.bench == BENCHES[0] else self.bench}")


def parser() -> OneLineParser:
    """Build the parser."""
    about = "Compare samplers on published results. Nothing is trained or measured."
    return parser_of(ReplaySettings, "replay", about, _EXAMPLES)


def parse(words: Sequence[str]) -> ReplaySettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    return parse_as(ReplaySettings, parser(), words)
