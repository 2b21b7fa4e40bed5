"""The flags of ``nas.search --plan``, a group of their own."""

from __future__ import annotations

import argparse
from typing import Any

from nas.command import picture_file
from nas.config import ConfigError
from nas.modes import flag

PLAN_EXAMPLES = """  python -m nas.search --plan --budget 500 --deadline 8  what it will cost; nothing is run or written
  python -m nas.search --plan --device cuda --space full --teachers am_radio --gpus 64 --assume-tflops 989 --mfu 0.3
"""
# Of the recorded search of experiments/results/recorded_search.json: Ray and two workers' imports, on two idle CPUs.
START_S = 17.0


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Adds the group. Absent flags leave no trace, as all of nas.search's."""
    group = parser.add_argument_group("plan", "what the search would cost, from a short probe on this device")
    add = group.add_argument
    add("--plan", action="store_true", help="print it and end; nothing is written into a run folder")
    gpus = "devices (machines, with --device cpu) to simulate beside 8, 64, 1024"
    add("--gpus", type=int, nargs="+", metavar="N", help=gpus)
    add("--deadline", type=float, metavar="HOURS", help="say how large a budget fits into it")
    add("--probe", type=int, metavar="N", help="random architectures that are trained for a few steps (default 3)")
    add("--assume-tflops", type=float, metavar="X", help="plan for a device of this peak that isn't here: no probe")
    add("--mfu", type=float, metavar="X", help="share of that peak that is reached (default 0.3)")
    measure = "of one measurement on such a device (default: as --measure-seconds, compiling left out)"
    add("--assume-measure-seconds", dest="assume_measure_s", type=float, metavar="S", help=measure)
    start = f"until a worker can begin its first trial (default {START_S:g})"
    add("--start-seconds", dest="start_s", type=float, metavar="S", help=start)
    ask = "of the driver for each new trial, one after the other (default: measured here)"
    add("--ask-seconds", dest="ask_s", type=float, metavar="S", help=ask)
    add("--json", action="store_true", help="one JSON object in place of the tables")
    picture = "PNG, SVG or PDF of the simulated search here, worker by worker; of a replay, of its curves"
    add("--plot", type=picture_file, metavar="FILE", help=picture)


def check_plan(arguments: dict[str, Any]) -> None:
    """Raises ConfigError for a number that cannot be."""
    for key in ("gpus", "probe"):
        given = arguments.get(key, 1)
        if min(given if isinstance(given, list) else [given]) < 1:
            raise ConfigError(f"{flag(key)}: {given}: must be 1 or more")
    for key in ("deadline", "assume_tflops", "assume_measure_s"):
        if not arguments.get(key, 1.0) > 0:
            raise ConfigError(f"{flag(key)}: {arguments[key]}: must be over 0")
    for key in ("start_s", "ask_s"):
        if not arguments.get(key, 0.0) >= 0:
            raise ConfigError(f"{flag(key)}: {arguments[key]}: must be 0 or more")
    if not 0 < arguments.get("mfu", 0.3) <= 1:
        raise ConfigError(f"--mfu: {arguments['mfu']}: must be over 0, up to 1")
    if "workers" in arguments and "assume_tflops" in arguments:
        raise ConfigError("--workers: does not go with --assume-tflops: --gpus are its devices")
    for key in ("mfu", "assume_measure_s"):
        if key in arguments and "assume_tflops" not in arguments:
            raise ConfigError(f"{flag(key)}: only with --assume-tflops: what is here is measured")
