"""The arguments of ``nas.plan``: the search's own settings, and what to plan for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.cli import OneLineParser, picture_file
from nas.search.arguments import LIMITS_HELP, add_settings, default_workers, new_config
from nas.study.config import ConfigError, SearchConfig
from nas.study.limits import add_limit_flags

_EXAMPLES = """examples:
  python -m nas.plan --budget 500 --deadline 8           what the search will cost; nothing is run or written
  python -m nas.plan --max-params 1e6 --plot plan.svg    and a picture of it, worker by worker
  python -m nas.plan --device cuda --space full --teachers am_radio --gpus 64 --assume-tflops 989 --mfu 0.3
  python -m nas.search --budget 500 --plan               the same as nas.plan, from the command of the search
"""
# Of the recorded search of experiments/results/recorded_search.json: Ray and two workers' imports, on two idle CPUs.
START_S = 17.0
MFU = 0.3


@dataclass(frozen=True)
class PlanSettings:
    """A search and what to plan for.

    Args:
        workers: trials at a time on this machine; of an assumed device, `gpus` says how many there are.
        weights: files of teachers' weights, by teacher.
        cache: folder of images and teacher outputs; None for the user's own.
        gpus: devices to simulate in addition to the usual clusters.
        deadline_h: hours for which the largest budget is sought.
        probe: random architectures that are probed; None for the usual number.
        assume_tflops: peak of a device that is not here; None for this machine.
        mfu: share of that peak that is reached; None for `MFU`.
        assume_measure_s: seconds of one measurement there; None for the search's own.
        start_s: seconds until a worker can begin its first trial.
        ask_s: seconds of the driver for a new trial; None to measure it.
        json: whether one JSON object is printed in place of the tables.
        plot: picture of the simulated search.

    Raises:
        ConfigError: a number is out of its range, or would be ignored.
    """

    config: SearchConfig
    workers: int
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache: str | None = None
    gpus: tuple[int, ...] = ()
    deadline_h: float | None = None
    probe: int | None = None
    assume_tflops: float | None = None
    mfu: float | None = None
    assume_measure_s: float | None = None
    start_s: float = START_S
    ask_s: float | None = None
    json: bool = False
    plot: Path | None = None

    def __post_init__(self) -> None:
        for flag, count in (("--workers", self.workers), ("--probe", self.probe), *(("--gpus", n) for n in self.gpus)):
            if count is not None and count < 1:
                raise ConfigError(f"{flag}: {count}: must be 1 or more")
        measure = ("--assume-measure-seconds", self.assume_measure_s)
        for flag, value in (("--deadline", self.deadline_h), ("--assume-tflops", self.assume_tflops), measure):
            if value is not None and not value > 0:
                raise ConfigError(f"{flag}: {value}: must be over 0")
        for flag, value in (("--start-seconds", self.start_s), ("--ask-seconds", self.ask_s)):
            if value is not None and not value >= 0:
                raise ConfigError(f"{flag}: {value}: must be 0 or more")
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise ConfigError(f"--mfu: {self.mfu}: must be over 0, up to 1")
        for flag, value in (("--mfu", self.mfu), measure):
            if value is not None and self.here:
                raise ConfigError(f"{flag}: only with --assume-tflops: what is here is measured")

    @property
    def here(self) -> bool:
        """Whether the plan is for this machine's device."""
        return self.assume_tflops is None


def plan_settings(argv: Sequence[str] | None = None) -> PlanSettings:
    """Parse a command line. SystemExit after one line, or ConfigError, where it cannot be."""
    given: dict[str, Any] = vars(parser().parse_args(argv))
    tflops = given.get("assume_tflops")
    if tflops is not None and "workers" in given:
        raise ConfigError("--workers: does not go with --assume-tflops: --gpus are its devices")
    config = new_config(given, require_device=tflops is None)
    gpus = tuple(given.get("gpus", ()))
    if tflops is None:
        workers = given["workers"] if "workers" in given else default_workers(config)
    else:
        workers = max(1, (gpus[0] if gpus else 1) // config.distill.ranks)
    own = ("cache", "deadline_h", "probe", "assume_tflops", "mfu", "assume_measure_s", "start_s", "ask_s", "json")
    plot = Path(given["plot"]) if "plot" in given else None
    settings = {name: given[name] for name in own if name in given}
    return PlanSettings(config, workers, given.get("teacher", {}), gpus=gpus, plot=plot, **settings)


def parser() -> argparse.ArgumentParser:
    """Return the parser. An absent flag leaves no trace in the namespace."""
    made = OneLineParser(
        prog="python -m nas.plan",
        description="Says what a search would cost: a short probe on this device, then the search simulated.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add_plan(made.add_argument_group("plan", "what to plan for").add_argument)
    search = made.add_argument_group("search", "settings of the search, as nas.search takes them")
    add_settings(search.add_argument)
    add_limit_flags(made, LIMITS_HELP)
    search.add_argument("--workers", type=int, metavar="N", help="trials at a time (default: one a CPU or GPU)")
    return made


def add_plan(add: Any) -> None:
    """Add the flags of the plan itself."""
    gpus = "devices (machines, with --device cpu) to simulate in addition to 8, 64 and 1024"
    add("--gpus", type=int, nargs="+", metavar="N", help=gpus)
    add("--deadline", dest="deadline_h", type=float, metavar="HOURS", help="say how large a budget fits into it")
    probe = "random architectures that are probed (default: 3 trained for a few steps here, 64 counted for elsewhere)"
    add("--probe", type=int, metavar="N", help=probe)
    add("--assume-tflops", type=float, metavar="X", help="plan for a device of this peak that is not here: no probe")
    add("--mfu", type=float, metavar="X", help=f"share of that peak that is reached (default: {MFU})")
    measure = "seconds of one measurement on such a device (default: as --measure-seconds, compiling left out)"
    add("--assume-measure-seconds", dest="assume_measure_s", type=float, metavar="S", help=measure)
    start = f"seconds until a worker can begin its first trial (default: {START_S:g})"
    add("--start-seconds", dest="start_s", type=float, metavar="S", help=start)
    ask = "seconds of the driver for each new trial, one after the other (default: measured here)"
    add("--ask-seconds", dest="ask_s", type=float, metavar="S", help=ask)
    add("--json", action="store_true", help="print one JSON object in place of the tables")
    picture = "draw the simulated search worker by worker, as PNG, SVG or PDF"
    add("--plot", type=picture_file, metavar="FILE", help=picture)
