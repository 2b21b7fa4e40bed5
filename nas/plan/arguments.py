"""Parse the arguments of ``backbone-nas plan``: the settings of the search, and those of the plan or of the pilot."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nas.cli import PROGRAM, OneLineParser
from nas.command_log import announce
from nas.flags import add_flags, parser_of, shared
from nas.local_workers import check_local_workers, default_workers, limited_by_memory
from nas.search.arguments import add_settings
from nas.search.options import FileFlags, PlanAssumptions, RunSettings
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
from nas.validation import ConfigError, Flag, Hours, Text, Workers, declared

_LOG = logging.getLogger(__name__)
_EXAMPLES = """examples:
  backbone-nas plan --recipe imagenet-8a100              hours, cost and disk of a recipe
  backbone-nas plan --budget 500 --max-hours 8           the cost of a search, and the budget that 8 hours allow
  backbone-nas plan --device cuda --space full --teachers am_radio --gpus 64 --assume-tflops 989 --mfu 0.3
  backbone-nas search --budget 500 --plan               the same as backbone-nas plan with these flags
  backbone-nas plan --pilot --train-images 50000 --rung-steps 3000    which rungs to search with?
"""
PILOT_MODELS = 12
MAX_BUDGET = 5_000  # 6 s of simulation for each size of cluster, and the seconds grow with the budget's square
_ASSUME = (
    "plan for one that is not here with --assume-tflops X (peak of dense bf16: A100 312, H100 989), or with a table"
    " [plan] in the file, as the recipes have it"
)
_plan_flag, _pilot_flag = (partial(Flag, group=title) for title in ("the plan", "the pilot"))


@dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """Options of the command line beside those of a search."""

    max_hours: Annotated[
        Hours | None, _plan_flag("print the largest budget of a search that ends within H hours", "H")
    ] = None
    json: Annotated[bool, shared("json", group="the plan")] = False
    no_race: Annotated[bool, _plan_flag("plan a search without the race at its end", default="with it")] = False
    workers: Annotated[
        Workers | None,
        Flag(
            "trials at a time; of a pilot, processes",
            "N",
            "one per GPU, or per CPU if the memory suffices",
            group="where it runs",
        ),
    ] = None
    pilot: Annotated[
        bool,
        _pilot_flag(
            "train a few random architectures to the last step of --rung-steps, keep them, and propose --rung-steps "
            "for the search; the same command continues an interrupted pilot",
            default="plan",
        ),
    ] = False
    pilot_models: Annotated[
        int,
        Field(strict=True, ge=6, le=128),
        _pilot_flag("random architectures to train; a larger number later adds to the kept ones", "N"),
    ] = PILOT_MODELS
    run: Annotated[
        Text | None,
        _pilot_flag(
            "with --pilot: folder that keeps the trainings",
            "DIR",
            "runs/pilot-SPACE-ID, with an ID of the settings",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PlanSettings(PlanAssumptions, PlanFlags):
    """A search and the settings of its plan, or of the pilot that proposes its rungs.

    Args:
        config: Settings of the search.
        workers: Trials at a time on this machine, or on the assumed devices; of a pilot, processes that train.
        weights: Files of teachers' weights, by teacher.
        cache: Folder of images and teacher outputs; None: the user's default.
        race: Settings of the trainings of the race that ends the search; None: there is none.
    """

    config: SearchConfig
    workers: int
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache: str | None = None
    race: SearchConfig | None = None

    @property
    def here(self) -> bool:
        """Return whether the plan is for this machine."""
        return self.assume_tflops is None


def parse(words: Sequence[str]) -> PlanSettings:
    """Parse a command line.

    Args:
        words: Words after the command's name.

    Raises:
        ConfigError: A value is out of its range, options contradict each other, or the budget is too large to simulate.
        SystemExit: An option is unknown or malformed; one line was printed.
    """
    given = vars(parser().parse_args(words))
    options = with_file(given)
    config = new_config(options)
    if config.budget > MAX_BUDGET:
        allowed = f"a plan simulates {MAX_BUDGET:,} architectures at most; hours grow with the budget"
        raise ConfigError(f"--budget: {config.budget}: {allowed}")
    return _pilot(given, options, config) if "pilot" in given else _plan(given, options, config)


def _pilot(given: Mapping[str, Any], options: Mapping[str, Any], config: SearchConfig) -> PlanSettings:
    of_a_plan = {*declared(PlanAssumptions), "max_hours", *RACE_OPTIONS}
    if refused := next((name for name in given if name in of_a_plan), None):
        raise ConfigError(f"{_flag(refused)}: does not go with --pilot, which trains on this machine")
    if (last := config.distill.rung_steps[-1]) < 2:
        raise ConfigError(f"--rung-steps: {last}: a pilot needs a last rung of 2 steps or more")
    check_device(config, device_source(given), NODE_REMEDY)
    check_size(options, config)
    check_local_workers(options.get("workers"))
    workers = _workers(options, config.device, ranks=1)  # they are processes, not trials
    run = given.get("run")  # a file names that of the search
    return PlanSettings(config=config, workers=workers, run=run, **_of(options, "pilot", "pilot_models"))


def _plan(given: Mapping[str, Any], options: Mapping[str, Any], config: SearchConfig) -> PlanSettings:
    if lone := next((name for name in ("pilot_models", "run") if name in given), None):
        raise ConfigError(f"{_flag(lone)}: only with --pilot")
    gpus, ranks = options.get("gpus", ()), config.distill.ranks
    if gpus and min(gpus) < ranks:
        raise ConfigError(
            f"--gpus: {min(gpus)}: must be {ranks} or more, the GPUs of one trial (--distill ranks={ranks})"
        )
    if "assume_tflops" not in options:
        check_device(config, device_source(given), _ASSUME)
        if lone := next((name for name in ("mfu", "assume_measure_seconds") if name in options), None):
            raise ConfigError(f"{_flag(lone)}: only with --assume-tflops; on this device it is measured")
        workers = _workers(options, config.device, ranks)
    elif "workers" in given:
        raise ConfigError("--workers: does not go with --assume-tflops; set the number of devices with --gpus")
    else:
        workers = max(1, (gpus[0] if gpus else 1) // ranks)
    check_race(options, config)
    race = final_race(config, *(options.get(name) for name in ("no_race", "race_steps", "fresh_images")))
    return PlanSettings(
        config=config, workers=workers, race=race, **_of(options, "max_hours", *declared(PlanAssumptions))
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _of(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the options with these names, and those that a plan and a pilot have in common."""
    found = {name: options[name] for name in ("cache", "json", *names) if name in options}
    return found | {"weights": options.get("teacher_weights", {})}


def _workers(options: Mapping[str, Any], device: str, ranks: int) -> int:
    """Return the number that the user gives, else this machine's, with a line where the memory limits it."""
    if "workers" in options:
        return int(options["workers"])
    if line := limited_by_memory(device, ranks):
        announce(f"trials: {line}", _LOG)
    return default_workers(device, ranks)


def parser() -> OneLineParser:
    """Build the parser. An absent flag has no entry in the namespace."""
    about = "Predict the cost of a search: probe a few architectures on this device, then simulate the search."
    built = parser_of(PlanFlags, "plan", about, _EXAMPLES, usage=f"{PROGRAM} plan [OPTION ...]")
    add_flags(built, PlanAssumptions)
    add_flags(built, FileFlags)
    add_settings(built)
    add_flags(built, RunSettings, "cache", "teacher_weights", "race_steps", "fresh_images", "race_by", "target")
    return built
