"""Parse and check the arguments of ``backbone-nas replay``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from nas.cli import PROGRAM, OneLineParser, comma_list
from nas.extras import install_command
from nas.old_flags import add_flag
from nas.ranges import Budget, ConfigError, Range, Seed, Workers, check_fields
from nas.study.config import KNOWN_COST, OPTUNA_SAMPLERS, SAMPLERS

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
DEFAULT_SAMPLERS = (KNOWN_COST, "random", "nsga2", "tpe")
INFORMED_SAMPLERS = tuple(f"informed-{name}" for name in ("random", *OPTUNA_SAMPLERS))
REPLAY_SAMPLERS = (*SAMPLERS, *INFORMED_SAMPLERS)

_EXAMPLES = """examples:
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms       compare samplers, 20 seeds each
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --sampler evolution --dataset cifar100
  backbone-nas replay nasbench201 --latency gpu.csv:titan_rtx_256_ms --rungs 3 --workers 8 --json
  backbone-nas replay macro --table macro.csv --budget 60 --sampler known-cost,tpe,gp,informed-gp
  backbone-nas replay hybrid --workers 2 --sampler known-cost,evolution,random      on our table, which needs no file
"""


@dataclass(frozen=True)
class ReplaySettings:
    """Settings of a replay.

    Args:
        latency: Latencies in ms, as FILE.csv:COLUMN, for nasbench201; None: there are none.
        table_file: File of published results, for macro and hybrid; None: none for macro, our own table for hybrid.
        bench: Name of the benchmark.
        dataset: Data set of the accuracies.
        samplers: Samplers to compare.
        seeds: Number of searches of each sampler.
        seed: Seed of the first search.
        budget: Architectures that each search evaluates.
        rungs: Rungs of successive halving; all but the last are emulated.
        workers: Simulated trials at a time.
        knowledge: What the known-cost sampler and informed samplers know of architectures, of `SOURCES`; None: the
            benchmark's default.
        proxies_csv: File of training-free proxies; None: there is none.
        jobs: Searches at a time; None: one a core.
        run_dir: Folder of the first search's study; None: a folder in runs/.
        json: Whether to print one JSON object instead of the table.
        plot: File of the picture; None: replay.png in the run folder.

    Raises:
        ConfigError: A name is unknown or a number out of its range.
    """

    latency: str | None = None
    table_file: str | None = None
    bench: str = BENCHES[0]
    dataset: str = "cifar10"
    samplers: tuple[str, ...] = DEFAULT_SAMPLERS
    seeds: Annotated[int, Range(1, 10_000)] = 20
    seed: Seed = 0
    budget: Budget = 200
    rungs: Annotated[int, Range(1, 10)] = 1
    workers: Workers = 1
    knowledge: tuple[str, ...] | None = None
    proxies_csv: str | None = None
    jobs: Annotated[int, Range(1, 1024)] | None = None
    run_dir: Path | None = None
    json: bool = False
    plot: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.bench == "hybrid":
            self._check_hybrid()
        names = (("BENCH", (self.bench,), BENCHES), ("--dataset", (self.dataset,), DATASETS))
        for flag, chosen, choices in (
            *names,
            ("--sampler", self.samplers, REPLAY_SAMPLERS),
            ("--knowledge", self.sources, SOURCES.get(self.bench, ())),
        ):
            if unknown := [name for name in chosen if name not in choices]:
                raise ConfigError(f"{flag}: {unknown[0]!r}: choose one of: {', '.join(choices)}")
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
        return DEFAULT_SOURCES.get(self.bench, ()) if self.knowledge is None else self.knowledge

    def folder(self) -> Path:
        """Return the run folder, which is named after the time by default."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
        return self.run_dir or Path(f"runs/{stamp}-replay-{self.dataset if self.bench == BENCHES[0] else self.bench}")


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
        options["samplers"] = options.pop("sampler")
    paths: dict[str, Any] = {name: Path(options.pop(name)) for name in ("run_dir", "plot") if name in options}
    return ReplaySettings(**options, **paths)


def parser() -> OneLineParser:
    """Build the parser. An absent flag has no entry in the namespace."""
    defaults = ReplaySettings()
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
        help=f"published benchmark: {', '.join(BENCHES)} (nasbench201 needs {install_command('bench')})",
    )
    latency = "nasbench201: column of latencies in ms; the column 'arch' has the cells' names (default: none)"
    add("--latency", metavar="FILE.csv:COLUMN", help=latency)
    results = "macro: the published results, with the columns arch, accuracy_0, accuracy_1, accuracy_2, params, macs"
    rows = "hybrid: rows as experiments.hybrid_table makes them, a .json.gz file"
    default_table = "(default: none for macro, the published table for hybrid)"
    add("--table", dest="table_file", metavar="FILE", help=f"{results}; {rows} {default_table}")
    add("--dataset", metavar="NAME", help=f"nasbench201: {', '.join(DATASETS)} (default: {defaults.dataset})")
    names = f"{', '.join(REPLAY_SAMPLERS)}; informed-NAME searches features and knows costs, as known-cost does"
    compared = f"samplers to compare: {names} (default: {','.join(DEFAULT_SAMPLERS)})"
    add("--sampler", type=comma_list, metavar="A,B", help=compared)
    add(
        "--budget", type=int, metavar="N", help=f"architectures that each search evaluates (default: {defaults.budget})"
    )
    add("--seeds", type=int, metavar="N", help=f"number of searches of each sampler (default: {defaults.seeds})")
    add("--seed", type=int, metavar="N", help=f"seed of the first search (default: {defaults.seed})")
    add("--workers", type=int, metavar="N", help=f"simulated trials at a time (default: {defaults.workers})")
    rungs = "rungs of successive halving; all but the last are EMULATED, because no results of them are published"
    add("--rungs", type=int, metavar="N", help=f"{rungs} (default: {defaults.rungs})")
    add("--jobs", type=int, metavar="N", help="searches at a time, each in a process (default: one a core)")
    features = "; ".join(f"of {bench}: {','.join(sources)}" for bench, sources in DEFAULT_SOURCES.items() if sources)
    known = f"what known-cost and informed samplers know of architectures: {', '.join(SOURCES[BENCHES[0]])}"
    add("--knowledge", type=comma_list, metavar="A,B", help=f"{known} (default {features})")
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
