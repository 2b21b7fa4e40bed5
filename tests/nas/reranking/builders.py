"""A study small enough to compare by hand, and made-up measurements of it elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna

from nas.records import Rerank, Study, TrialState
from nas.store import Store
from search_space import preset
from tests.nas.study_builders import measurement, record, search_config, study_info

REFERENCE = "eradio_femto"
# By trial number, (quality, ratio): 0 is the reference; 1, 2, 3 are the front, 4 is behind 2, 5 within 2's interval.
POINTS = {0: (0.3, 1.0), 1: (0.2, 4.0), 2: (0.4, 2.0), 3: (0.6, 1.0), 4: (0.35, 1.5), 5: (0.38, 1.99)}


def small_study(points: dict[int, tuple[float, float]] = POINTS) -> Study:
    trials = [record(n, (0.1, q), ratio) for n, (q, ratio) in points.items()]
    spec = preset(REFERENCE)
    trials[0] = replace(trials[0], baseline=REFERENCE, arch_id=spec.arch_id, spec=spec.to_dict())
    return Study(study_info(search_config(reference=REFERENCE, baselines=(REFERENCE,))), tuple(trials))


def measured_again(ratios: dict[int, float], **unmeasured: str) -> Rerank:
    reasons = {int(n.removeprefix("n")): reason for n, reason in unmeasured.items()}
    now = {n: measurement(ratio) for n, ratio in ratios.items()}
    return Rerank("r", "2026-01-01", "c", {}, {"batch": 1, "reference": REFERENCE}, now[0], now, reasons)


def new_store(folder: Path, study: Study) -> Store:
    store = Store.create(folder, study.info, optuna.samplers.RandomSampler(seed=0))
    for trial in study.trials:
        store.ask({})
        done = trial.state is TrialState.COMPLETE and trial.measurement
        store.save(trial, (trial.final_score, done.ratio) if done else None)
    return store
