"""The command line of ``backbone-nas search``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from nas.cli import PROGRAM, OneLineParser, comma_list, command_line, whole_numbers
from nas.old_flags import LATEST, Add, add_cache, add_choices, add_flag, run_folder
from nas.race.arguments import add_race_flags
from nas.ranges import declared, misfit
from nas.redaction import public_word
from nas.search.config_file import recipe_names
from nas.search.networks import add_network_flags
from nas.search.settings import SearchCommand, command_of
from nas.study.config import (
    BALANCES,
    SAMPLERS,
    SCORES,
    SPATIAL_LOSSES,
    STANDARDIZATIONS,
    SUMMARY_LOSSES,
    TARGET_DTYPES,
    TEACHER_PRECISIONS,
    DistillConfig,
    SearchConfig,
)
from nas.study.limits import add_limit_flags
from nas.study.objectives import OBJECTIVES
from search_space import SPACES
from search_space.checks import shown

_EXAMPLES = """examples:
  backbone-nas search --budget 200                      the whole search on this machine, built-in images and teachers
  python -m nas.search --budget 200                     the same, where no console script is installed
  backbone-nas search --budget 8 --rung-steps 10,30 --train-images 256 --val-images 64
                                                        a quick look, at few images
  backbone-nas search --max-params 1e6 --max-latency-ms 5
  backbone-nas search --objectives score,throughput,params
  backbone-nas search --data imagefolder:PHOTOS --seed 1 --run runs/photos
  backbone-nas search --distill balance=adaloss --distill 'weights={"lite0": 2}' --distill batch_size=64
  backbone-nas search --reference timm:resnet50 --baselines eradio_pico,winner.json --scale timm:convnext_atto
  backbone-nas search --recipe cifar10-1gpu             settings for a GPU; flags override them
  backbone-nas search --config runs/latest/config.toml --seed 1
                                                        the same search with another seed
  backbone-nas search --resume runs/photos              resume an interrupted search
  backbone-nas search --resume runs/photos --extend 50  evaluate 50 more architectures
  backbone-nas search --resume runs/photos --data imagefolder:/home/ben/photos
                                                        the images lie elsewhere here
  backbone-nas search --budget 1000 --until-converged   end when more architectures gain less than the noise
  backbone-nas search --storage postgresql://nas@db.example.org/nas --run /shared/runs/big
  backbone-nas search --resume /shared/runs/big         on another machine: both work on the study
  backbone-nas search --address auto --run /shared/mine --cache /shared/cache
                                                        on a running Ray cluster
  backbone-nas search --budget 500 --plan               show what the search would cost; run nothing
"""

TEACHERS_HELP = "comma list of builtin, am_radio, c_radio_v4, lite0, hed, xfeat, or timm's networks as NAME[@PX[/N]]"
_STORAGE_HELP = (
    "keep the study in PostgreSQL, so that several machines can work on it: postgresql://USER@HOST:PORT/NAME, with the "
    "password in ~/.pgpass or PGPASSWORD (default: the file study.db in the run folder)"
)
_DATA_HELP = (
    "builtin, imagefolder:PATH, webdataset:PATTERN (files or https://; TRAIN::VAL; #ignore=N for void masks) or "
    "cifar10 (default: builtin)"
)
LIMITS_HELP = "An architecture that breaks a limit is never trained."
_ADDRESS_HELP = (
    "address of a running Ray cluster, or auto: its nodes run the trials. They need the run folder and the cache under "
    "the same paths, and the same code; start them with RAY_worker_niceness=0 ray start, and on a shared network with "
    "RAY_AUTH_MODE=token, which this command then needs too (default: this machine alone)"
)
_FRONT_GAIN_HELP = (
    "let a candidate continue that successive halving would stop, if its final score, predicted from all scores so "
    "far, would raise the hypervolume of the front by this share or more; 0: halving alone decides (default: 0.02)"
)
_MEASURE_FIRST_HELP = (
    "measure every candidate before its training (default: measure after the first rung, and only the candidates that "
    "pass it, where known-cost predicts the throughput to 8 %% and no limit needs a measurement; else before)"
)
_TRIAL_TIMEOUT_HELP = (
    "seconds for the measurement of a candidate and for each rung, without the start of a worker; a trial that takes "
    "longer counts as hung: it is killed and run again (default: ten times the median of earlier trials, at least 600)"
)
_MAX_HOURS_HELP = (
    "end this session after H hours: no new candidate starts, a training under way stops at its next rung, and "
    "--resume continues the search; a third of them is the race's (default: run until the budget is spent)"
)
_UNTIL_CONVERGED_HELP = (
    "end this session when the search has converged: known-cost's latest proposals are expected to gain less "
    "hypervolume than the noise of a seed and a timing gives (default: run until the budget is spent)"
)
_OBJECTIVES_HELP = (
    f"comma list of score and any of {', '.join(name for name in OBJECTIVES if name != 'score')}; for objectives that "
    "known-cost does not take, the default sampler is evolution (default: score,throughput)"
)
_DISTILL_HELP = (
    "a setting of the recipe (nas.study.config.DistillConfig), may be given several times: learning_rate, batch_size, "
    f"summary_loss ({', '.join(SUMMARY_LOSSES)}), spatial_loss ({', '.join(SPATIAL_LOSSES)}), standardization "
    f"({', '.join(STANDARDIZATIONS)}), balance ({', '.join(BALANCES)}), score ({', '.join(SCORES)}), "
    "weights, groups, ... (default: the recipe's)"
)


def parse(words: Sequence[str]) -> SearchCommand:
    """Return the settings of a command line, see `command_of`; SystemExit where the parser refuses a word."""
    return command_of(vars(parser().parse_args(words)), command_line("search", [public_word(word) for word in words]))


class _Setting(argparse.Action):
    """Gathers KEY=VALUE settings of `DistillConfig` in a dict; a value is JSON, or else text."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        key, equals, text = str(values).partition("=")
        hints = declared(DistillConfig)
        if not equals or key not in hints:
            keys = ", ".join(get_close_matches(key, hints) or hints)
            raise argparse.ArgumentError(self, f"{shown(values)}: must be KEY=VALUE, with a key such as {keys}")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # brackets in brackets, a thousand deep
            value = text
        if problem := misfit(value, hints[key]):
            raise argparse.ArgumentError(self, f"{key}: {problem}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), key: value})


def parser() -> OneLineParser:
    """Return the parser of ``backbone-nas search``; an option that is not given is not in the namespace."""
    search = OneLineParser(
        prog=f"{PROGRAM} search",
        usage=f"{PROGRAM} search [OPTION ...]",
        description="Search for hybrid CNN-transformer backbones with the best distillation score and throughput.",
        epilog=_EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    add_settings(search, "with --resume as in the search, else ")
    _add_where_it_runs(search.add_argument_group("where it runs").add_argument)
    _add_session(search.add_argument_group("the session").add_argument)
    return search


def add_settings(built: argparse.ArgumentParser, recorded: str = "") -> None:
    """Add the flags that a search's numbers depend on, and those that say where images and teachers come from.

    Args:
        built: The parser.
        recorded: Says when a run folder gives the defaults of cache and teachers' weights.
    """
    _add_file(built.add_argument_group("a file of settings").add_argument)
    _add_what_to_search(built.add_argument_group("what to search").add_argument)
    add_data_flags(built.add_argument_group("data and teachers").add_argument, recorded)
    _add_training(built.add_argument_group("training").add_argument)
    measuring = built.add_argument_group("measuring").add_argument
    add_measuring_flags(measuring)
    measuring("--measure-first", action="store_true", help=_MEASURE_FIRST_HELP)
    add_limit_flags(built, LIMITS_HELP)


def _add_file(add: Add) -> None:
    config = "TOML file of settings, as RUN/config.toml of every search; flags override it (default: none)"
    add("--config", metavar="FILE", help=config)
    recipe = f"settings that come with the program, which flags override: {', '.join(recipe_names())} (default: none)"
    add("--recipe", metavar="NAME", help=recipe)


def _add_what_to_search(add: Add) -> None:
    defaults = SearchConfig()
    add("--budget", type=int, metavar="N", help=f"unique architectures to evaluate (default: {defaults.budget})")
    add("--space", choices=tuple(SPACES), help=f"search space (default: {defaults.space})")
    add_choices(add)
    add("--sampler", choices=SAMPLERS, help=f"proposes architectures (default: {defaults.sampler})")
    add("--objectives", type=comma_list, metavar="A,B", help=_OBJECTIVES_HELP)
    add("--seed", type=int, help=f"seed of sampling, initial weights and image order (default: {defaults.seed})")
    add_network_flags(add)


def add_data_flags(add: Add, recorded: str) -> None:
    """Add the flags that choose images, teachers and their cache; `recorded` as in `add_settings`."""
    defaults, present = SearchConfig(), "what there is, up to"
    moved = "; with --resume, where the study's images lie now" if recorded else ""
    add("--data", metavar="URI", help=_DATA_HELP + moved)
    add(
        "--train-images",
        type=int,
        metavar="N",
        help=f"images to train on (default: {present} {defaults.train_images})",
    )
    add("--val-images", type=int, metavar="N", help=f"held-out images (default: {present} {defaults.val_images})")
    add_flag(add, "--views", str(defaults.views))
    add("--teachers", metavar="NAMES", help=f"{TEACHERS_HELP} (default: {defaults.teachers})")
    add_flag(add, "--teacher-weights", f"{recorded}download from timm")
    precision = "bf16 on a GPU with tensor cores for it and on a CPU with AMX, else fp32"
    add_flag(add, "--teacher-precision", precision, choices=TEACHER_PRECISIONS)
    dtype = f"data type of the teachers' stored outputs (default: {defaults.target_dtype})"
    add("--target-dtype", choices=TARGET_DTYPES, help=dtype)
    add_cache(add, recorded)


def _add_training(add: Add) -> None:
    defaults = SearchConfig()
    rungs = ",".join(map(str, defaults.distill.rung_steps))
    add_flag(add, "--img-size", f"{defaults.distill.img_size}; 224 with --space full")
    add_recipe_flags(add)
    add("--rung-steps", type=whole_numbers, metavar="A,B,C", help=f"training steps of the rungs (default: {rungs})")
    factor = f"at a rung, the best 1/N of the candidates continue (default: {defaults.reduction_factor})"
    add("--reduction-factor", type=int, metavar="N", help=factor)
    add("--front-gain", type=float, metavar="SHARE", help=_FRONT_GAIN_HELP)


def add_recipe_flags(add: Add) -> None:
    """Add the flags of the training recipe that all trainings have."""
    batch = f"images per training step (default: {SearchConfig().distill.batch_size})"
    add("--batch-size", type=int, metavar="N", help=batch)
    add("--distill", action=_Setting, dest="distill_settings", metavar="KEY=VALUE", help=_DISTILL_HELP)


def add_measuring_flags(add: Add) -> None:
    """Add the flags that say how networks are measured."""
    defaults = SearchConfig()
    add_flag(add, "--device", defaults.device)
    add_flag(
        add,
        "--runtime",
        "eager+fp32+channels-last+fused; on CUDA compiled+bf16, or compiled+fp16 where the GPU has no bf16",
    )
    add_flag(
        add,
        "--measure-batch-size",
        f"{defaults.measure_batch_size}; on CUDA 128 or, where the CPU would limit the reference's speed, more",
    )
    more = "; it ends earlier when it is exact to 1 %%; a slow network gets up to five times as long, for an interval"
    add_flag(add, "--measure-seconds", f"{defaults.measure_seconds:g}", more=more)


def _add_where_it_runs(add: Add) -> None:
    workers = (
        "trials at a time (default: one per GPU, or per CPU if the memory suffices; on a cluster as many as its nodes "
        "take)"
    )
    add("--workers", type=int, metavar="N", help=workers)
    add("--address", metavar="HOST:PORT", help=_ADDRESS_HELP)
    add("--trial-timeout", type=float, metavar="S", help=_TRIAL_TIMEOUT_HELP)
    add("--storage", metavar="URL", help=_STORAGE_HELP)


def _add_session(add: Add) -> None:
    add("--run", metavar="DIR", help="folder of the new study (default: runs/<date>-<sampler>-s<seed>)")
    resume = "resume the study in RUN, or help a search that is working on it"
    shown = f"{resume} (default: start a new study; the bare flag resumes {LATEST})"
    add("--resume", nargs="?", const=LATEST, type=run_folder, metavar="RUN", help=shown)
    add_race_flags(add)
    add("--no-race", action="store_true", help="end without the race (default: race)")
    add("--extend", type=int, metavar="M", help="with --resume: raise the budget by M architectures (default: by none)")
    add("--max-hours", type=float, metavar="H", help=_MAX_HOURS_HELP)
    add("--until-converged", action="store_true", help=_UNTIL_CONVERGED_HELP)
    dry = "check settings, device, teachers, data, folders, disk, database and cluster; run nothing (default: search)"
    add("--dry-run", action="store_true", help=dry)
    plan = "run nothing and print the cost of the search, as backbone-nas plan does with these flags (default: search)"
    add("--plan", action="store_true", help=plan)
