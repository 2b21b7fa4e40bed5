"""Time the architectures of the published table of hybrid backbones on this machine, and compare with the table.

    python -m experiments.hybrid_timings --out timings.json.gz
    python -m experiments.hybrid_timings --out timings.json.gz --device cuda
    python -m experiments.hybrid_timings --out timings.json.gz --runtime onnxruntime --best 150
    python -m experiments.hybrid_timings --out experiments/results/hybrid_timings_a1.json.gz --report

Each is timed as a search times it: interleaved with eradio_pico, for two seconds. Nothing is trained. `--report` prints
how well these timings agree with the table's, what a front is worth by these timings that was chosen by the table's,
and how far the front is ahead of the baselines by each. The table was timed in eager PyTorch on a CPU; another machine,
device or runtime is worth a file of its own. Rows are saved as they come, and existing ones are not made again.

Without --first and --best, all are timed; with both, those of either.

Hardware:  this machine, otherwise idle; half an hour for all
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from experiments.distillation.parallel import load_rows, save_rows
from experiments.hybrid_findings import first_evaluations, has_attention, leads
from experiments.hybrid_table import BASELINES, SPACE, entries, timing
from nas.backend.trial import measure
from nas.machine import lock_dir
from nas.measure.environment import device_key
from nas.measure.service import MeasurementService
from nas.numbers import clock
from nas.replay.hybrid import table_objectives
from nas.replay.hybrid_rows import read_rows
from nas.study.config import SearchConfig
from nas.study.pareto import best_first, front, hypervolume, reference_point
from nas.study.records import TrialRecord, TrialState
from search_space import ArchSpec

Row = Mapping[str, Any]


def chosen_specs(first: int | None, best: int | None) -> list[ArchSpec]:
    """Return the architectures to time: the first ones and the best ones of the table by Pareto rank; both None: all.

    The first three are the baselines.
    """
    specs = [entry.spec for entry in entries()]
    if first is None and best is None:
        return specs
    rows = first_evaluations(read_rows())
    order = best_first([(row["scores"][-1], float(np.log2(row["ratio"][0]))) for row in rows])
    wanted = {rows[i]["arch_id"] for i in order[: best or 0]}
    return [spec for i, spec in enumerate(specs) if i < max(first or 0, len(BASELINES)) or spec.arch_id in wanted]


def time_all(out: Path, device: str, runtime: str, specs: Sequence[ArchSpec]) -> None:
    """Time those of the architectures that the file lacks."""
    torch.set_num_threads(1)
    config = replace(SearchConfig(), space=SPACE, device=device, runtime=runtime)
    rows = load_rows(out)
    done = {row["arch_id"] for row in rows}
    missing = [spec for spec in specs if spec.arch_id not in done]
    began, locks = time.monotonic(), Path(lock_dir()) / device_key(device)
    with MeasurementService(1) as service, tempfile.TemporaryDirectory() as samples:
        for ended, spec in enumerate(missing, start=1):
            record = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING)
            measured = measure(record, config, service, locks, Path(samples))
            rows.append({"arch_id": spec.arch_id, **timing(measured)})
            save_rows(out, rows)
            left = clock((time.monotonic() - began) / ended * (len(missing) - ended))
            print(f"{ended}/{len(missing)} {spec.arch_id} {measured.ratio:.3f} ETA {left}", flush=True)


def report(rows: Sequence[Row], table: Sequence[Row]) -> None:
    """Print how well timings agree with those of the table."""
    here = {row["arch_id"]: row for row in rows}
    both = [row for row in first_evaluations(table) if row["arch_id"] in here]
    timed = [{**row, **here[row["arch_id"]]} for row in both]
    then, now = (np.log2([row["ratio"][0] for row in of]) for of in (both, timed))
    scores = [row["scores"][-1] for row in both]
    difference = now - then
    print(f"{len(both)} architectures; throughput in multiples of eradio_pico's, here divided by the table's\n")
    print("| median | 5th percentile | 95th | Kendall's tau |\n|--:|--:|--:|--:|")
    low, middle, high = 2 ** np.percentile(difference, (5, 50, 95))
    print(f"| {middle:.2f} | {low:.2f} | {high:.2f} | {kendalltau(then, now).statistic:.3f} |\n")
    theirs, ours = np.column_stack([scores, then]), np.column_stack([scores, now])
    chosen, best = front(theirs), front(ours)
    on_both, attending = len({*chosen} & {*best}), sum(has_attention(both[i]) for i in best)
    print(f"models on the front by the table's timings: {len(chosen)}; by these: {len(best)}; on both: {on_both}")
    print(f"with attention on the front by these: {attending}")
    then_img_s, now_img_s = (np.median([r["img_s"] / r["ratio"][0] for r in of]) for of in (both, timed))
    print(f"eradio_pico, images/s: by the table {then_img_s:,.0f}, by these timings {now_img_s:,.0f}\n")
    print("| front by the timings of | hypervolume by those of | share of the best |\n|---|---|--:|")
    print(f"| the table | this machine | {_share(ours, chosen, best):.4f} |")
    print(f"| this machine | the table | {_share(theirs, best, chosen):.4f} |")
    print("\n| baseline | lead of the fastest that scores as high: by the table | by these timings |\n|---|--:|--:|")
    by_these = leads(timed, timed)
    for name, lead in leads(both, both).items():
        print(f"| {name} | {lead:.1f} | {by_these[name]:.1f} |")


def _share(points: NDArray[np.float64], chosen: Sequence[int], best: Sequence[int]) -> float:
    """Return the hypervolume of some points as a share of that of their front."""
    reference = reference_point(table_objectives())
    return hypervolume(points[list(chosen)], reference) / hypervolume(points[list(best)], reference)


def main() -> None:
    """Time what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file of the timings, a .json.gz file")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--runtime", default=SearchConfig().runtime, metavar="WORDS", help="how they run (default: as a search)"
    )
    parser.add_argument("--first", type=int, metavar="N", help="the first N architectures of the table")
    parser.add_argument(
        "--best",
        type=int,
        metavar="N",
        help="the best N by Pareto rank, and the baselines (without --first and --best: all)",
    )
    parser.add_argument("--report", action="store_true", help="only compare the existing timings (default: no)")
    arguments = parser.parse_args()
    if not arguments.report:
        specs = chosen_specs(arguments.first, arguments.best)
        time_all(arguments.out, arguments.device, arguments.runtime, specs)
    report(load_rows(arguments.out), read_rows())


if __name__ == "__main__":
    main()
