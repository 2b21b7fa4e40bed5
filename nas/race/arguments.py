"""Define the settings of ``backbone-nas race`` and its command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nas.cli import OneLineParser
from nas.flags import ADDRESS, MOVED_DATA, RUN, parse_as, parser_of, shared
from nas.local_workers import check_local_workers
from nas.study.config import SearchConfig
from nas.study.horizon import LATER, MIDWAY
from nas.study.metrics import METRICS, is_in_tables
from nas.validation import ConfigError, Files, Flag, Steps, Text, Workers, checked

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


_race = partial(Flag, group="the race")
RaceSteps = Annotated[
    Steps | None, _race("steps of each training of the race", "N", f"{TIMES_LONGER} times the search's last rung")
]
FreshImages = Annotated[
    Annotated[int, Field(strict=True, ge=2, le=1_000_000_000)] | None,
    _race("images that the race trains on, at most", "N", f"those of the search, or more for {PASSES:g} passes"),
]
Target = Annotated[
    Text | None,
    _race(
        "what the race has to be as good as: a baseline, a trial's number or a score",
        "NAME|SCORE",
        "the best baseline, or none in a study with limits, whose best wins",
    ),
]
RaceBy = Annotated[
    Text | None,
    _race(
        "metric of the study in which the winner has to be as good as the target, too, as knn", "METRIC", "score alone"
    ),
]


@checked
@dataclass(frozen=True)
class RaceSettings:
    """Settings of one race; None means the default that the help names.

    Raises:
        ValueError: A number is out of range.
    """

    run: Annotated[Path, RUN]
    race_steps: RaceSteps = None
    fresh_images: FreshImages = None
    target: Target = None
    race_by: RaceBy = None
    workers: Annotated[
        Workers | None,
        Flag("trainings at a time", "N", "one per GPU or group of GPUs, else one per CPU if the memory suffices"),
    ] = None
    address: Annotated[Text | None, ADDRESS] = None
    cache: Annotated[str | None, shared("cache", "that of the search")] = None
    teacher_weights: Annotated[Files, shared("teacher_weights", "those of the search")] = field(default_factory=dict)
    data: Annotated[str | None, MOVED_DATA] = None
    json: Annotated[bool, shared("json")] = False

    def __post_init__(self) -> None:
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


def parser() -> OneLineParser:
    """Build the parser."""
    about = (
        "Train the plausible candidates of a finished search for long, and name the fastest one that is at least as "
        "good as the target."
    )
    return parser_of(RaceSettings, "race", about, _EXAMPLES)


def parse(words: Sequence[str]) -> RaceSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    return parse_as(RaceSettings, parser(), words)
