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
from nas.study.config import KNOWN_COST, OPTUNA_SAMPLERS, SAMPLERS
from nas.validation import Budget, ConfigError, Flag, OneOf, Seed, Text, Workers, checked

SIZES = "sizes"  # the source of the linear term
# Sources of what is known of an architecture before it is trained, by benchmark: all, and the default.
SOURCES = {
    "nasbench201": ("parameters", "cost", "params", "structure", "proxies", SIZES),
    "macro": ("parameters", "cost", "params", SIZES),
    "hybrid": (),  # its samplers are those of a search
}
# Those of them that informed samplers see; a cell's operations are no numbers.
FEATURES = {"nasbench201": ("cost", "params", "structure", "proxies"), "macro": ("parameters", "cost", "params")}
DEFAULT_SOURCES = {"nasbench201": ("cost", "structure", SIZES), "macro": ("parameters", "cost", SIZES), "hybrid": ()}
BENCHES = tuple(SOURCES)
DATASETS = ("cifar10", "cifar100", "imagenet16")
INFORMED_SAMPLERS = tuple(f"informed-{name}" for name in ("random", *OPTUNA_SAMPLERS))
REPLAY_SAMPLERS = (*SAMPLERS, *INFORMED_SAMPLERS)

_EXAMPLES = """examples:
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms       compare samplers, 20 seeds each
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --sampler evolution --dataset cifar100
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --rungs 3 --workers 8 --json
  backbone-nas replay macro --table macro.csv --budget 60 --sampler known-cost,tpe,gp,informed-gp
  backbone-nas replay hybrid --workers 2 --sampler known-cost,evolution,random      on our table, which needs no file
"""
_KNOWLEDGE = "; ".join(f"of {bench}: {','.join(sources)}" for bench, sources in DEFAULT_SOURCES.items() if sources)


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
            "macro: the published results, with the columns arch, accuracy_0, accuracy_1, accuracy_2, params, macs; "
            "hybrid: rows as experiments.hybrid_table makes them, a .json.gz file",
            "FILE",
            "none for macro, the published table for hybrid",
            names=("--table",),
        ),
    ] = None
    dataset: Annotated[str, OneOf(DATASETS), Flag("nasbench201: data set of the accuracies")] = DATASETS[0]
    samplers: Annotated[
        tuple[Text, ...],
        Field(min_length=1),
        Flag(
            f"samplers to compare: {', '.join(REPLAY_SAMPLERS)}; informed-NAME searches features and knows costs, as "
            "known-cost does",
            "A,B",
            names=("--sampler",),
        ),
    ] = (KNOWN_COST, "random", "nsga2", "tpe")
    budget: Annotated[Budget, Flag("architectures that each search evaluates", "N")] = 200
    seeds: Annotated[int, Field(strict=True, ge=1, le=10_000), Flag("number of searches of each sampler", "N")] = 20
    seed: Annotated[Seed, Flag("seed of the first search", "N")] = 0
    workers: Annotated[Workers, Flag("simulated trials at a time", "N")] = 1
    rungs: Annotated[
        int,
        Field(strict=True, ge=1, le=10),
        Flag(
            "rungs of successive halving; all but the last are EMULATED, because no results of them are published",
            "N",
        ),
    ] = 1
    jobs: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1024)] | None,
        Flag("searches at a time, each in a process", "N", "one a core"),
    ] = None
    knowledge: Annotated[
        tuple[Text, ...] | None,
        Flag(
            f"what known-cost and informed samplers know of architectures: {', '.join(SOURCES[BENCHES[0]])}",
            "A,B",
            _KNOWLEDGE,
        ),
    ] = None
    proxies_csv: Annotated[
        Text | None, Flag("training-free proxies, with a column 'arch'", "FILE.csv", names=("--proxies",))
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
        if self.bench == "hybrid":
            self._check_hybrid()
        if unknown := [name for name in self.sources if name not in SOURCES[self.bench]]:
            raise ConfigError(f"--knowledge: {unknown[0]!r}: choose one of: {', '.join(SOURCES[self.bench])}")
        if strange := [name for name in self.samplers if name not in REPLAY_SAMPLERS]:
            raise ConfigError(f"--sampler: {strange[0]!r}: choose one of: {', '.join(REPLAY_SAMPLERS)}")
        if twice := [name for name in self.samplers if self.samplers.count(name) > 1]:
            raise ConfigError(f"--sampler: {twice[0]!r} is named twice")
        features, informed = FEATURES.get(self.bench, ()), set(self.samplers) & set(INFORMED_SAMPLERS)
        if informed and not set(self.sources) & set(features):
            raise ConfigError(f"--knowledge: informed samplers need a feature ({', '.join(features)})")
        if self.bench != BENCHES[0] and self.dataset != DATASETS[0]:
            raise ConfigError(f"--dataset: {self.dataset!r}: {self.bench} has one data set only; leave the flag out")
        unused = (
            {"--table": self.table_file}
            if self.bench == BENCHES[0]
            else {"--latency": self.latency, "--proxies": self.proxies_csv}
        )
        if given := [flag for flag, value in unused.items() if value is not None]:
            raise ConfigError(f"{given[0]}: {self.bench} has no use for it; leave the flag out")

    def _check_hybrid(self) -> None:
        if self.rungs != 1:
            raise ConfigError("--rungs: hybrid has the rungs of its trainings; leave the flag out")
        if self.knowledge:
            raise ConfigError("--knowledge: hybrid's samplers know what they know in a search; leave the flag out")
        if others := [name for name in self.samplers if name not in SAMPLERS]:
            raise ConfigError(f"--sampler: {others[0]!r}: hybrid takes those of a search: {', '.join(SAMPLERS)}")

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources of what is known of architectures."""
        return DEFAULT_SOURCES[self.bench] if self.knowledge is None else self.knowledge

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
