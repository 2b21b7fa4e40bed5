"""The flags of ``nas.search --bench``, a group of their own."""

from __future__ import annotations

import argparse
from typing import Any

from nas.config import ConfigError
from nas.modes import flag
from nas.replay.names import BENCHES, DATASETS, KNOWN_BY_DEFAULT, SOURCES

BENCH_EXAMPLES = """  python -m nas.search --bench nasbench201 --bench-latency gpu.csv:titan_rtx_256_ms    a replay
"""


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Adds the group. Absent flags leave no trace, as all of nas.search's."""
    group = parser.add_argument_group("replay", "the same search on published results: nothing is trained or measured")
    add = group.add_argument
    add("--bench", metavar="NAME", help=f"{', '.join(BENCHES)}; needs pip install 'backbone-nas[bench]'")
    add("--bench-dataset", metavar="NAME", help=f"{', '.join(DATASETS)} (default cifar10)")
    add("--bench-latency", metavar="FILE.csv:COLUMN", help="latencies in ms, with a column 'arch' of the cells' names")
    add("--bench-proxies", metavar="FILE.csv", help="training-free proxies, with a column 'arch'")
    known = f"what the known-cost sampler is told: {', '.join(SOURCES)} (default {','.join(KNOWN_BY_DEFAULT)})"
    add("--bench-knowledge", type=_names, metavar="A,B", help=known)
    rungs = "rungs of successive halving; values below the last are EMULATED, for none are published (default 1)"
    add("--bench-rungs", type=int, metavar="N", help=rungs)
    add("--seeds", type=int, metavar="N", help="searches of each sampler (default 20)")


def check_bench(arguments: dict[str, Any]) -> None:
    """Raises ConfigError for what cannot be."""
    if "bench" not in arguments:
        return
    if arguments["bench"] not in BENCHES:
        raise ConfigError(f"--bench: {arguments['bench']!r}: choose one of {', '.join(BENCHES)}")
    if "bench_latency" not in arguments:
        raise ConfigError("--bench: needs --bench-latency FILE.csv:COLUMN")
    for key in ("bench_rungs", "seeds", "budget"):
        if arguments.get(key, 1) < 1:
            raise ConfigError(f"{flag(key)}: {arguments[key]}: must be 1 or more")
    if unknown := [name for name in arguments.get("bench_knowledge", ()) if name not in SOURCES]:
        raise ConfigError(f"--bench-knowledge: {unknown[0]!r}: choose from {', '.join(SOURCES)}")
