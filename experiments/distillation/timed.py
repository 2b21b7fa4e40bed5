"""Time the networks of an experiment against one of them, and keep a row of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from experiments.distillation.parallel import Row, save_rows
from nas.machine import lock_dir
from nas.measure import Measured, Setting, measure_pair
from nas.measure.device_lock import measuring
from nas.measure.environment import device_key
from nas.measure.forkserver import ForkServer
from nas.measure.service import default_limit_s

MEASURE_S, BATCH = 4.0, 16
Build = Callable[[], nn.Module]  # can be pickled


def time_missing(networks: Mapping[str, Build], reference: str, image_px: int, rows: list[Row], path: Path) -> None:
    """Time each network that no row times yet; on an otherwise idle machine.

    Args:
        networks: Builds each network by its name, with random weights.
        reference: Name of the network that the others' throughput is compared with, in pairs.
        image_px: Side of the images in px.
        rows: The experiment's rows; timings are added.
        path: File of the rows, written after each network.
    """
    setting = Setting("cpu", BATCH, image_px, budget_s=MEASURE_S)
    timed = {row["arch"] for row in rows if "ratio" in row}
    with ForkServer([__name__]) as server:
        for name, build in networks.items():
            if name in timed:
                continue
            with measuring(Path(lock_dir()) / device_key("cpu")):
                record = server.run(
                    _measure, build, networks[reference], setting, reference, limit_s=default_limit_s(setting)
                ).record
            ratio = [round(value, 4) for value in (record.ratio, record.ratio_low, record.ratio_high)]
            row = {"arch": name, "ratio": ratio, "img_s": round(record.throughput_img_s, 1), "verdict": record.verdict}
            rows.append(row)
            save_rows(path, rows)
            print(f"{name}: {record.throughput_img_s:,.0f} img/s, {ratio[0]:.2f}x {reference} {record.verdict}")


def _measure(candidate: Build, reference: Build, setting: Setting, name_of_reference: str) -> Measured:
    """Measure a pair in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(setting.seed)
    return measure_pair(candidate(), reference(), setting, name_of_reference=name_of_reference)
