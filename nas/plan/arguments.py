"""Parse the arguments of ``backbone-nas plan``: the settings of the search, and those of the plan or of the pilot."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.cli import PROGRAM, OneLineParser, whole_numbers
from nas.command_log import announce
from nas.local_workers import check_local_workers, default_workers, limited_by_memory
from nas.old_flags import add_flag
from nas.race.arguments import add_race_flags
from nas.ranges import ConfigError
from nas.search.arguments import add_settings
from nas.search.preconditions import check_device
from nas.search.settings import (
    NODE_REMEDY,
    RACE_OPTIONS,
    check_race,
    check_size,
    device_source,
    final_race,
    new_config,
    with_file,
)
from nas.study.config import SearchConfig

_LOG = logging.getLogger(__name__)
_EXAMPLES = """examples:
  backbone-nas plan --recipe imagenet-8a100              hours, cost and disk of a recipe
  backbone-nas plan --budget 500 --max-hours 8           the cost of a search, and the budget that 8 hours allow
  backbone-nas plan --max-params 1e6 --plot plan.svg    with a picture, worker by worker
  backbone-nas plan --device cuda --space full --teachers am_radio --gpus 64 --assume-tflops 989 --mfu 0.3
  backbone-nas search --budget 500 --plan               the same as backbone-nas plan with these flags
  backbone-nas plan --pilot --train-images 50000 --rung-steps 3000    which rungs and how many images to search with?
"""
# Ray and the imports of two workers on two idle CPUs, from experiments/results/recorded_search.json.
START_S = 17.0
MFU = 0.3
PILOT_MODELS = 12
MAX_BUDGET = 5_000  # 6 s of simulation for each size of cluster, and the seconds grow with the budget's square
_OF_A_PLAN = (
    *("gpus", "max_hours", "probe", "assume_tflops", "mfu", "assume_measure_seconds", "usd_per_hour"),
    *("start_seconds", "ask_seconds", "read_gb_per_second", *RACE_OPTIONS),
)
_PILOT_HELP = (
    "A plan trains its probes for a few steps only. A pilot trains its models to the last rung and keeps them; the same"
    " command continues an interrupted pilot."
)
_ASSUME = (
    "plan for one that is not here with --assume-tflops X (peak of dense bf16: A100 312, H100 989), or with a table"
    " [plan] in the file, as the recipes have it"
)


@dataclass(frozen=True)
class PlanSettings:
    """A search and the settings of its plan.

    Args:
        config: Settings of the search.
        workers: Trials at a time on this machine, or on the assumed devices.
        weights: Files of teachers' weights, by teacher.
        cache: Folder of images and teacher outputs; None: the user's default.
        gpus: Sizes of clusters to simulate; empty for `SIZES`.
        max_hours: Hours for which to compute the largest budget; None: no deadline.
        probe: Number of random architectures to probe; None: the default.
        assume_tflops: Peak TFLOP/s of a device that is not here; None: plan for this machine.
        mfu: Share of that peak that training reaches; None: `MFU`.
        assume_measure_s: Seconds of one measurement on that device; None: the search's setting.
        usd_per_hour: US dollars of a device-hour; None: the plan has no cost.
        start_s: Seconds until a worker begins its first trial.
        ask_s: Seconds of the driver per new trial; None: measure it.
        read_gb_s: GB (1e9 bytes) that the cache's disk gives all workers in a second; None: as many as they ask for.
        json: Whether to print one JSON object instead of tables.
        plot: File of the picture of the simulated search; None: no picture.
        race: Settings of the trainings of the race that ends the search; None: there is none.

    Raises:
        ConfigError: A number would be ignored, or the budget is too large to simulate.
    """

    config: SearchConfig
    workers: int
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache: str | None = None
    gpus: tuple[int, ...] = ()
    max_hours: float | None = None
    probe: int | None = None
    assume_tflops: float | None = None
    mfu: float | None = None
    assume_measure_s: float | None = None
    usd_per_hour: float | None = None
    start_s: float = START_S
    ask_s: float | None = None
    read_gb_s: float | None = None
    json: bool = False
    plot: Path | None = None
    race: SearchConfig | None = None

    def __post_init__(self) -> None:
        _check_budget(self.config)
        for flag, value in (("--mfu", self.mfu), ("--assume-measure-seconds", self.assume_measure_s)):
            if value is not None and self.here:
                raise ConfigError(f"{flag}: only with --assume-tflops; on this device it is measured")

    @property
    def here(self) -> bool:
        """Return whether the plan is for this machine."""
        return self.assume_tflops is None


@dataclass(frozen=True)
class PilotSettings:
    """A search, and the settings of the pilot that proposes its rungs and its number of images.

    Args:
        config: Settings of the search.
        workers: Processes that train at a time.
        run: Folder that keeps the trainings; None for one that is named after the settings, see `pilot_folder`.
        models: Number of random architectures to train.
        weights: Files of teachers' weights, by teacher.
        cache: Folder of images and teacher outputs; None: the user's default.
        json: Whether to print one JSON object instead of tables.
        plot: File of the picture; None: no picture.

    Raises:
        ConfigError: The budget is too large to simulate, or the last rung has a single step.
    """

    config: SearchConfig
    workers: int
    run: Path | None = None
    models: int = PILOT_MODELS
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache: str | None = None
    json: bool = False
    plot: Path | None = None

    def __post_init__(self) -> None:
        _check_budget(self.config)
        if (last := self.config.distill.rung_steps[-1]) < 2:
            raise ConfigError(f"--rung-steps: {last}: a pilot needs a last rung of 2 steps or more")


def _check_budget(config: SearchConfig) -> None:
    if config.budget > MAX_BUDGET:
        allowed = f"a plan simulates {MAX_BUDGET:,} architectures at most; hours grow with the budget"
        raise ConfigError(f"--budget: {config.budget}: {allowed}")


def parse(words: Sequence[str]) -> PlanSettings | PilotSettings:
    """Parse a command line.

    Args:
        words: Words after the command's name.

    Raises:
        ConfigError: A value is out of its range, or options contradict each other.
        SystemExit: An option is unknown or malformed; one line was printed.
    """
    given = vars(parser().parse_args(words))
    options = with_file(given)
    return _pilot(given, options) if "pilot" in given else _plan(given, options)


def _pilot(given: Mapping[str, Any], options: Mapping[str, Any]) -> PilotSettings:
    if refused := next((name for name in given if name in _OF_A_PLAN), None):
        raise ConfigError(f"--{refused.replace('_', '-')}: does not go with --pilot, which trains on this machine")
    config = new_config(options)
    check_device(config, device_source(given), NODE_REMEDY)
    check_size(options, config)
    check_local_workers(options.get("workers"))
    return PilotSettings(
        config=config,
        workers=_workers(options, config.device, ranks=1),  # they are processes, not trials
        run=Path(given["run"]) if "run" in given else None,
        models=options.get("pilot_models", PILOT_MODELS),
        weights=options.get("teacher_weights", {}),
        plot=Path(options["plot"]) if "plot" in options else None,
        **{name: options[name] for name in ("cache", "json") if name in options},
    )


def _plan(given: Mapping[str, Any], options: Mapping[str, Any]) -> PlanSettings:
    if lone := next((name for name in ("pilot_models", "run") if name in given), None):
        raise ConfigError(f"--{lone.replace('_', '-')}: only with --pilot")
    tflops = options.get("assume_tflops")
    if tflops is not None and "workers" in given:
        raise ConfigError("--workers: does not go with --assume-tflops; set the number of devices with --gpus")
    config = new_config(options)
    if tflops is None:
        check_device(config, device_source(given), _ASSUME)
    gpus, ranks = tuple(options.get("gpus", ())), config.distill.ranks
    if gpus and min(gpus) < ranks:
        raise ConfigError(
            f"--gpus: {min(gpus)}: must be {ranks} or more, the GPUs of one trial (--distill ranks={ranks})"
        )
    if tflops is None:
        workers = _workers(options, config.device, ranks)
    else:
        workers = max(1, (gpus[0] if gpus else 1) // ranks)
    plain = ("cache", "max_hours", "probe", "assume_tflops", "mfu", "usd_per_hour", "json")
    plot = Path(options["plot"]) if "plot" in options else None
    settings = {name: options[name] for name in plain if name in options}
    named = {"assume_measure_s": "assume_measure_seconds", "start_s": "start_seconds", "ask_s": "ask_seconds"}
    named |= {"read_gb_s": "read_gb_per_second"}
    settings |= {name: options[flag] for name, flag in named.items() if flag in options}
    check_race(options, config)
    race = final_race(config, *(options.get(name) for name in ("no_race", "race_steps", "fresh_images")))
    return PlanSettings(
        config, workers, options.get("teacher_weights", {}), gpus=gpus, plot=plot, race=race, **settings
    )


def _workers(options: Mapping[str, Any], device: str, ranks: int) -> int:
    """Return the number that the user gives, else this machine's, with a line where the memory limits it."""
    if "workers" in options:
        return int(options["workers"])
    if line := limited_by_memory(device, ranks):
        announce(f"trials: {line}", _LOG)
    return default_workers(device, ranks)


def parser() -> OneLineParser:
    """Build the parser. An absent flag has no entry in the namespace."""
    built = OneLineParser(
        prog=f"{PROGRAM} plan",
        usage=f"{PROGRAM} plan [OPTION ...]",
        description="Predict the cost of a search: probe a few architectures on this device, then simulate the search.",
        epilog=_EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    add_plan(built.add_argument_group("the plan").add_argument)
    add_settings(built)
    workers = "trials at a time; of a pilot, processes (default: one per GPU, or per CPU if the memory suffices)"
    built.add_argument_group("where it runs").add_argument("--workers", type=int, metavar="N", help=workers)
    _add_pilot(built.add_argument_group("the pilot", _PILOT_HELP).add_argument)
    return built


def _add_pilot(add: Any) -> None:
    pilot = (
        "train a few random architectures to the last step of --rung-steps, and propose --rung-steps and --val-images "
        "for the search (default: plan)"
    )
    add("--pilot", action="store_true", help=pilot)
    models = f"random architectures to train; a larger number later adds to the kept ones (default: {PILOT_MODELS})"
    add("--pilot-models", type=int, metavar="N", help=models)
    folder = "with --pilot: folder that keeps the trainings (default: runs/pilot-SPACE-ID, with an ID of the settings)"
    add("--run", metavar="DIR", help=folder)


def add_plan(add: Any) -> None:
    """Add the flags of the plan itself."""
    gpus = (
        "simulate clusters of these sizes, in GPUs, or in machines with --device cpu; with --assume-tflops, hours and "
        "cost are those of the first size (default: 8,64,1024)"
    )
    add("--gpus", type=whole_numbers, metavar="A,B", help=gpus)
    hours = "print the largest budget of a search that ends within H hours (default: none)"
    add("--max-hours", type=float, metavar="H", help=hours)
    probe = "random architectures to train for a few steps, or to count with --assume-tflops (default: 3, or 64)"
    add("--probe", type=int, metavar="N", help=probe)
    peak = (
        "plan for a device that is not here, with this peak of dense bf16 in TFLOP/s; nothing is probed (default: plan "
        "for this machine)"
    )
    add("--assume-tflops", type=float, metavar="X", help=peak)
    add("--mfu", type=float, metavar="X", help=f"share of that peak that training reaches (default: {MFU})")
    measure = "seconds of one measurement on that device (default: --measure-seconds, without compiling)"
    add("--assume-measure-seconds", type=float, metavar="S", help=measure)
    price = "US dollars of a device-hour, for the cost of the search (default: no cost)"
    add("--usd-per-hour", type=float, metavar="X", help=price)
    start = f"seconds until a worker begins its first trial (default: {START_S:g})"
    add("--start-seconds", type=float, metavar="S", help=start)
    ask = "seconds that the driver takes for a new trial (default: measured here)"
    add("--ask-seconds", type=float, metavar="S", help=ask)
    disk = "read rate of the cache's disk in GB/s, shared by all workers (default: no limit)"
    add("--read-gb-per-second", type=float, metavar="X", help=disk)
    add_race_flags(add)
    add("--no-race", action="store_true", help="plan a search without the race at its end (default: with it)")
    add_flag(add, "--json", "no")
    add_flag(add, "--plot", "none", more=", of the simulated search, worker by worker, or of the pilot's scores")
