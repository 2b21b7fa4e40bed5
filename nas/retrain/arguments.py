"""Define the settings of ``backbone-nas retrain`` and its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nas.analysis import RETRAINED_NEAR_MISSES, RETRAINED_SEEDS, RETRAINED_TIMES_LONGER
from nas.cli import OneLineParser
from nas.flags import ADDRESS, MOVED_DATA, RUN, Picture, parse_as, parser_of, shared
from nas.local_workers import check_local_workers
from nas.validation import ConfigError, Device, Files, Flag, MeasureSeconds, Steps, Text, Workers, checked

MEASURE_SECONDS = 5.0
PICTURE = "retraining.png"  # in the run's folder

_EXAMPLES = """examples:
  backbone-nas retrain runs/mine --baselines                3 seeds, as many steps as a race
  backbone-nas retrain runs/mine --baselines --seeds 5 --train-steps 2700 --near-misses 10
  backbone-nas retrain runs/mine --baselines --baseline-seeds 9  narrower intervals of all leads, by a few trainings
  backbone-nas retrain runs/mine --plot retrained-front.pdf
  backbone-nas retrain runs/mine --early-stopped 20         what did early stopping miss?
  backbone-nas retrain runs/mine --data imagefolder:PHOTOS  the search's images lie in another folder now
  backbone-nas retrain runs/mine --device cuda --json > retraining.json

The command retrains the study's front and its near misses: candidates whose chance to be on the front is 5 % or more,
given the noise of seeds and measurements. Trainings and measurements are saved in the study. The same command continues
an interrupted one, even in the middle of a training, and retries failed trainings; if all are done, it only shows the
outcome. Larger --seeds, --near-misses or --early-stopped add trainings; another --train-steps starts separate ones.
With --address, nodes of a Ray cluster train; models are timed on this machine.
Weights are written to RUN/retraining/STEPS-steps/seed-N/weights. With --baselines, retrained scores then decide what
reports and exports recommend, among candidates that the search had stopped early, too, unless a race has decided
(backbone-nas race): it trains fewer models, on more images.
"""


@checked
@dataclass(frozen=True)
class RetrainSettings:
    """Settings of one ``backbone-nas retrain`` command; None means as in the study.

    Raises:
        ValueError: a number is out of range.
    """

    run: Annotated[Path, RUN]
    seeds: Annotated[int, Field(strict=True, ge=1, le=1_000), Flag("trainings of each candidate", "N")] = (
        RETRAINED_SEEDS
    )
    train_steps: Annotated[
        Steps | None, Flag("steps of each training", "N", f"{RETRAINED_TIMES_LONGER} times the study's last rung")
    ] = None
    near_misses: Annotated[
        int,
        Field(strict=True, ge=0, le=1_000_000),
        Flag(
            "candidates to retrain in addition to the front: at most N that may belong on it, given the noise of "
            "scores and timings",
            "N",
        ),
    ] = RETRAINED_NEAR_MISSES
    baselines: Annotated[bool, Flag("retrain the study's baselines too, for comparison")] = False
    baseline_seeds: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1_000)] | None,
        Flag("trainings of each baseline, which every lead is compared with", "N", "as many as of a candidate"),
    ] = None
    early_stopped: Annotated[
        int,
        Field(strict=True, ge=0, le=1_000_000),
        Flag("also retrain the N early-stopped candidates of each rung that came closest to the front", "N"),
    ] = 0
    workers: Annotated[
        Workers | None,
        Flag(
            "trainings at a time",
            "N",
            "one per GPU, or per group of GPUs that a training takes; else one per CPU if the memory suffices",
        ),
    ] = None
    address: Annotated[Text | None, ADDRESS] = None
    data: Annotated[str | None, MOVED_DATA] = None
    device: Annotated[Device | None, shared("device", "auto")] = None
    cache: Annotated[str | None, shared("cache", "that of the search")] = None
    teacher_weights: Annotated[Files, shared("teacher_weights", "those of the search")] = field(default_factory=dict)
    measure_seconds: Annotated[
        MeasureSeconds | None,
        shared("measure_seconds", f"that of the study's retraining, if there is one; else {MEASURE_SECONDS:g}"),
    ] = None
    plot: Annotated[Picture | None, shared("plot", f"RUN/{PICTURE}")] = None
    json: Annotated[bool, shared("json")] = False

    def __post_init__(self) -> None:
        if self.baseline_seeds is not None and not self.baselines:
            raise ConfigError("--baseline-seeds: no baselines are retrained; add --baselines")
        if self.baseline_seeds is not None and self.baseline_seeds < self.seeds:
            raise ConfigError(f"--baseline-seeds: {self.baseline_seeds}: must be {self.seeds} or more, as --seeds")
        if self.address is None:
            check_local_workers(self.workers)


def parser() -> OneLineParser:
    """Build the parser."""
    about = (
        "Retrain the front of a study and its near misses, longer and with new seeds, measure them again, and show "
        "each candidate's chance to be on the front."
    )
    return parser_of(RetrainSettings, "retrain", about, _EXAMPLES)


def parse(words: Sequence[str]) -> RetrainSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    return parse_as(RetrainSettings, parser(), words)
