"""Train hybrid backbones to a long horizon on images that hardly repeat, with the score at each rung.

    python -m experiments.horizon_table --workers 2
    python -m experiments.horizon_table --report

A default search passes 29 times over its 3,000 images in 2,700 steps; here 30,000 images are passed over 2.9 times.
First come named networks, each with 3,000 and with 30,000 images: the E-RADIO presets of a search and five models of
the sample report. The baselines of a search, those of timm among them, have `len(OF_BASELINES)` seeds with 30,000
images. Then come 150 architectures of the space laptop, in turn random ones, those around the fronts of
`experiments.hybrid_table`, and deep hybrids in E-RADIO's order: two stages of convolutions, then attention, seven
blocks or more. The first `SECOND` of them have a second seed.

Rows are saved in nas/replay/horizon_table.json.gz as they come, and existing ones are not trained again. Scores do not
depend on what else the machine does.

Hardware:  two cores; some nine hours for each seed, and 10 minutes for the teachers
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch

from backbones import build_network
from experiments.distillation.parallel import load_rows, train_missing
from experiments.hybrid_table import BASELINES, PRECISION, SPACE, Entry, entries
from experiments.sample_front import page_data
from nas.backend.diagnosis import diagnose
from nas.cache import open_study_targets
from nas.distill.rungs import Training, TrainingContext
from nas.machine import cache_root, lock_dir
from nas.measure.counts.totals import network_totals
from nas.measure.environment import device_key
from nas.replay.hybrid_rows import HORIZON
from nas.study.config import SearchConfig
from search_space import SPACES, ArchSpec, NetworkSpec, find_spec

ROWS = HORIZON
RUNGS = (30, 90, 270, 810, 2700)
FEW, MANY = 3_000, 30_000  # images
NAMED_SEED = 7  # of no search
OF_BASELINES = (7, 8, 9, 10, 11)  # seeds
OF_SAMPLE = (19, 23, 202, 137, 9)  # trials of docs/sample_report.html
RANDOM, AROUND, DEEP, SECOND = 60, 60, 30, 50
ATTENTION = ("window", "mr_window", "attention", "single_head", "bn_attention")
EARLY = 8  # of the second seeds, with which the noise is known before the table is whole
MIN_DEEP_BLOCKS = 7  # as eradio_nano


def named() -> list[Entry]:
    """Return the presets of a search, and models of the sample report."""
    trials = {trial["number"]: trial for trial in page_data()["trials"]}
    of_sample = [Entry(f"sample {n}", ArchSpec.from_dict(trials[n]["spec"])) for n in OF_SAMPLE]
    return [*(Entry(name, find_spec(name)[1]) for name in BASELINES), *of_sample]


def table() -> list[Entry]:
    """Return the architectures of the table, kinds in turn."""
    known = entries()
    kinds = [
        list(islice((e for e in known if e.source == "random"), RANDOM)),
        list(islice((e for e in known if e.source.startswith("front")), AROUND)),
        list(islice(deep_hybrids(), DEEP)),
    ]
    listed = [entry for row in zip_longest(*kinds) for entry in row if entry is not None]
    return list({entry.spec.arch_id: entry for entry in listed}.values())


def deep_hybrids() -> Iterator[Entry]:
    """Yield architectures of two stages of convolutions and then attention, of at least MIN_DEEP_BLOCKS blocks."""
    rng = random.Random("deep hybrids")
    while True:
        spec = SPACES[SPACE].sample(rng)
        attends = [stage.block in ATTENTION for stage in spec.stages]
        blocks = sum(stage.depth for stage in spec.stages)
        if attends in ([False, False, True], [False, False, True, True]) and blocks >= MIN_DEEP_BLOCKS:
            yield Entry("deep hybrid", spec)


def jobs() -> list[tuple[str, NetworkSpec, int, int]]:
    """Return the trainings in their order, as the arguments of `train`."""
    listed, default = table(), SearchConfig()
    baselines = [(name, default.spec(name)) for name in default.baselines]
    ordered = [
        *((*entry, NAMED_SEED, images) for entry in named() for images in (MANY, FEW)),
        *((*entry, 1, MANY) for entry in listed[:EARLY]),
        *((*entry, seed, MANY) for seed in OF_BASELINES[:3] for entry in baselines),
        *((*entry, 0, MANY) for entry in listed),
        *((*entry, seed, MANY) for seed in OF_BASELINES for entry in baselines),
        *((*entry, 1, MANY) for entry in listed[EARLY:SECOND]),
    ]
    return list({(job[1].arch_id, *job[2:]): job for job in ordered}.values())


def settings(seed: int, images: int, recipe: Mapping[str, Any] = {}) -> SearchConfig:
    """Return the settings of a search whose rungs reach the horizon, or those of another recipe."""
    default = SearchConfig()
    distill = replace(default.distill, **({"precision": PRECISION, "rung_steps": RUNGS} | dict(recipe)))
    return replace(default, space=SPACE, seed=seed, train_images=images, device="cpu", distill=distill)


def train(source: str, spec: NetworkSpec, seed: int, images: int, recipe: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Train an architecture through all rungs as a search does; return its row."""
    return trained({"source": source, "images": images}, spec, settings(seed, images, recipe))


def trained(row: dict[str, Any], spec: NetworkSpec, config: SearchConfig) -> dict[str, Any]:
    """Train an architecture with one thread; return a row with its costs, and the scores and seconds of each rung."""
    torch.set_num_threads(1)
    counted = network_totals(spec.to_dict(), config.distill.img_size)
    row = row | {
        "arch_id": spec.arch_id, "seed": config.seed, "spec": spec.to_dict(),
        "params": counted.params, "macs": counted.macs, "scores": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        context = TrainingContext(
            config=config,
            targets=open_study_targets(config, cache_root(None)),
            lock_dir=Path(lock_dir()) / device_key("cpu"),
            **{name: Path(scratch) for name in ("weights_dir", "pictures_dir", "checkpoint_dir")},
        )
        torch.manual_seed(config.seed)
        training = Training(spec.arch_id, build_network(spec), context)
        try:
            results = [training.rung(rung) for rung in range(len(config.distill.rung_steps))]
        except Exception as error:
            return row | {"reason": diagnose(error, "cpu")[1]}
        finally:
            training.close()
    rungs = [result for result in results if result is not None]
    heads = ("summary", "spatial")
    row["scores"] = [round(rung.score, 5) for rung in rungs]
    row["teachers"] = [
        {name: [round(of[head], 4) if head in of else None for head in heads] for name, of in rung.teachers.items()}
        for rung in rungs
    ]
    row["metrics"] = {name: round(value, 4) for name, value in rungs[-1].metrics.items()}
    return row | {"seconds": [round(rung.seconds, 2) for rung in rungs]}


def main() -> None:
    """Train what the table lacks, and print how far it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (default: 2)")
    parser.add_argument("--report", action="store_true", help="only count the existing rows (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(ROWS)
    if not arguments.report:
        for images in (FEW, MANY):
            open_study_targets(settings(0, images), cache_root(None))  # once, by all cores
        done = {(row["arch_id"], row["seed"], row["images"]) for row in rows}
        missing = [job for job in jobs() if (job[1].arch_id, *job[2:]) not in done]
        train_missing(train, missing, rows, ROWS, arguments.workers)
    for (images, seed), count in sorted(Counter((row["images"], row["seed"]) for row in rows).items()):
        print(f"{count} rows with {images:,} images and seed {seed}")


if __name__ == "__main__":
    main()
