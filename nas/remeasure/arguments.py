"""Define the settings of ``backbone-nas remeasure`` and its command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.cli import PROGRAM, OneLineParser
from nas.measure.devices import device_type
from nas.measure.runtime_spec import Arm
from nas.old_flags import add_batch_size, add_flag, add_measuring_device, add_run
from nas.ranges import BatchSize, MeasureSeconds, Pixels, Threads, check_fields

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

_EXAMPLES = """examples:
  backbone-nas remeasure runs/mine --device cuda:0              the front, with the study's settings on this GPU
  backbone-nas remeasure runs/mine --device cuda:0 --batch-size 1 --runtime reduce-overhead+fp16
  backbone-nas remeasure runs/mine --trials near --measure-seconds 10    the next two Pareto ranks too, more precisely
  backbone-nas remeasure runs/mine --trials all --runtime onnxruntime --plot fronts.png
  backbone-nas remeasure runs/mine --trials 12,40 --name laptop --json > laptop.json

The measurements are saved in the study as a named remeasurement. The same command continues an interrupted one,
another --trials adds candidates, and --overwrite replaces the measurements. Measurements in another setting (device,
runtime, batch, image size, reference) are compared with the search's as two sets. In the setting of the search, the
report, select and export take each candidate's newest timing that can be trusted.
"""


@dataclass(frozen=True)
class RemeasureSettings:
    """Settings of one ``backbone-nas remeasure`` command; None means as in the study.

    Raises:
        ValueError: a value is impossible.
    """

    run: Path
    trials: str = "front"  # of nas.analysis.WHICH, or comma-separated trial numbers
    device: str = "auto"
    batch_size: BatchSize | None = None  # images per call
    img_size: Pixels | None = None
    runtime: str | None = None
    measure_seconds: MeasureSeconds = 3.0  # of timing per candidate
    threads: Threads | None = None  # CPU threads of the measuring process; None: one less than CPUs
    name: str | None = None  # None: device, batch size, image size and runtime
    overwrite: bool = False
    json: bool = False
    plot: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        device_type(self.device)
        if self.runtime:
            Arm.parse(self.runtime)
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ValueError(f"--name: {self.name!r}: must be up to 100 letters, digits and . _ + -, as laptop-b1")


def parse(words: Sequence[str]) -> RemeasureSettings:
    """Return the settings of a command line; SystemExit(2) or ValueError, one line, where it is wrong."""
    return RemeasureSettings(**vars(parser().parse_args(words)))


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} remeasure",
        description="Measure candidates of a finished study again, on another device or with other settings, and show "
        "how their order by speed and the Pareto front change.",
        epilog=_EXAMPLES,
    )
    add = built.add_argument
    add_run(add)
    trials = (
        "front, near (the front and the next two Pareto ranks), all, or comma-separated trial numbers; baselines are "
        "always measured too (default: front)"
    )
    add("--trials", default="front", metavar="TRIALS", help=trials)
    add_measuring_device(add, default="auto")
    add_batch_size(add, "the study's")
    add_flag(add, "--img-size", "the study's")
    add_flag(add, "--runtime", "each part as in the study")
    add_flag(add, "--measure-seconds", "3", default=3.0)
    add_flag(add, "--threads", "the number of CPUs minus one")
    name = "name of the remeasurement in the study (default: from device, batch size, image size and runtime)"
    add("--name", metavar="NAME", help=name)
    add("--overwrite", action="store_true", help="replace existing measurements of this name (default: keep them)")
    add_flag(add, "--json", "no")
    add_flag(add, "--plot", "none", more=", with both fronts")
    return built
