"""Studies that are hard for a report: a recorded search, ties, hostile text; and one with known causes."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

from nas.study.records import Measurement, RungResult, StudyRecord, TrialRecord, TrialState
from search_space import SPACES
from tests.reports import synthetic

RECORDED = Path(__file__).parents[2] / "experiments/results/recorded_search.json"


def recorded() -> StudyRecord:
    """Return the recorded search of 200 with its scores, throughputs and seconds; unrecorded fields are invented."""
    search = json.loads(RECORDED.read_text())
    rng = random.Random(0)
    trials = []
    for number, row in enumerate(search["trials"]):
        speed = 2 ** row["points"][0][1]
        spec = SPACES["micro"].sample(rng)
        names = synthetic.BASELINES
        rungs = tuple(
            RungResult(i, (30, 90, 270)[i], score, {"hed": {"spatial": score}}, {}, {}, row["rung_s"][i])
            for i, (score, _) in enumerate(row["points"])
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
    time_spent = {"measure": sum(r["measure_s"] for r in search["trials"])}
    time_spent |= {
        f"train {i}": sum(r["rung_s"][i] for r in search["trials"] if len(r["rung_s"]) > i) for i in range(3)
    }
    info = replace(
        synthetic.info("recorded", 200), rung_steps=(30, 90, 270), time_spent=time_spent, chance={}, teacher_facts={}
    )
    return StudyRecord(info, tuple(trials))


def tied(seed: int) -> StudyRecord:
    """Make a study rounded to a few levels: trials tie in score, throughput, both and bounds, and finish out of order.

    The reference against itself (A/A) is off by 5.3 % one way and 2 % the other.
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
            rungs=tuple(replace(r, score=round(r.score, 2)) for r in t.rungs),
            finished_s=t.finished_s and rng.random() * 500,
        )
        for t in study.trials
    ]
    return replace(study, trials=(*trials, *_edges([t for t in trials if t.state is TrialState.COMPLETE and t.counts])))


def _edges(trials: list[TrialRecord]) -> list[TrialRecord]:
    """Make trials at the edges of what counts as near, tied and trained.

    One scores as high as the best, and its interval ends where that of the best begins. Two are faster than all others
    and 4 % apart without an interval; one is 3 % slower and worse than them. One is complete before its last rung.
    """
    best = max(trials, key=lambda t: t.score).measurement
    last = trials[0].rungs[-1]
    low, fast = best.ratio_low, max(t.measurement.ratio_high for t in trials) * 1.5
    return [
        _variant(trials[0], 995, (fast * 0.97,) * 3, replace(last, score=0.015)),
        _variant(trials[0], 996, (low - 0.05, low - 0.1, low), replace(last, score=max(t.score for t in trials))),
        _variant(trials[0], 997, (fast, fast, fast), replace(last, score=0.02)),
        _variant(trials[0], 998, (fast * 1.04,) * 3, replace(last, score=0.01)),
        replace(trials[0], number=999, rungs=tuple(replace(r, score=0.99) for r in trials[0].rungs[:2])),
    ]


def _variant(t: TrialRecord, number: int, speed: tuple[float, float, float], last: RungResult) -> TrialRecord:
    ratio, low, high = speed
    measured = replace(t.measurement, ratio=ratio, ratio_low=low, ratio_high=high)
    return replace(t, number=number, measurement=measured, rungs=(*t.rungs[:-1], last))


@cache
def planted(trials: int) -> StudyRecord:
    """Make a study whose score depends on stage 3, and throughput on stage 4's width and stage 2's expansion."""
    rng = random.Random(5)
    study = synthetic.study(trials, only=TrialState.COMPLETE, baselines=False)
    records = []
    for t in study.trials:
        _, two, three, four = t.spec["stages"]
        attends = three["block"] in ("window", "mr_window", "attention")
        score = 0.05 * math.log2(three["width"]) + 0.08 * attends + rng.gauss(0, 0.02)
        speed = -0.5 * math.log2(four["width"]) - 0.3 * math.log2(two["expansion"]) + rng.gauss(0, 0.05)
        rungs = (*t.rungs[:-1], replace(t.rungs[-1], score=score))
        records.append(replace(t, rungs=rungs, measurement=replace(t.measurement, ratio=2**speed)))
    return replace(study, trials=tuple(records))


def cut(study: StudyRecord) -> StudyRecord:
    """Let every second architecture start at stride 16, with a neck of the same stride, and every third end there."""
    trials = []
    for t in study.trials:
        first, last = 2 if t.number % 2 else 0, 3 if t.number % 3 == 0 else 4
        spec = {**t.spec, "stages": t.spec["stages"][first:last]}
        if first:
            spec |= {"stem": "patch16", "neck": "stage1" if t.spec["neck"] == "stage3" else "none"}
        trials.append(replace(t, spec=spec))
    return replace(study, trials=tuple(trials))


ATTACKS = (
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "\"'><img src=x onerror=\"document.title='owned'\">",
    "<svg onload=\"document.title='owned'\"></svg>",
    "]]><!--<iframe srcdoc='<b>owned</b>'>",
    "$x^{2$ {{7*7}} {% raw %} __proto__",
    "\u2028\u2029",
)


def hostile(attack: str, trials: int = 40) -> StudyRecord:
    """Make a study in which everything that a user or a third party can name is `attack`."""
    study = synthetic.study(trials)
    info = replace(
        study.info, name=attack, command=attack, created=attack,
        environment={attack: attack, "device": attack}, config={attack: [attack]},
        teachers={attack: attack}, data={attack: attack}, reference=attack,
        time_spent={attack: 3.0}, limits={attack: 1.0},
        objectives=tuple(replace(o, label=attack, unit=attack) for o in study.info.objectives),
        teacher_facts={attack: replace(synthetic.facts(0), description=attack)}, chance={attack: 0.5},
        sessions=({"started": attack, "wall_s": 1.0},),
    )  # fmt: skip
    return StudyRecord(info, tuple(_spoiled(t, attack, keep_id=t.number == 7) for t in study.trials))


def _spoiled(trial: TrialRecord, attack: str, keep_id: bool) -> TrialRecord:
    stages = [{**s, "block": attack} for s in trial.spec["stages"]]
    m = trial.measurement
    return replace(
        trial,
        arch_id=trial.arch_id if keep_id else attack,
        spec={**trial.spec, "stages": stages, "stem": attack, attack: attack},
        baseline=f"{attack}{trial.number}" if trial.baseline else None,
        reason=attack * (10_000 // len(attack)),
        measurement=m
        and replace(
            m, device=attack, arm=attack, reference=attack, verdict=attack, stages_s={attack: 1.0, "stage1": 2.0}
        ),
        rungs=tuple(
            replace(r, teachers={attack: {attack: r.score}}, losses={attack: 1.0}, metrics={attack: 1.0})
            for r in trial.rungs
        ),
    )
