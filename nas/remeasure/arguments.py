"""Define the settings of ``backbone-nas remeasure`` and its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nas.cli import OneLineParser
from nas.flags import MEASURING_DEVICE, RUN, Picture, parse_as, parser_of, shared
from nas.measure.devices import device_type
from nas.measure.runtime_spec import Arm
from nas.validation import BatchSize, Flag, MeasureSeconds, Pixels, Threads, checked

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


@checked
@dataclass(frozen=True)
class RemeasureSettings:
    """Settings of one ``backbone-nas remeasure`` command; None means as in the study."""

    run: Annotated[Path, RUN]
    trials: Annotated[
        str,
        Flag(
            "front, near (the front and the next two Pareto ranks), all, or comma-separated trial numbers; baselines "
            "are always measured too",
            "TRIALS",
        ),
    ] = "front"
    device: Annotated[str, MEASURING_DEVICE] = "auto"
    batch_size: Annotated[BatchSize | None, shared("batch_size", "the study's")] = None
    img_size: Annotated[Pixels | None, shared("img_size", "the study's")] = None
    runtime: Annotated[str | None, shared("runtime", "each part as in the study")] = None
    measure_seconds: Annotated[MeasureSeconds, shared("measure_seconds")] = 3.0
    threads: Annotated[Threads | None, shared("threads", "the number of CPUs minus one")] = None
    name: Annotated[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")] | None,
        Flag("name of the remeasurement in the study", "NAME", "from device, batch size, image size and runtime"),
    ] = None
    overwrite: Annotated[bool, Flag("replace existing measurements of this name", default="keep them")] = False
    json: Annotated[bool, shared("json")] = False
    plot: Annotated[Picture | None, shared("plot", more=", with both fronts")] = None

    def __post_init__(self) -> None:
        device_type(self.device)
        if self.runtime:
            Arm.parse(self.runtime)


def parser() -> OneLineParser:
    """Build the parser."""
    about = (
        "Measure candidates of a finished study again, on another device or with other settings, and show how their "
        "order by speed and the Pareto front change."
    )
    return parser_of(RemeasureSettings, "remeasure", about, _EXAMPLES)


def parse(words: Sequence[str]) -> RemeasureSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    return parse_as(RemeasureSettings, parser(), words)
