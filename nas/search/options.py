"""The settings of a search beside those of its study, each declared once: where it runs, the session, a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nas.flags import LATEST, run_folder, shared
from nas.race.arguments import FreshImages, RaceBy, RaceSteps, Target
from nas.study.limits import LIMITS
from nas.validation import Budget, ConfigError, Files, Flag, Hours, MeasureSeconds, Text, Workers
from search_space.checks import shown

RECIPES = Path(__file__).parent.parent / "recipes"
RECIPE_FLAGS = ("img_size", "batch_size", "rung_steps")  # fields of the recipe that have flags of their own
DATA_FLAGS = ("data", "teachers", "train_images", "val_images", "views", "teacher_precision", "target_dtype")
MEASURING_FLAGS = ("device", "measure_batch_size", "runtime", "measure_seconds")
MFU = 0.3
# Ray and the imports of two workers on two idle CPUs, from experiments/results/recorded_search.json.
START_S = 17.0
# A proposal of known-cost in a study of 30 trials of laptop: 0.13 s on an idle AMD EPYC, Ray Tune's 0.03 s included;
# 0.11 s in micro, 0.21 s in full. It grows with the study: 0.29 s after 200 trials of micro on a busy machine.
ASK_S = 0.15


def recipe_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe; ConfigError for an unknown name."""
    if name not in recipe_names():
        raise ConfigError(f"--recipe: no recipe {name!r}; choose one of: {', '.join(recipe_names())}")
    return RECIPES / f"{name}.toml"


_DATA = "data and teachers"
_plan, _file = (partial(Flag, group=title) for title in ("the plan", "a file of settings"))
_placed, _session = (partial(Flag, group=title) for title in ("where it runs", "the session"))


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How and where a search runs: the table [run] of a file, on which no number of the study depends."""

    cache: Annotated[
        Text | None,
        shared(
            "cache", "that of the study to resume, else $BACKBONE_NAS_CACHE, else ~/.cache/backbone-nas", group=_DATA
        ),
    ] = None
    storage: Annotated[
        Text | None,
        _placed(
            "keep the study in another database: postgresql://USER@HOST:PORT/NAME, its password in ~/.pgpass or "
            "PGPASSWORD; mysql+DRIVER://USER@HOST/NAME; sqlite:///FILE",
            "URL",
            "the file study.db in the run folder",
        ),
    ] = None
    workers: Annotated[
        Workers | None,
        _placed(
            "trials at a time",
            "N",
            "one per GPU, or per CPU if the memory suffices; on a cluster as many as its nodes take",
        ),
    ] = None
    address: Annotated[
        Text | None,
        _placed(
            "address of a running Ray cluster, or auto: its nodes run the trials. They need the run folder and the "
            "cache under the same paths, and the same code; start them with RAY_worker_niceness=0 ray start, and on a "
            "shared network with RAY_AUTH_MODE=token, which this command then needs too",
            "HOST:PORT",
            "this machine alone",
        ),
    ] = None
    trial_timeout: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=10_000_000)] | None,
        _placed(
            "seconds for the measurement of a candidate and for each rung, without the start of a worker; a trial that "
            "takes longer counts as hung: it is killed and run again",
            "S",
            "ten times the median of earlier trials, at least 600",
        ),
    ] = None
    max_hours: Annotated[
        Hours | None,
        _session(
            "end this session after H hours: no new candidate starts, a training under way stops at its next rung, and "
            "--resume continues the search; a third of them is the race's",
            "H",
            "run until the budget is spent",
        ),
    ] = None
    until_converged: Annotated[
        bool,
        _session(
            "end this session when the search has converged: known-cost's latest proposals are expected to gain less "
            "hypervolume than the noise of a seed and a timing gives",
            default="run until the budget is spent",
        ),
    ] = False
    no_race: Annotated[bool, Flag("end without the race", default="race", group="the race")] = False
    race_steps: RaceSteps = None
    fresh_images: FreshImages = None
    race_by: RaceBy = None
    target: Target = None
    teacher_weights: Annotated[
        Files, shared("teacher_weights", "those of the study to resume, else download from timm", group=_DATA)
    ] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SessionFlags:
    """Options of the command line alone; `run` is a key of the table [run] too."""

    run: Annotated[Text | None, _session("folder of the new study", "DIR", "runs/<date>-<sampler>-s<seed>")] = None
    resume: Annotated[
        Path | None,
        _session(
            "resume the study in RUN, or help a search that is working on it; cache and teachers' weights are those of "
            "the search",
            "RUN",
            f"start a new study; the bare flag resumes {LATEST}",
            more={"nargs": "?", "const": LATEST, "type": run_folder},
        ),
    ] = None
    extend: Annotated[Budget | None, _session("with --resume: raise the budget by M architectures", "M", "by none")] = (
        None
    )
    dry_run: Annotated[
        bool,
        _session(
            "check settings, device, teachers, data, folders, disk, database and cluster; run nothing",
            default="search",
        ),
    ] = False
    plan: Annotated[
        bool,
        _session(
            "run nothing and print the cost of the search, as backbone-nas plan does with these flags",
            default="search",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class FileFlags:
    """The file of settings that the others override."""

    config: Annotated[
        Text | None,
        _file("TOML file of settings, as RUN/config.toml of every search; flags override it", "FILE"),
    ] = None
    recipe: Annotated[
        Text | None,
        _file(f"settings that come with the program, which flags override: {', '.join(recipe_names())}", "NAME"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PlanAssumptions:
    """What a plan assumes of a device, and its price: the table [plan] of a file, which a search ignores."""

    gpus: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=1, le=100_000)], ...],
        _plan(
            "simulate clusters of these sizes, in GPUs, or in machines with --device cpu; with --assume-tflops, hours "
            "and cost are those of the first size",
            "A,B",
            "8,64,1024",
        ),
    ] = ()
    assume_tflops: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=1_000_000)] | None,
        _plan(
            "plan for a device that is not here, with this peak of dense bf16 in TFLOP/s; nothing is probed",
            "X",
            "plan for this machine",
        ),
    ] = None
    mfu: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=1)] | None,
        _plan("share of that peak that training reaches", "X", f"{MFU:g}"),
    ] = None
    assume_measure_seconds: Annotated[
        MeasureSeconds | None,
        _plan("seconds of one measurement on that device", "S", "--measure-seconds, without compiling"),
    ] = None
    usd_per_hour: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=1_000_000)] | None,
        _plan("US dollars of a device-hour, for the cost of the search", "X", "no cost"),
    ] = None
    start_seconds: Annotated[
        float, Field(strict=True, ge=0, le=86_400), _plan("seconds until a worker begins its first trial", "S")
    ] = START_S
    ask_seconds: Annotated[
        float, Field(strict=True, ge=0, le=86_400), _plan("seconds that the driver takes for a new trial", "S")
    ] = ASK_S
    read_gb_per_second: Annotated[
        Annotated[float, Field(strict=True, gt=0, le=1_000_000)] | None,
        _plan("read rate of the cache's disk in GB/s, shared by all workers", "X", "no limit"),
    ] = None


def folded(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name with those of the recipe in "distill" and the limits in "limits", as in a file."""
    options = {name: value for name, value in given.items() if name not in (*RECIPE_FLAGS, *LIMITS)}
    for table, names in (("distill", RECIPE_FLAGS), ("limits", LIMITS)):
        if found := {name: given[name] for name in names if name in given}:
            inside = options.get(table, {})
            if twice := [
                name for name in found if json.dumps(inside.get(name, found[name])) != json.dumps(found[name])
            ]:
                flag, value = f"--{twice[0].replace('_', '-')}", shown(found[twice[0]])
                other = f"--distill {twice[0]}={shown(inside[twice[0]])}"
                raise ConfigError(f"{flag}: {value}: conflicts with {other}; give one of them")
            options[table] = {**inside, **found}
    return options
