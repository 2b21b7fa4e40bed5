"""Studies that are hard on a report's numbers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

from nas.records import Measurement, RungResult, Study, TrialRecord, TrialState
from search_space import SPACES
from tests.reports import synthetic

RECORDED = Path(__file__).parents[2] / "experiments/results/recorded_search.json"


def recorded() -> Study:
    """The recorded search of 200: its qualities, speeds and seconds; what was not recorded (specs, ...) is invented."""
    told = json.loads(RECORDED.read_text())
    rng = random.Random(0)
    trials = []
    for number, row in enumerate(told["trials"]):
        speed = 2 ** row["points"][0][1]
        spec = SPACES["micro"].sample(rng)
        names = synthetic.BASELINES
        rungs = tuple(
            RungResult(i, (30, 90, 270)[i], quality, {"hed": {"spatial": quality}}, {}, {}, row["rung_s"][i])
            for i, (quality, _) in enumerate(row["points"])
        )
        measured = replace(
            synthetic.measurement(rng, speed),
            seconds=row["measure_s"],
            ratio_low=speed * 0.985,
            ratio_high=speed * 1.01,
        )
        trials.append(
            TrialRecord(
                number, spec.arch_id, spec.to_dict(),
                TrialState.COMPLETE if len(rungs) == 3 else TrialState.STOPPED,
                names[number] if row["baseline"] else None, measurement=measured, rungs=rungs,
                finished_s=row["finished_s"],
            )
        )  # fmt: skip
    ledger = {"measure": sum(r["measure_s"] for r in told["trials"])}
    ledger |= {f"train {i}": sum(r["rung_s"][i] for r in told["trials"] if len(r["rung_s"]) > i) for i in range(3)}
    info = replace(
        synthetic.info("recorded", 200), rung_steps=(30, 90, 270), ledger=ledger, chance={}, teacher_facts={}
    )
    return Study(info, tuple(trials))


def tied(seed: int) -> Study:
    """Rounded to a few levels, so that nets tie in quality, speed, both and bounds; finished out of order.

    The reference beside itself is off by 5.3 % one way and 2 % the other.
    """
    rng = random.Random(seed)
    study = synthetic.study(50, seed=seed)

    def level(t: TrialRecord) -> Measurement | None:
        if t.baseline == synthetic.REFERENCE:
            return replace(t.measurement, ratio=1.0, ratio_low=0.95, ratio_high=1.02)
        ratio, half = round(t.measurement.ratio if t.measurement else 1.0, 1), rng.choice((0.0, 0.1, 0.2))
        bounds = {"ratio_low": max(0.1, round(ratio - half, 1)), "ratio_high": round(ratio + half, 1)}
        return t.measurement and replace(t.measurement, ratio=max(ratio, 0.1), **bounds)

    trials = [
        replace(
            t,
            measurement=level(t),
            rungs=tuple(replace(r, quality=round(r.quality, 2)) for r in t.rungs),
            finished_s=t.finished_s and rng.random() * 500,
        )
        for t in study.trials
    ]
    return replace(study, trials=(*trials, *_edges([t for t in trials if t.state is TrialState.COMPLETE and t.counts])))


def _edges(nets: list[TrialRecord]) -> list[TrialRecord]:
    """Nets at the edges of what is counted as near, tied and trained.

    One as good as the best, whose interval ends where the best's begins; two faster than all others, 4 % apart without
    an interval, and one 3 % slower and worse than them; one that was called complete before its last rung.
    """
    best = max(nets, key=lambda t: t.quality).measurement
    last = nets[0].rungs[-1]
    low, fast = best.ratio_low, max(t.measurement.ratio_high for t in nets) * 1.5
    return [
        _net(nets[0], 995, (fast * 0.97,) * 3, replace(last, quality=0.015)),
        _net(nets[0], 996, (low - 0.05, low - 0.1, low), replace(last, quality=max(t.quality for t in nets))),
        _net(nets[0], 997, (fast, fast, fast), replace(last, quality=0.02)),
        _net(nets[0], 998, (fast * 1.04,) * 3, replace(last, quality=0.01)),
        replace(nets[0], number=999, rungs=tuple(replace(r, quality=0.99) for r in nets[0].rungs[:2])),
    ]


def _net(t: TrialRecord, number: int, speed: tuple[float, float, float], last: RungResult) -> TrialRecord:
    ratio, low, high = speed
    measured = replace(t.measurement, ratio=ratio, ratio_low=low, ratio_high=high)
    return replace(t, number=number, measurement=measured, rungs=(*t.rungs[:-1], last))
