"""Define the settings of ``backbone-nas retrain`` and its command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from nas.analysis import RETRAINED_NEAR_MISSES, RETRAINED_SEEDS, RETRAINED_TIMES_LONGER
from nas.cli import PROGRAM, OneLineParser
from nas.flags import add_flag, add_run, add_training_flags
from nas.local_workers import check_local_workers
from nas.measure.devices import device_type
from nas.ranges import MeasureSeconds, Range, Steps, Workers, check_fields

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
Weights are written to RUN/retraining/STEPS-steps/seed-N/weights. With --baselines, retrained scores then decide what
reports and exports recommend, among candidates that the search had stopped early, too, unless a race has decided
(backbone-nas race): it trains fewer models, on more images.
"""


@dataclass(frozen=True)
class RetrainSettings:
    """Settings of one ``backbone-nas retrain`` command; None means as in the study.

    Raises:
        ValueError: a number is out of range.
    """

    run: Path
    seeds: Annotated[int, Range(1, 1_000)] = RETRAINED_SEEDS
    train_steps: Steps | None = None  # None: as a race
    near_misses: Annotated[int, Range(0, 1_000_000)] = RETRAINED_NEAR_MISSES  # near misses, at most
    baselines: bool = False
    early_stopped: Annotated[int, Range(0, 1_000_000)] = 0  # of each rung at which candidates ended, at most
    workers: Workers | None = None  # trainings at a time; None: as the help says
    device: str | None = None  # None: auto
    data: str | None = None  # where the study's images lie; None: where the search found them
    cache: str | None = None
    teacher_weights: Mapping[str, Path] = field(default_factory=dict)
    measure_seconds: MeasureSeconds | None = None  # None: of earlier timings, else MEASURE_SECONDS
    plot: Path | None = None
    json: bool = False
    baseline_seeds: Annotated[int, Range(1, 1_000)] | None = None  # None: as many as the others

    def __post_init__(self) -> None:
        check_fields(self)
        if self.baseline_seeds is not None and not self.baselines:
            raise ValueError("baseline-seeds: no baselines are retrained; add --baselines")
        if self.baseline_seeds is not None and self.baseline_seeds < self.seeds:
            raise ValueError(f"baseline-seeds: {self.baseline_seeds}: must be {self.seeds} or more, as --seeds")
        device_type(self.device or "auto")
        check_local_workers(self.workers)


def parse(words: Sequence[str]) -> RetrainSettings:
    """Return the settings of a command line; SystemExit(2) or ValueError, one line, where it is wrong."""
    return RetrainSettings(**vars(parser().parse_args(words)))


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} retrain",
        description="Retrain the front of a study and its near misses, longer and with new seeds, measure them again, "
        "and show each candidate's chance to be on the front.",
        epilog=_EXAMPLES,
    )
    add = built.add_argument
    add_run(add)
    add("--seeds", type=int, default=RETRAINED_SEEDS, metavar="N", help="trainings of each candidate (default: 3)")
    add(
        "--train-steps",
        type=int,
        metavar="N",
        help=f"steps of each training (default: {RETRAINED_TIMES_LONGER} times the study's last rung)",
    )
    add(
        "--near-misses",
        type=int,
        default=RETRAINED_NEAR_MISSES,
        metavar="N",
        help="candidates to retrain in addition to the front: at most N that may belong on it, given the noise of "
        "scores and timings (default: 6)",
    )
    add("--baselines", action="store_true", help="retrain the study's baselines too, for comparison (default: no)")
    add(
        "--baseline-seeds",
        type=int,
        metavar="N",
        help="trainings of each baseline, which every lead is compared with (default: as many as of a candidate)",
    )
    add(
        "--early-stopped",
        type=int,
        default=0,
        metavar="N",
        help="also retrain the N early-stopped candidates of each rung that came closest to the front (default: 0)",
    )
    workers = (
        "trainings at a time (default: one per GPU, or per group of GPUs that a training takes; else one per CPU if "
        "the memory suffices)"
    )
    add("--workers", type=int, metavar="N", help=workers)
    data = "where the study's images lie, if they have moved: a source as of search --data (default: where they were)"
    add("--data", metavar="URI", help=data)
    add_training_flags(add)
    add_flag(add, "--measure-seconds", f"that of the study's retraining, if there is one; else {MEASURE_SECONDS:g}")
    add_flag(add, "--plot", f"RUN/{PICTURE}")
    add_flag(add, "--json", "no")
    return built
