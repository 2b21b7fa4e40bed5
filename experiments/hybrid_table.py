"""Make a table of hybrid backbones: every architecture is trained through all rungs and timed, none is early-stopped.

    python -m experiments.hybrid_table --workers 2
    python -m experiments.hybrid_table --report

The table has random architectures of the space laptop, the members and mutants of three fronts that searches of that
space found (experiments/archs/fronts/laptop.json), and the baselines of a search. Each is evaluated exactly as a
search evaluates a candidate that it never stops: counted, timed against eradio_pico in turn, trained on the built-in
images and teachers, scored at each rung. The first `SECOND` have a second training and timing with another seed, the
first `THIRD` of them a third. Kinds of architectures alternate in the order, and a further seed comes `LAG`
architectures after the one before, so that an unfinished table has its share of each.

Rows are saved in nas/replay/hybrid_table.json.gz, the published table, as they come, and existing ones are not made
again; what they show, `python -m experiments.hybrid_findings` prints. Scores do not depend on what else the machine
does; timings do, so run it alone.

Hardware:  two idle cores; some two hours
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.distillation.parallel import load_rows, train_missing
from nas.backend.trial import TrialContext, run_trial
from nas.cache import open_study_targets
from nas.distill.rungs import TrainingContext
from nas.machine import cache_root, lock_dir
from nas.measure.environment import device_key
from nas.measure.service import MeasurementService
from nas.replay.hybrid_rows import TABLE
from nas.study.config import SearchConfig
from nas.study.records import Measurement, TrialRecord, TrialState
from search_space import SPACES, ArchSpec, NetworkSpec, find_spec

FRONTS = Path(__file__).parent / "archs" / "fronts" / "laptop.json"
SPACE = "laptop"
RANDOM, OF_A_FRONT = 330, 90  # architectures
SECOND, THIRD = 100, 30  # of them with a second seed, and with a third
LAG = 200
PRECISION = "bf16"  # as default searches train where bf16 is the faster; fixed, so that all rows are alike
BASELINES = SPACES["micro"].baselines  # our presets of both spaces


class Entry(NamedTuple):
    """An architecture of the table, and where it comes from."""

    source: str
    spec: ArchSpec


def entries() -> list[Entry]:
    """Return the distinct architectures in their order: baselines, then one of each source in turn."""
    fronts: Mapping[str, Sequence[dict[str, Any]]] = json.loads(FRONTS.read_text())
    sources = [
        _random(),
        *(_around(name, [ArchSpec.from_dict(spec) for spec in specs]) for name, specs in fronts.items()),
    ]
    baselines = (Entry("baseline", find_spec(name)[1]) for name in BASELINES)
    in_turn = (entry for row in zip_longest(*sources) for entry in row if entry is not None)
    distinct: dict[str, Entry] = {}
    for entry in chain(baselines, in_turn):
        distinct.setdefault(entry.spec.arch_id, entry)
    return list(distinct.values())


def _random() -> Iterator[Entry]:
    for seed in range(RANDOM):
        yield Entry("random", SPACES[SPACE].sample(random.Random(seed)))


def _around(name: str, members: Sequence[ArchSpec]) -> Iterator[Entry]:
    """Yield the members of a front, and mutants of them up to `OF_A_FRONT`."""
    seen = {spec.arch_id: spec for spec in members}
    rng = random.Random(name)
    while len(seen) < OF_A_FRONT:
        mutant = SPACES[SPACE].mutate(rng.choice(members), rng)
        seen.setdefault(mutant.arch_id, mutant)
    yield from (Entry(f"front of {name}", spec) for spec in seen.values())


def jobs() -> list[tuple[str, ArchSpec, int]]:
    """Return the evaluations in their order, as the arguments of `evaluate`."""
    listed = entries()
    counts = (len(listed), SECOND, THIRD)
    order = [(i + LAG * seed, seed, i) for seed, count in enumerate(counts) for i in range(count)]
    return [(*listed[i], seed) for _, seed, i in sorted(order)]


def evaluate(source: str, spec: NetworkSpec, seed: int) -> dict[str, Any]:
    """Evaluate one architecture as a search does; return its row."""
    torch.set_num_threads(1)
    default = SearchConfig()
    distill = replace(default.distill, precision=PRECISION)
    config = replace(default, space=SPACE, seed=seed, device="cpu", distill=distill)
    record = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING)
    with tempfile.TemporaryDirectory() as scratch:
        training = TrainingContext(
            config=config,
            targets=open_study_targets(config, cache_root(None)),
            lock_dir=Path(lock_dir()) / device_key("cpu"),
            **{name: Path(scratch) for name in ("weights_dir", "pictures_dir", "checkpoint_dir")},
        )
        *_, last = run_trial(record, TrialContext(training, _service(), Path(scratch)))
    return _row(source, seed, last)


@cache
def _service() -> MeasurementService:
    """Return this process's only one: a measurement that starts another would hold the device for its imports."""
    return MeasurementService(1)


def _row(source: str, seed: int, record: TrialRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "source": source, "arch_id": record.arch_id, "seed": seed, "spec": record.spec, "state": str(record.state),
        "macs": record.macs, "params": record.params, "scores": [round(rung.score, 5) for rung in record.rungs],
    }  # fmt: skip
    if record.reason is not None:
        row["reason"] = record.reason
    if record.measurement is not None:
        row |= timing(record.measurement)
    if record.rungs:
        heads = ("summary", "spatial")
        row["teachers"] = [
            {name: [round(of[head], 4) if head in of else None for head in heads] for name, of in rung.teachers.items()}
            for rung in record.rungs
        ]
        row["metrics"] = {name: round(value, 4) for name, value in record.rungs[-1].metrics.items()}
        row["seconds"] = [round(rung.seconds, 2) for rung in record.rungs]
    return row


def timing(timed: Measurement) -> dict[str, Any]:
    """Return a row's columns about throughput and latency."""
    return {
        "ratio": [round(ratio, 4) for ratio in (timed.ratio, timed.ratio_low, timed.ratio_high)],
        "img_s": round(timed.throughput_img_s, 1),
        "latency_ms": round(timed.latency_ms, 4),
        "verdict": timed.verdict,
        "stages_ms": {name: round(1e3 * seconds, 3) for name, seconds in timed.stages_s.items()},
    }


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print the number of rows by source and seed."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    print("| source | seed | rows | complete | timed to ±1 % |\n|---|--:|--:|--:|--:|")
    for source in sources:
        for seed in (0, 1, 2):
            of = [row for row in rows if (row["source"], row["seed"]) == (source, seed)]
            if of:
                complete = sum(row["state"] == TrialState.COMPLETE for row in of)
                print(f"| {source} | {seed} | {len(of)} | {complete} | {sum(r.get('verdict') == 'ok' for r in of)} |")


def main() -> None:
    """Evaluate what the table lacks, and print how far it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="evaluations at a time (default: 2)")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N evaluations (default: all)")
    parser.add_argument("--report", action="store_true", help="only count the existing rows (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(TABLE)
    if not arguments.report:
        done = {(row["arch_id"], row["seed"]) for row in rows}
        missing = [job for job in jobs()[: arguments.first] if (job[1].arch_id, job[2]) not in done]
        train_missing(evaluate, missing, rows, TABLE, arguments.workers)
    report(rows)


if __name__ == "__main__":
    main()
