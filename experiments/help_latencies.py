"""Convert HELP's latencies of NAS-Bench-201 to the CSV file that a replay reads.

    git clone --depth 1 https://github.com/HayeonLee/HELP
    python -m experiments.help_latencies HELP/data/nasbench201 --out gpu_latency.csv

HELP (Lee et al., NeurIPS 2021, arXiv 2106.08630; MIT license) publishes the latencies in ms of all 15,625 cells, a file
for each device and batch: ``latency/DEVICE_BATCH.pt``, in the order of ``str_arch2idx.pt``. The files are read without
unpickling anything but tensors and plain data. The two columns behind this project's published numbers are compared
with their checksums.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nas.replay.nasbench201 import CELLS

INDEX_FILE = "str_arch2idx.pt"
# sha256 of the lines "CELL,LATENCY", latencies with four decimals, sorted by cell.
PUBLISHED = {
    "titan_rtx_256_ms": "aca58d87aa718a6c92154c2129d625dec7d743fcbef36130050b3f52d08bdd77",
    "1080ti_32_ms": "867a586ec24aeebb19c2f39dd0580faf8fbffd1fb6059a05a145bebdb9e776f4",
}


def load(path: Path) -> Any:
    """Return the content of a PyTorch file; no other objects than tensors and plain data are created."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SystemExit(f"error: {path}: no such file; expected HELP's folder data/nasbench201") from None


def in_order(latencies: Any, index: Mapping[str, int]) -> dict[str, float]:
    """Return the latency of each cell in ms.

    Args:
        latencies: A sequence or tensor in the order of `index`, or a mapping from cells or their positions.
        index: Position of each cell.
    """
    if isinstance(latencies, Mapping):
        by_cell = next(iter(latencies)) in index
        return {cell: float(latencies[cell if by_cell else int(at)]) for cell, at in index.items()}
    return {cell: float(latencies[int(at)]) for cell, at in index.items()}


def checksum(latencies: Mapping[str, float]) -> str:
    """Return the sha256 of the latencies, rounded to four decimals, in the order of the cells' names."""
    lines = "".join(f"{cell},{latencies[cell]:.4f}\n" for cell in sorted(latencies))
    return hashlib.sha256(lines.encode()).hexdigest()


def convert(folder: Path, devices: Sequence[str], out: Path) -> dict[str, str]:
    """Write the CSV file and return the checksum of each column.

    Raises:
        SystemExit: A file is missing, or a cell has no latency.
    """
    index = load(folder / INDEX_FILE)
    cells = [cell.arch_id for cell in CELLS.architectures]
    if missing := [cell for cell in cells if cell not in index]:
        raise SystemExit(f"error: {folder / INDEX_FILE}: lacks {len(missing)} cells, the first is {missing[0]}")
    columns = {f"{name}_ms": in_order(load(folder / "latency" / f"{name}.pt"), index) for name in devices}
    table = pd.DataFrame({name: [column[cell] for cell in cells] for name, column in columns.items()}, index=cells)
    table.round(4).to_csv(out, index_label="arch")
    return {name: checksum({cell: column[cell] for cell in cells}) for name, column in columns.items()}


def main() -> None:
    """Convert, and tell whether the columns are those of the published numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="HELP's folder data/nasbench201")
    columns = "comma-separated names of files in DIR/latency, without .pt (default: titan_rtx_256,1080ti_32)"
    parser.add_argument("--columns", default="titan_rtx_256,1080ti_32", metavar="A,B", help=columns)
    parser.add_argument("--out", type=Path, default=Path("gpu_latency.csv"), help="(default: gpu_latency.csv)")
    options = parser.parse_args()
    for name, digest in convert(options.folder, options.columns.split(","), options.out).items():
        same = {True: "equal to", False: "DIFFERENT from"}[digest == PUBLISHED[name]] if name in PUBLISHED else "not in"
        print(f"{name}: {same} the published numbers' data (sha256 {digest[:16]})")
    print(options.out)


if __name__ == "__main__":
    main()
