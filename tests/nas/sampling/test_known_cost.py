"""The sampler on small problems whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from nas.pareto import hypervolume
from nas.sampling import KnownCostSampler, Observed

SPACE = {f"p{i}": CategoricalDistribution(tuple(range(6))) for i in range(5)}


def cost(params):
    return 1.0 + sum(params.values())


def quality(params):
    values = list(params.values())
    return 1 - math.exp(-0.1 * sum(v * w for v, w in zip(values, (5, 3, 2, 1, 0.2), strict=True)))


def costs(candidates, trials):
    return [cost(c) for c in candidates]


def study_of(sampler, trials, directions=("maximize", "minimize")):
    study = optuna.create_study(directions=list(directions), sampler=sampler)
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, [quality(trial.params), cost(trial.params)])
    return study


def share(study):
    return hypervolume([(t.values[0], -t.values[1]) for t in study.trials], (0.0, -26.0))


@pytest.mark.parametrize("known", [costs, None])
def test_finds_more_than_random(known):
    ours = [share(study_of(KnownCostSampler(known, reference=(0.0, 26.0), seed=s), 40)) for s in range(3)]
    chance = [share(study_of(RandomSampler(seed=s), 40)) for s in range(3)]
    assert min(ours) > max(chance)


def test_a_maximised_cost_is_the_same_problem():
    sampler = KnownCostSampler(lambda cs, ts: [-cost(c) for c in cs], reference=(0.0, -26.0), seed=0)
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
    for _ in range(15):
        trial = study.ask(SPACE)
        study.tell(trial, [quality(trial.params), -cost(trial.params)])
    other = study_of(KnownCostSampler(costs, reference=(0.0, 26.0), seed=0), 15)
    assert [t.params for t in study.trials] == [t.params for t in other.trials]


def test_nothing_is_asked_twice_not_even_by_parallel_workers():
    sampler = KnownCostSampler(costs, reference=(0.0, 26.0), distributions=SPACE, seed=0)
    study = study_of(sampler, 15)
    for _ in range(10):
        study.ask(SPACE)
    asked = [tuple(t.params.values()) for t in study.trials]
    assert len(set(asked)) == len(asked)


def test_parallel_workers_look_at_different_parts_of_the_front():
    sampler = KnownCostSampler(costs, reference=(0.0, 26.0), distributions=SPACE, seed=0)
    study = study_of(sampler, 15)
    waiting = [cost(study.ask(SPACE).params) for _ in range(6)]
    assert max(waiting) - min(waiting) > 5


def test_the_choice_depends_on_the_study_and_the_seed_alone():
    sampler = KnownCostSampler(costs, reference=(0.0, 26.0), distributions=SPACE, seed=3)
    study = study_of(sampler, 14)
    first = study.ask(SPACE).params
    resumed = optuna.create_study(
        directions=["maximize", "minimize"], sampler=KnownCostSampler(costs, reference=(0.0, 26.0), seed=3)
    )
    resumed.add_trials(study.trials[:14])
    assert resumed.ask(SPACE).params == first


def test_the_start_is_spread_over_the_cost():
    study = study_of(KnownCostSampler(costs, distributions=SPACE, seed=0), 8)
    asked = sorted(t.values[1] for t in study.trials)
    drawn = np.quantile([1 + sum(np.random.default_rng(s).integers(0, 6, 5)) for s in range(500)], [0.15, 0.85])
    assert asked[0] < drawn[0]
    assert asked[-1] > drawn[1]


def test_what_must_not_be_asked_is_not_asked():
    def limited(candidates, trials):
        return [cost(c) if c["p0"] < 3 else math.nan for c in candidates]

    study = study_of(KnownCostSampler(limited, distributions=SPACE, reference=(0.0, 26.0), seed=0), 25)
    assert all(t.params["p0"] < 3 for t in study.trials)


def test_short_trainings_inform_and_never_pose_as_long_ones():
    """A hundred stopped trials say that p0 matters; their low-rung values, ten times too high, are on no front."""
    sampler = KnownCostSampler(
        costs,
        distributions=SPACE,
        reference=(0.0, 26.0),
        seed=0,
        observe=lambda t: Observed(tuple(t.user_attrs["rungs"]), cost(t.params)) if t.user_attrs else None,
    )
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    rng = np.random.default_rng(0)
    for i in range(100):
        params = {name: int(rng.integers(6)) for name in SPACE}
        final = quality(params)
        rungs = [10 * final, final] if i % 4 == 0 else [10 * final]
        state = TrialState.COMPLETE if len(rungs) == 2 else TrialState.PRUNED
        study.add_trial(
            create_trial(
                state=state,
                values=[final, cost(params)] if len(rungs) == 2 else None,
                params=params,
                distributions=SPACE,
                user_attrs={"rungs": rungs},
            )
        )
    asked = study.ask(SPACE).params
    assert quality(asked) / cost(asked) > np.quantile([quality(t.params) / cost(t.params) for t in study.trials], 0.9)


def test_an_empty_pool_still_gives_parameters():
    tiny = {"a": CategoricalDistribution((0, 1))}
    study = optuna.create_study(direction="maximize", sampler=KnownCostSampler(distributions=tiny, seed=0))
    for _ in range(6):
        study.tell(study.ask(tiny), 1.0)
    assert {t.params["a"] for t in study.trials} == {0, 1}


def test_three_objectives_are_refused():
    study = optuna.create_study(directions=["maximize"] * 3, sampler=KnownCostSampler(seed=0))
    with pytest.raises(ValueError, match="3 objectives"):
        study.ask(SPACE)
