"""Record what the program does: `python -m tests.goldens.record` for all cases, or with the names of some."""

from __future__ import annotations

import gzip
import json
import os
import re
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
OF_ONE_CPU = ("training", "searches", "proposals")  # rounding decides which architecture comes next


def kernels() -> str:
    """Return what decides the rounding: the CPU's name and the instructions that PyTorch uses, as a file's name."""
    bf16 = " bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ""
    amx = " amx" if torch.cpu._is_amx_tile_supported() else ""
    return re.sub(r"\W+", "-", f"{cpu_model()} {torch.backends.cpu.get_cpu_capability()}{bf16}{amx}".lower())


def found(name: str, folder: Path) -> Any:
    """Return what the program does now, as it is read back from a file; `folder` is empty, and the current one."""
    return json.loads(json.dumps(without_prose(CASES[name](folder))))


def recorded(name: str) -> Any:
    """Return the golden of a case, with the CPU and the version of torch that made it; empty if this CPU made none."""
    file = _file(name)
    return json.loads(gzip.decompress(file.read_bytes())) if file.exists() else {"cpu": "other CPUs", "torch": ""}


def record(name: str) -> None:
    """Write the golden of a case."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        golden = {"cpu": cpu_model(), "torch": torch.__version__, "found": found(name, Path(folder))}
        os.chdir(FOLDER)
    _file(name).write_bytes(gzip.compress(json.dumps(golden).encode(), mtime=0))


def _file(name: str) -> Path:
    return FOLDER / (f"{name}.{kernels()}.json.gz" if name in OF_ONE_CPU else f"{name}.json.gz")


if __name__ == "__main__":
    os.environ["BACKBONE_NAS_CACHE"] = "cache"
    for each in sys.argv[1:] or CASES:
        record(each)
