"""Define the settings of ``backbone-nas race`` and its command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from nas.cli import PROGRAM, OneLineParser
from nas.local_workers import check_local_workers
from nas.old_flags import Add, add_cache, add_flag, add_run
from nas.ranges import ConfigError, Range, Steps, Workers, check_fields
from nas.study.config import SearchConfig
from nas.study.horizon import LATER, MIDWAY
from nas.study.metrics import METRICS, is_in_tables

TIMES_LONGER = 10  # steps of a race, in those of the search's last rung
SEARCH_SHARE = 2 / 3  # of --max-hours; the rest is the race's
PASSES = 2.88  # over the images: 30,000 in 2,700 steps of 32, as in the table that the rules of a race come from

_EXAMPLES = f"""examples:
  backbone-nas race runs/mine                          the fastest model that is as good as the best baseline
  backbone-nas race runs/mine --target eradio_nano     ... as this one
  backbone-nas race runs/mine --target 0.74            ... as this score
  backbone-nas race runs/mine --race-by knn            ... in score and in accuracy of nearest neighbors
  backbone-nas race runs/mine --race-steps 8100 --fresh-images 90000

Candidates faster than the target are trained for {TIMES_LONGER} times the steps of the search's last rung, on more
images where the source has them, with another seed: that one first from which the most throughput is expected. The
fastest one wins that is expected to be ahead of the target, which is trained in the same way, after {LATER:g} times as
many steps: after 20,000 where a race takes 2,700. In a study with limits and without --target, the best of the most
promising candidates wins. Every training is in the study; the same command continues a race that was interrupted.
Weights are written to RUN/race/STEPS-steps/seed-N/weights.
"""


@dataclass(frozen=True)
class RaceSettings:
    """Settings of one race; None means the default that the help names.

    Raises:
        ValueError: A number is out of range.
    """

    run: Path
    race_steps: Steps | None = None
    fresh_images: Annotated[int, Range(2, 1_000_000_000)] | None = None
    target: str | None = None
    race_by: str | None = None
    workers: Workers | None = None
    address: str | None = None
    cache: str | None = None
    teacher_weights: Mapping[str, Path] = field(default_factory=dict)
    data: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_metric(self.race_by)
        if self.address is None:
            check_local_workers(self.workers)


def race_config(config: SearchConfig, steps: int | None = None, images: int | None = None) -> SearchConfig:
    """Return the settings of a race's trainings but their seeds.

    Args:
        config: Of the search.
        steps: That the user named.
        images: That the user named.

    Raises:
        ConfigError: The trainings would be no longer than the search's.
    """
    last = config.distill.rung_steps[-1]
    steps = steps or TIMES_LONGER * last
    if steps <= last:
        raise ConfigError(f"--race-steps: {steps}: must be above {last}, the steps of the search's last rung")
    seen = steps * config.distill.largest_batch
    images = images or max(config.train_images, math.ceil(seen / PASSES / config.views))
    rungs = tuple(sorted({last, steps, max(last, round(MIDWAY * steps))}))
    return replace(config, train_images=images, distill=replace(config.distill, rung_steps=rungs))


def check_metric(name: str | None) -> None:
    """Raise ConfigError for a metric that no study has."""
    if name is not None and not is_in_tables(name):
        raise ConfigError(f"--race-by: {name!r}: choose from {', '.join(filter(is_in_tables, METRICS))}")


def is_score(text: str) -> bool:
    """Return whether a target is a score, and neither a name nor a trial's number."""
    try:
        return not text.isdigit() and math.isfinite(float(text))
    except ValueError:
        return False


def parse(words: Sequence[str]) -> RaceSettings:
    """Return the settings of a command line; SystemExit(2) or ValueError, one line, where it is wrong."""
    return RaceSettings(**vars(parser().parse_args(words)))


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} race",
        description="Train the plausible candidates of a finished search for long, and name the fastest one that is "
        "at least as good as the target.",
        epilog=_EXAMPLES,
    )
    add = built.add_argument
    add_run(add)
    add_race_flags(add)
    workers = "trainings at a time (default: one per GPU or group of GPUs, else one per CPU if the memory suffices)"
    add("--workers", type=int, metavar="N", help=workers)
    add("--address", metavar="HOST:PORT", help="a running Ray cluster, or auto (default: this machine alone)")
    data = "where the study's images lie, if they have moved: a source as of search --data (default: where they were)"
    add("--data", metavar="URI", help=data)
    add_cache(add, "that of the search; ")
    add_flag(add, "--teacher-weights", "those of the search; else download from timm", default={})
    add_flag(add, "--json", "no")
    return built


def add_race_flags(add: Add) -> None:
    """Add the flags that say what a race decides, and how."""
    target = "what the race has to be as good as: a baseline, a trial's number or a score (default: the best baseline, "
    add("--target", metavar="NAME|SCORE", help=f"{target}or none in a study with limits, whose best wins)")
    by = "metric of the study in which the winner has to be as good as the target, too, as knn (default: score alone)"
    add("--race-by", metavar="METRIC", help=by)
    steps = f"steps of each training of the race (default: {TIMES_LONGER} times the search's last rung)"
    add("--race-steps", type=int, metavar="N", help=steps)
    images = f"images that the race trains on, at most (default: those of the search, or more for {PASSES:g} passes)"
    add("--fresh-images", type=int, metavar="N", help=images)
