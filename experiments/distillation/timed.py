"""Time the networks of an experiment against one of them, and keep a row of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.distillation.parallel import Row, save_rows
from nas.cli import lock_dir
from nas.measure import Setting
from nas.measure.device_lock import measuring
from nas.measure.environment import device_key
from nas.measure.service import MeasurementService

MEASURE_S, BATCH = 4.0, 16


def time_missing(networks: Mapping[str, Any], reference: str, image_px: int, rows: list[Row], path: Path) -> None:
    """Time each network that no row times yet; on an otherwise idle machine.

    Args:
        networks: Architectures by name, as `nas.measure` takes them: a name or a spec.
        reference: Name of the network that the others' throughput is compared with, in pairs.
        image_px: Side of the images in px.
        rows: The experiment's rows; timings are added.
        path: File of the rows, written after each network.
    """
    setting = Setting("cpu", BATCH, image_px, budget_s=MEASURE_S)
    timed = {row["arch"] for row in rows if "ratio" in row}
    with MeasurementService() as service:
        for name, network in networks.items():
            if name in timed:
                continue
            with measuring(Path(lock_dir()) / device_key("cpu")):
                pair = (network, networks[reference])
                record = service.measure(*pair, setting, name_of_reference=reference).record
            ratio = [round(value, 4) for value in (record.ratio, record.ratio_low, record.ratio_high)]
            row = {"arch": name, "ratio": ratio, "img_s": round(record.throughput_img_s, 1), "verdict": record.verdict}
            rows.append(row)
            save_rows(path, rows)
            print(f"{name}: {record.throughput_img_s:,.0f} img/s, {ratio[0]:.2f}x {reference} {record.verdict}")
