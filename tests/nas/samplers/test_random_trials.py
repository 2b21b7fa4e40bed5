"""The number of random trials that the report states is the one that the sampler is made with."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from nas.samplers import SAMPLERS, SpaceSampler, control
from nas.study.config import OPTUNA_SAMPLERS, RANDOM_TRIALS, SearchConfig
from search_space import SPACES
from tests.nas.study.builders import OBJECTIVES, record

FEW = 3


@pytest.mark.parametrize("name", OPTUNA_SAMPLERS)
def test_a_sampler_of_optuna_learns_after_its_random_trials(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RANDOM_TRIALS, name, FEW)
    sampler, learned = control(name, 0), []
    sample = sampler.sample_relative

    def observe(study: optuna.Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        params = sample(study, trial, space)
        learned.append(bool(params))
        return params

    monkeypatch.setattr(sampler, "sample_relative", observe)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: trial.suggest_categorical("a", (1, 2, 3)) + trial.suggest_float("b", 0, 1), FEW + 1)
    assert learned == [False] * FEW + [True]


def test_evolution_mutates_parents_after_its_random_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RANDOM_TRIALS, "evolution", FEW)
    space = SPACES["micro"]
    sampler = SAMPLERS["evolution"](space, OBJECTIVES, SearchConfig(sampler="evolution", space="micro"))
    assert isinstance(sampler, SpaceSampler)
    trials = [record(i, (0.1,), 1.0) for i in range(FEW)]
    drawn = [sampler._propose(trials[:n], random.Random(9)) == space.sample(random.Random(9)) for n in range(FEW + 1)]
    assert drawn == [True] * FEW + [False]
