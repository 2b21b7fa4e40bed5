"""A study small enough to compare by hand, with made-up remeasurements and retrainings of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import optuna

from nas.analysis.retraining import RETRAINING_TIMINGS
from nas.storage.store import Store
from nas.study.records import Remeasurement, Retraining, RungResult, StudyRecord, TrialState
from search_space import preset
from tests.nas.study.builders import measurement, record, rung, search_config, study_info

REFERENCE = "eradio_femto"
# By trial number, (score, ratio): 0 is the reference; 1, 2, 3 are the front, 4 is behind 2, 5 within 2's interval.
POINTS = {0: (0.3, 1.0), 1: (0.2, 4.0), 2: (0.4, 2.0), 3: (0.6, 1.0), 4: (0.35, 1.5), 5: (0.38, 1.99)}

# The search recommends 1; after retraining it falls below the baseline, and 2 is as good.
# By trial (score, ratio), and the retrained scores of seeds 1 and 2.
SEARCHED = {0: (0.534, 1.0), 1: (0.541, 5.94), 2: (0.56, 3.3), 3: (0.601, 1.7), 4: (0.4, 7.0)}
OVERTURNED = {0: (0.633, 0.635), 1: (0.606, 0.608), 2: (0.639, 0.641), 3: (0.66, 0.662), 4: (0.5, 0.51)}


def small_study(points: Mapping[int, tuple[float, float]] = POINTS) -> StudyRecord:
    """Trial 0 is the baseline; the others are random architectures."""
    trials = [record(n, (0.1, q), ratio) for n, (q, ratio) in points.items()]
    spec = preset(REFERENCE)
    trials[0] = replace(trials[0], baseline=REFERENCE, arch_id=spec.arch_id, spec=spec.to_dict())
    return StudyRecord(
        study_info(search_config(space="micro", reference=REFERENCE, baselines=(REFERENCE,))), tuple(trials)
    )


def new_store(folder: Path, study: StudyRecord) -> Store:
    store = Store.create(folder, study.info, optuna.samplers.RandomSampler(seed=0))
    for trial in study.trials:
        store.ask({})
        done = trial.state is TrialState.COMPLETE and trial.measurement
        store.save(trial, (trial.final_score, done.ratio) if done else None)
    return store


def remeasured(
    ratios: Mapping[int, float], unmeasured: Mapping[int, str] | None = None, *, name: str = "r"
) -> Remeasurement:
    """By trial number, the ratio now, or why there is none; the reference is trial 0."""
    now = {number: measurement(ratio) for number, ratio in ratios.items()}
    setting = {"batch": 1, "reference": REFERENCE}
    return Remeasurement(name, "2026-01-01", "c", {}, setting, now.get(0), now, dict(unmeasured or {}))


def remeasured_for_retraining(
    ratios: Mapping[int, float], unmeasured: Mapping[int, str] | None = None
) -> Remeasurement:
    return remeasured(ratios, unmeasured, name=RETRAINING_TIMINGS)


def retrained(
    number: int, scores: Mapping[int, float], steps: int = 90, at_30: float | None = None
) -> list[Retraining]:
    """By seed, the score after `steps`; after 30 steps all have `at_30`, or half of it."""

    def rungs(score: float) -> tuple[RungResult, ...]:
        return rung(1, score / 2 if at_30 is None else at_30), replace(rung(2, score), steps=steps)

    return [Retraining(number, seed, steps, "2026-11-25", "cpu", rungs(q)) for seed, q in scores.items()]


def failed(number: int, seed: int, reason: str, steps: int = 90) -> Retraining:
    return Retraining(number, seed, steps, "2026-11-25", "cpu", (rung(1, 0.1),), reason)
