"""Two searches of the space `full`: 128 px, CIFAR-10 and CamVid images, with the rungs that a pilot proposes.

    python -m experiments.full_space shards RUNS           (writes the images)
    python -m experiments.full_space commands RUNS         (prints the commands of the pilot and of the search)
    python -m experiments.full_space rows RUNS             (saves what the search measured)
    python -m experiments.full_space                       (prints the findings of the saved rows)

A search reads whole shards, so the images of two sources have to be mixed in them. RUNS/data/train.tar gets 2,800
images of CIFAR-10 and the 200 training images of CamVid, RUNS/data/val.tar 500 and 100, in a random order. Classes and
masks are left out: each exists for one part of the images only.

The pilot trains 12 random architectures to the last rung. The search has the rungs that the pilot proposes, 40
candidates, and three baselines: eradio_pico, eradio_nano, and eradio_nano with windows of 4, which suit the larger map.
Rows are saved in experiments/results/full_space.json: specs, sizes and scores, the pilot's seconds, and the searches'
throughputs in multiples of eradio_pico's. The pilot and the first search are of 2026-11-28, when the space had windows
of 7 and 14 at 128 px, too, for which blocks enlarge their maps; the second search has windows of 4 and 8, which fit.

Needs:     ../shared/data for the images
Hardware:  two cores; some 30 minutes for the pilot, 40 for the search
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.distillation.parallel import load_rows, save_rows
from experiments.distillation.teachers import DATA
from experiments.hybrid_findings import agreement, has_attention
from nas.storage.store import read_study
from nas.study.pareto import front
from nas.study.records import TrialState
from nas.study.seed_noise import assumed_noise
from nas.study.timing_doubts import Z_OF_INTERVAL

ROWS = Path(__file__).parent / "results" / "full_space.json"
COUNTS = {"train": {"cifar10": 2800, "camvid": 200}, "val": {"cifar10": 500, "camvid": 100}}
BASELINE = "experiments/archs/128px/eradio_windows_of_4.json"
COMMON = (
    "--space full --img-size 128 --data 'webdataset:{runs}/data/train.tar::{runs}/data/val.tar' --train-images 3000 "
    f"--val-images 600 --rung-steps 30,90,270 --budget 40 --max-gmacs 0.4 "
    f"--reference eradio_pico --baselines eradio_pico,eradio_nano,{BASELINE}"
)
FITTED = "search, fitted windows"  # `of` of its rows
Row = Mapping[str, Any]


def images_of(source: str, split: str) -> Iterator[bytes]:
    """Yield the JPEG files of a source's shards in their order."""
    for shard in sorted((DATA / source).glob(f"{split}-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    yield archive.extractfile(member).read()  # type: ignore[union-attr]


def write_shard(split: str, path: Path) -> None:
    """Write the shard of a split: the first images of each source, shuffled with seed 0."""
    images: list[bytes] = []
    for source, count in COUNTS[split].items():
        images += [image for image, _ in zip(images_of(source, split), range(count), strict=False)]
    with tarfile.open(path, "w") as archive:
        for number, row in enumerate(np.random.default_rng(0).permutation(len(images))):
            entry = tarfile.TarInfo(f"{number:06d}.jpg")
            entry.size = len(images[row])
            archive.addfile(entry, io.BytesIO(images[row]))


def search_rows(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each candidate and baseline of a search that was trained."""
    rows = []
    for trial in read_study(folder).trials:
        if not trial.rungs:
            continue
        clock = trial.measurement
        rows.append({
            "of": FITTED, "number": trial.number, "arch_id": trial.arch_id, "baseline": trial.baseline,
            "state": trial.state, "spec": trial.spec, "params": trial.params, "macs": trial.macs,
            "steps": [rung.steps for rung in trial.rungs], "scores": [round(rung.score, 5) for rung in trial.rungs],
            "ratio": clock and [round(value, 4) for value in (clock.ratio, clock.ratio_low, clock.ratio_high)],
            "img_s": clock and round(clock.throughput_img_s, 1), "verdict": clock and clock.verdict,
        })  # fmt: skip
    return rows


def complete(rows: Sequence[Row], of: str = "search") -> list[Row]:
    """Return the rows of a search that reached the last rung and whose throughput is known, highest score first."""
    done = [row for row in rows if row["of"] == of and row["state"] == TrialState.COMPLETE and row["ratio"]]
    return sorted(done, key=lambda row: -row["scores"][-1])


def report(rows: Sequence[Row]) -> None:
    """Print what the pilot and the searches found."""
    pilot = [row for row in rows if row["of"] == "pilot"]
    taus = agreement(np.array([row["scores"] for row in pilot]))
    print(f"pilot: {len(pilot)} models; Kendall's tau of each rung with the last one (95 %)")
    for steps, tau in zip(pilot[0]["steps"], taus, strict=False):
        print("  {:>4} steps: {:.2f} ({:.2f} to {:.2f})".format(steps, *tau))
    for of in ("search", FITTED):
        _report_search(of, [row for row in rows if row["of"] == of])


def _report_search(of: str, search: Sequence[Row]) -> None:
    done = complete(search, of)
    steps = sum(row["steps"][-1] for row in search if not row["baseline"])
    print(f"\n{of}: {sum(not row['baseline'] for row in search)} candidates, {steps:,} training steps")
    points = [(row["scores"][-1], row["ratio"][0]) for row in done]
    best = set(front(points))
    print(f"front: {len(best)} of {len(done)} that were trained to the end, * on it")
    print("|   | network | blocks | stem | MMACs | M params | score | throughput |\n|---|---|---|---|--:|--:|--:|--:|")
    for i, row in enumerate(done):
        print(f"| {'*' if i in best else ' '} | {name_of(row)} | {_cells(row)} |")
    baselines, candidates = ([row for row in done if bool(row["baseline"]) == kind] for kind in (True, False))
    lucky = Z_OF_INTERVAL * 2**0.5 * assumed_noise("full", max(row["steps"][-1] for row in search)).deviation
    for baseline in baselines:
        speeds = [_fastest(candidates, baseline, lead) for lead in (0.0, lucky)]
        words = f"{speeds[0]}; of those that lead by {lucky:.3f}, which two seeds may differ by: {speeds[1]}"
        print(f"fastest candidate that scores at least as high as {name_of(baseline)}: {words}")
    attends = [i for i in best if has_attention(done[i])]
    print(
        f"with attention: {len(attends)} of the front, {sum(map(has_attention, search))} of the {len(search)} trained"
    )


def _fastest(candidates: Sequence[Row], baseline: Row, lead: float) -> str:
    ahead = [row["ratio"][0] for row in candidates if row["scores"][-1] >= baseline["scores"][-1] + lead]
    return f"{max(ahead) / baseline['ratio'][0]:.2f} times as fast" if ahead else "none"


def name_of(row: Row) -> str:
    """Return the name to show of a trial of the search."""
    return row["baseline"] if row["baseline"] else f"trial {row['number']}"


def _cells(row: Row) -> str:
    blocks = " ".join(f"{stage['block']} {stage['depth']} x {stage['width']}" for stage in row["spec"]["stages"])
    sizes = f"{row['macs'] / 1e6:.0f} | {row['params'] / 1e6:.2f}"
    ratio = "{:.2f}x ({:.2f} to {:.2f})".format(*row["ratio"])
    return f"{blocks} | {row['spec'].get('stem', 'conv')} | {sizes} | {row['scores'][-1]:.3f} | {ratio}"


def main() -> None:
    """Do what the first word says, or print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("shards", "commands", "rows"), help="(default: print the findings)")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="folder (default: runs)")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.part == "shards":
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for split in COUNTS:
            write_shard(split, folder / "data" / f"{split}.tar")
    elif arguments.part == "commands":
        flags = COMMON.format(runs=folder)
        print(f"python -m nas.plan --pilot {flags} --run {folder}/pilot")
        print(f"python -m nas.search {flags} --seed 0 --measure-seconds 6 --run {folder}/search")
    else:
        if arguments.part == "rows":
            saved = [row for row in load_rows(ROWS) if row["of"] != FITTED]
            save_rows(ROWS, [*saved, *search_rows(folder / "search")])
        report(load_rows(ROWS))


if __name__ == "__main__":
    main()
