"""Settings of ``python -m nas.remeasure``, and its command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.cli import OneLineParser, picture_file

SIZE_MULTIPLE_PX = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

_EXAMPLES = """examples:
  python -m nas.remeasure runs/mine --device cuda:0              the front, as the study measured but on this GPU
  python -m nas.remeasure runs/mine --device cuda:0 --batch 1 --arm reduce-overhead+fp16
  python -m nas.remeasure runs/mine --which near --seconds 10    also those close behind the front, more exactly
  python -m nas.remeasure runs/mine --which all --arm onnxruntime --plot fronts.png
  python -m nas.remeasure runs/mine --which 12,40 --name laptop --json > laptop.json

The study keeps what was measured under its name. The same command continues where it was stopped, another --which adds
to it, and --again measures anew. Before and now are two sets of measurements: they are never mixed in one front.
"""


@dataclass(frozen=True)
class RemeasureSettings:
    """What a user asks of ``nas.remeasure``; None is as the study measured.

    ValueError where a value is impossible.
    """

    run: Path
    which: str = "front"  # of nas.analysis.selection.WHICH, or trial numbers with commas
    device: str = "auto"
    batch: int | None = None  # images a call
    resolution: int | None = None  # px
    arm: str | None = None
    seconds: float = 3.0  # timing budget of each candidate
    threads: int | None = None  # CPU threads of the measuring process; None: one less than CPUs
    name: str | None = None  # None: device, batch, resolution and arm
    again: bool = False
    json: bool = False
    plot: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "resolution", "seconds", "threads"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name}: {value} must be positive")
        if self.resolution and self.resolution % SIZE_MULTIPLE_PX:
            raise ValueError(f"--resolution: {self.resolution} is not a multiple of {SIZE_MULTIPLE_PX}")
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ValueError(f"--name: {self.name!r}: must be up to 100 letters, digits and . _ + -, as laptop-b1")


def parse(words: Sequence[str]) -> RemeasureSettings:
    """Return the settings of a command line; SystemExit(2) or ValueError, one line, where it is wrong."""
    return RemeasureSettings(**vars(_parser().parse_args(words)))


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m nas.remeasure",
        description="Measure candidates of a finished study again, on another device or in another way, and show how "
        "their order by speed and the Pareto front change.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of the study")
    add("--which", default="front", metavar="TRIALS", help="front, near (front and near misses), all, or trial "
        "numbers with commas; the study's baselines are always measured too (default: front)")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--batch", type=int, metavar="N", help="images a call (default: as in the study)")
    add("--resolution", type=int, metavar="PX", help="a multiple of 32 (default: as in the study)")
    add("--arm", metavar="WORDS", help="runtime, precision, layout, form joined by +, as compiled+bf16 (default: what "
        "is not named is as in the study)")  # fmt: skip
    add("--seconds", type=float, default=3.0, metavar="S", help="timing budget of each candidate (default: 3)")
    add("--threads", type=int, metavar="N", help="CPU threads of the measuring process (default: one less than CPUs)")
    add("--name", help="name of this remeasurement in the study (default: device, batch, resolution and runtime)")
    add("--again", action="store_true", help="measure anew what an earlier run of this name has measured")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    add("--plot", type=picture_file, metavar="FILE", help="draw both fronts too: a .png, .svg or .pdf file")
    return parser
