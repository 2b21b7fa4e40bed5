"""Record what the program does: `python -m tests.goldens.record` for all cases, or with the names of some."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.measure.environment import cpu_model
from tests.goldens import commands, numbers
from tests.goldens.plain import without_prose

FOLDER = Path(__file__).parent
CASES: dict[str, Callable[[Path], Any]] = {
    "command_lines": commands.command_lines,
    "mistakes": commands.mistakes,
    "costs": numbers.costs,
    "statistics": numbers.statistics,
    "training": numbers.training,
    "searches": numbers.searches,
    "proposals": numbers.proposals,
    "decisions": numbers.decisions,
    "races": numbers.races,
    "reports": numbers.reports,
}


def found(name: str, folder: Path) -> Any:
    """Return what the program does now, as it is read back from a file; `folder` is empty, and the current one."""
    return json.loads(json.dumps(without_prose(CASES[name](folder))))


def recorded(name: str) -> Any:
    """Return the golden of a case, with the CPU and the version of torch that made it."""
    return json.loads(gzip.decompress(_file(name).read_bytes()))


def record(name: str) -> None:
    """Write the golden of a case."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        golden = {"cpu": cpu_model(), "torch": torch.__version__, "found": found(name, Path(folder))}
        os.chdir(FOLDER)
    _file(name).write_bytes(gzip.compress(json.dumps(golden).encode(), mtime=0))


def _file(name: str) -> Path:
    return FOLDER / f"{name}.json.gz"


if __name__ == "__main__":
    os.environ["BACKBONE_NAS_CACHE"] = "cache"
    for each in sys.argv[1:] or CASES:
        record(each)
