"""Time E-RADIO's family and the networks that its paper compares with, on one card.

    python -m experiments.benchmarks.families             a card: batch 128, 224 px, bf16, eager and compiled
    python -m experiments.benchmarks.families --device cpu --batch-size 2 --runtimes eager --nets eradio_xt
    python -m experiments.benchmarks.families --report --results FILE

Each network is interleaved with ResNet-50 in the same runtime and precision, in a separate process; compiling takes
most of the time, about a minute per network. Rows and raw samples go to experiments/results/families_CARD.json;
existing rows are not measured again. It has not been run on a card yet.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import torch

from nas.cli import lock_dir
from nas.measure import Arm, Setting, torch_device
from nas.measure.device_lock import measuring
from nas.measure.environment import device_key, device_name, environment
from nas.measure.service import MeasurementService

REFERENCE = "timm:resnet50"
NETS = (
    *("eradio_l", "eradio_b", "eradio_s", "eradio_t", "eradio_xt", "eradio_xxxtiny"),
    *("timm:resnet50", "timm:convnext_base", "timm:swinv2_small_window8_256", "timm:maxvit_base_tf_224"),
    "timm:vit_base_patch16_224",
)
RUNTIMES = "eager+bf16,compiled+bf16"


def measured(net: str, arm: str, args: argparse.Namespace, service: MeasurementService) -> dict[str, Any]:
    """Return one row; a network that cannot be measured has a reason instead of a measurement."""
    setting = Setting(args.device, args.batch_size, args.img_size, Arm.parse(arm), budget_s=args.measure_seconds)
    row = {"net": net, "arm": str(setting.arm), "batch": args.batch_size, "resolution": args.img_size}
    try:
        with measuring(lock_dir() / device_key(args.device)):
            pair = service.measure(net, REFERENCE, setting, name_of_reference=REFERENCE)
    except Exception as error:  # networks reject sizes with many kinds of errors
        return {**row, "reason": f"{type(error).__name__}: {error}"[:500]}
    return {**row, "measurement": pair.record.to_dict(), "samples": pair.samples}


def report(rows: list[dict[str, Any]]) -> None:
    """Print one line per row."""
    columns = "network | runtime | img/s | x resnet50 [95 %] | ms at batch 1 | MiB tensors / card | mJ/image"
    print(columns + " | prepared in s | verdict")
    for row in rows:
        m = row.get("measurement")
        if m is None:
            print(row["net"], row["arm"], row["reason"], sep=" | ")
            continue
        interval = f"{m['ratio']:.3f} [{m['ratio_low']:.3f}, {m['ratio_high']:.3f}]"
        energy = "-" if m["energy_j"] is None else f"{m['energy_j'] * 1e3:.1f}"
        memory = " / ".join("-" if x is None else f"{x:.0f}" for x in (m["peak_memory_mib"], m["driver_memory_mib"]))
        numbers = (
            f"{m['throughput_img_s']:.1f}",
            interval,
            f"{m['latency_ms']:.2f}",
            memory,
            energy,
            f"{m['compile_s']:.0f}",
        )
        print(row["net"], row["arm"], *numbers, "; ".join((m["verdict"], *m["notes"])), sep=" | ")


def main() -> None:
    """Measure the missing rows and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--runtimes", default=RUNTIMES)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--measure-seconds", type=float, default=5.0)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--report", action="store_true", help="only print existing rows")
    args = parser.parse_args()
    args.device = str(torch_device(args.device))
    card = re.sub(r"[^a-z0-9]+", "-", device_name(torch.device(args.device)).lower())
    path = args.results or Path(__file__).parents[1] / "results" / f"families_{card}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(row["net"], row["arm"], row["batch"], row["resolution"]) for row in rows}
    todo = [(net, arm) for arm in args.runtimes.split(",") for net in args.nets.split(",")]
    todo = [job for job in todo if (job[0], str(Arm.parse(job[1])), args.batch_size, args.img_size) not in done]
    began = time.monotonic()
    with MeasurementService() as service:
        for number, (net, arm) in enumerate(() if args.report else todo, start=1):
            rows.append(measured(net, arm, args, service))
            path.write_text(json.dumps({"environment": environment(args.device), "rows": rows}))
            left_s = (time.monotonic() - began) / number * (len(todo) - number)
            print(f"{net}, {arm}: {number} of {len(todo)}; {left_s / 60:.0f} min left", flush=True)
    report(rows)


if __name__ == "__main__":
    main()
