"""The number of random trials that the report states is the one that the sampler is made with."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from nas.samplers import SAMPLERS, PerTrial, SpaceSampler, control
from nas.study.config import OPTUNA_SAMPLERS, RANDOM_TRIALS, SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import TrialState
from search_space import SPACES
from tests.nas.study.builders import OBJECTIVES, record, search_config
from tests.nas.study.searches import drive, new_store

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


@pytest.mark.parametrize("name", OPTUNA_SAMPLERS)
def test_a_baseline_outside_the_space_leaves_optuna_all_choices(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Optuna's samplers sample jointly what all complete trials have; a baseline outside the space has nothing."""
    monkeypatch.setitem(RANDOM_TRIALS, name, FEW)
    infer, found = PerTrial.infer_relative_search_space, []

    def observe(self: PerTrial, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found.append(infer(self, study, trial))
        return found[-1]

    monkeypatch.setattr(PerTrial, "infer_relative_search_space", observe)
    config = search_config(sampler=name, budget=FEW, baselines=("eradio_t", "eradio_pico"))
    drive(loop := StudyLoop(new_store(tmp_path, config)))
    assert found[-1].keys() == {name for name, choices in SPACES["micro"].choices().items() if len(choices) > 1}
    assert [t.baseline for t in loop.trials.values() if t.state is TrialState.COMPLETE][:2] == list(config.baselines)


def test_evolution_mutates_parents_after_its_random_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RANDOM_TRIALS, "evolution", FEW)
    space = SPACES["micro"]
    sampler = SAMPLERS["evolution"](space, OBJECTIVES, SearchConfig(sampler="evolution", space="micro"))
    assert isinstance(sampler, SpaceSampler)
    trials = [record(i, (0.1,), 1.0) for i in range(FEW)]
    drawn = [sampler._propose(trials[:n], random.Random(9)) == space.sample(random.Random(9)) for n in range(FEW + 1)]
    assert drawn == [True] * FEW + [False]
