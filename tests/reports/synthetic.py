"""Random studies for tests of the report: realistic shapes and sizes, invented numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from nas.storage.store import Store
from nas.study.records import (
    Expectation,
    HeadFacts,
    Measurement,
    Objective,
    RungResult,
    StudyInfo,
    StudyRecord,
    TeacherFacts,
    TrialRecord,
    TrialState,
)
from search_space import SPACES, ArchSpec, preset

TEACHERS = ("efficientnet_lite0", "hed", "xfeat")
RUNG_STEPS = (60, 180, 540)
BASELINES = ("eradio_femto", "eradio_pico", "eradio_nano")
REFERENCE = "eradio_pico"


def study(
    trials: int, *, seed: int = 0, baselines: bool = True, only: TrialState | None = None, budget: int | None = None
) -> StudyRecord:
    """Make a finished study of `trials` sampler trials, or one in which every trial ends in state `only`."""
    rng = random.Random(seed)
    records = []
    if baselines:
        records += [record(n, rng, preset(name), TrialState.COMPLETE, name) for n, name in enumerate(BASELINES)]
    for number in range(len(records), len(records) + trials):
        records.append(record(number, rng, SPACES["micro"].sample(rng), only or _state(rng)))
    return StudyRecord(info(budget=budget or trials), tuple(records))


def with_info(study: StudyRecord, **changes: Any) -> StudyRecord:
    """Return the study with another description."""
    return replace(study, info=replace(study.info, **changes))


def predicted(study: StudyRecord, error: float = 0.02) -> StudyRecord:
    """Return the study as if every sampled trial had been measured late, after a prediction that was this much off."""

    def late(t: TrialRecord) -> TrialRecord:
        if t.baseline or t.measurement is None or not t.rungs:
            return t
        t = replace(t, expected=Expectation(0.5, 0.05, 0.01, t.measurement.ratio * (1 + error)))
        return replace(t, measurement=None) if t.state is TrialState.STOPPED and len(t.rungs) == 1 else t

    return replace(study, trials=tuple(map(late, study.trials)))


def timed(study: StudyRecord, change: Callable[[TrialRecord], Mapping[str, Any]]) -> StudyRecord:
    """Return the study with changed measurements; `change` takes a trial and returns the fields that differ."""

    def changed(t: TrialRecord) -> Measurement | None:
        return t.measurement and replace(t.measurement, **change(t))

    return replace(study, trials=tuple(replace(t, measurement=changed(t)) for t in study.trials))


def scored(study: StudyRecord, score: Callable[[TrialRecord], float]) -> StudyRecord:
    """Return the study with other scores at the last rungs."""
    return replace(
        study,
        trials=tuple(replace(t, rungs=(*t.rungs[:-1], replace(t.rungs[-1], score=score(t)))) for t in study.trials),
    )


def store_study(study: StudyRecord, folder: Path) -> Store:
    """Store a study of the space "micro" in `folder`, as `nas.search` stores it."""
    space = SPACES["micro"]
    store = Store.create(folder, study.info, optuna.samplers.RandomSampler(seed=0))
    for trial in study.trials:
        store.ask(space.choices(), fixed=space.encode(ArchSpec.from_dict(trial.spec)))
        store.save(trial, (trial.score or 0.0, trial.measurement.ratio if trial.measurement else 0.0))
    return store


def info(name: str = "synthetic study", budget: int = 200) -> StudyInfo:
    """Make a description as `nas.search` writes it."""
    return StudyInfo(
        name=name,
        created="2025-01-31T12:00:00Z",
        command=f"python -m nas.search --budget {budget} --seed 0",
        config={
            "budget": budget,
            "seed": 0,
            "device": "cpu",
            "sampler": "evolution",
            "space": "micro",
            "distill": {"batch_size": 32},
        },
        environment={"device": "synthetic CPU", "threads": 2, "libraries": {"torch": "2.6.0", "optuna": "4.4.0"}},
        objectives=(
            Objective("score", "explained variance of the teachers' features", "share", 0.0),
            Objective("throughput", "throughput", f"times {REFERENCE}", 0.25, log=True),
        ),
        rung_steps=RUNG_STEPS,
        limits={"max_params": 2e6},
        teachers={name: f"{i:064x}" for i, name in enumerate(TEACHERS)},
        data={"name": "builtin", "fingerprint": "f" * 64},
        reference=REFERENCE,
        baselines=BASELINES,
        time_spent={
            "teachers": 41.2,
            "measure": 203.5,
            "train rung 0": 310.1,
            "train rung 1": 322.0,
            "train rung 2": 300.7,
        },
        sessions=({"started": "2025-01-31T12:00:00Z", "wall_s": 1190.0},),
        teacher_facts={name: facts(i) for i, name in enumerate(TEACHERS)},
        chance={"knn": 1 / 15, "probe": 1 / 15, "miou": 0.05, "retrieval": 1 / 600},
    )


def facts(i: int) -> TeacherFacts:
    """Invent the facts of a teacher."""
    heads = {"summary": HeadFacts(1280 >> i, 112 >> i, 0.75 + 0.05 * i, 0.86 + 0.04 * i),
             "spatial": HeadFacts(512 >> i, 132 >> i, 0.74 + 0.05 * i, 0.88 + 0.04 * i)}  # fmt: skip
    return TeacherFacts(f"an invented network {i}", heads, {"knn": 0.5 - 0.1 * i, "probe": 0.6 - 0.1 * i})


def record(
    number: int, rng: random.Random, spec: ArchSpec, state: TrialState, baseline: str | None = None
) -> TrialRecord:
    """Invent a trial; the score falls with throughput, with noise."""
    speed = 2 ** rng.gauss(0.1, 0.6)
    level = 0.52 - 0.07 * math.log2(speed) + rng.gauss(0, 0.03)
    reached = {TrialState.COMPLETE: 3, TrialState.STOPPED: rng.choice((1, 2))}.get(state, 0)
    measured = state in (TrialState.COMPLETE, TrialState.STOPPED) or (
        state is TrialState.INFEASIBLE and rng.random() < 0.7
    )
    reason = {TrialState.FAILED: "loss is NaN at step 31", TrialState.INFEASIBLE: "max_params: 2.3 M is over 2 M",
              TrialState.STOPPED: f"stopped at rung {reached - 1}"}.get(state)  # fmt: skip
    return TrialRecord(
        number=number,
        arch_id=spec.arch_id,
        spec=spec.to_dict(),
        state=state,
        baseline=baseline,
        reason=reason,
        params=rng.randrange(200_000, 3_000_000),
        macs=rng.randrange(5_000_000, 80_000_000),
        measurement=measurement(rng, speed, stages(spec)) if measured else None,
        rungs=tuple(rung(rng, i, level) for i in range(reached)),
        started_s=None if state is TrialState.RUNNING else max(0.0, 7.0 * (number - 4)),
        finished_s=None if state is TrialState.RUNNING else 7.0 * number + rng.random(),
        worker=None if state is TrialState.RUNNING else f"c0ffee00:{4000 + number % 4}",
    )


def with_scale(study: StudyRecord, ratios: Mapping[str, float | None]) -> StudyRecord:
    """Return the study with comparison networks; None for one that could not be measured."""
    rng = random.Random(1)
    return replace(
        study,
        scale=tuple(
            TrialRecord(
                -n, name, {}, TrialState.FAILED if ratio is None else TrialState.MEASURED, params=11_000_000,
                macs=150_000_000, measurement=None if ratio is None else measurement(rng, ratio), scale=name,
            )
            for n, (name, ratio) in enumerate(ratios.items(), start=1)
        ),
    )  # fmt: skip


def stages(spec: ArchSpec) -> list[str]:
    """Name the stages as `Backbone.stage_modules` does."""
    named = [name for i in range(1, len(spec.stages) + 1) for name in (f"stage{i}", f"down{i}")]
    return ["stem", *named[:-1], "norm", *(["neck"] if spec.neck_dim else []), "rest"]


def measurement(rng: random.Random, speed: float, parts: Sequence[str] = ()) -> Measurement:
    """Invent a measurement with an interval of about one percent."""
    half = speed * rng.uniform(0.003, 0.015)
    return Measurement(
        device="synthetic CPU", arm="fp32, channels-last, fused, eager", batch=16, resolution=64,
        throughput_img_s=900 * speed, throughput_low_img_s=900 * (speed - half),
        throughput_high_img_s=900 * (speed + half),
        ratio=speed, ratio_low=speed - half, ratio_high=speed + half, reference=REFERENCE, reference_img_s=900.0,
        latency_ms=3 / speed, peak_memory_mib=rng.uniform(20, 90), samples=40, seconds=0.8,
        verdict="ok" if half / speed < 0.01 else "wide",
        stages_s={part: (1 + 7 * i % 5) / 1e3 / speed for i, part in enumerate(parts)},
    )  # fmt: skip


def rung(rng: random.Random, index: int, level: float) -> RungResult:
    """Invent the result of a rung; later rungs are better and less noisy."""
    score = level - 0.12 * (2 - index) + rng.gauss(0, 0.02 / (index + 1))
    offsets = {name: 0.1 * (i - 1) for i, name in enumerate(TEACHERS)}
    heads = {n: {"summary": score + o + 0.03, "spatial": score + o - 0.03} for n, o in offsets.items()}
    losses = {f"{n}/{h}": 1 - v for n, values in heads.items() for h, v in values.items()}
    metrics = {"knn": 0.4 + score / 3, "probe": 0.5 + rng.gauss(0, 0.02), "miou": 0.2 + score / 4}
    metrics |= {f"retrieval/{n}": 0.1 + score / 5 + rng.gauss(0, 0.02) for n in TEACHERS}
    last = metrics if index == len(RUNG_STEPS) - 1 else {}
    return RungResult(index, RUNG_STEPS[index], score, heads, losses, last, seconds=2.0 * 3**index)


def _state(rng: random.Random) -> TrialState:
    states = [TrialState.COMPLETE, TrialState.STOPPED, TrialState.INFEASIBLE, TrialState.FAILED, TrialState.DUPLICATE]
    return rng.choices(states, weights=(45, 45, 5, 2, 3))[0]
