"""The sampler on small problems whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from nas.samplers.known_cost import KnownCostSampler, TrialValues
from nas.samplers.known_cost.acquisition import AcquisitionModel
from nas.samplers.known_cost.history import TrialHistory, completed_values
from nas.study.pareto import hypervolume

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
    ours = [share(study_of(KnownCostSampler(known, reference=(0.0, 26.0), seed=s), 25)) for s in range(2)]
    chance = [share(study_of(RandomSampler(seed=s), 25)) for s in range(2)]
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


def test_what_must_not_be_asked_is_not_asked():
    def limited(candidates, trials):
        return [cost(c) if c["p0"] < 3 else math.nan for c in candidates]

    for reference in (26.0, 1.0):  # from the second nothing can be gained
        study = study_of(KnownCostSampler(limited, distributions=SPACE, reference=(0.0, reference), seed=0), 25)
        assert all(t.params["p0"] < 3 for t in study.trials)


def test_quality_alone_keeps_to_what_may_be_asked_too():
    def limited(candidates, trials):
        return [cost(c) if c["p0"] < 3 else math.nan for c in candidates]

    sampler = KnownCostSampler(limited, distributions=SPACE, reference=(0.0, 0.0), seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: sum(trial.suggest_categorical(n, d.choices) for n, d in SPACE.items()), n_trials=20)
    assert all(t.params["p0"] < 3 for t in study.trials)


def test_a_limit_that_one_in_a_hundred_meets_is_kept():
    def limited(candidates, trials):
        return [cost(c) if cost(c) <= 5 else math.nan for c in candidates]

    study = study_of(KnownCostSampler(limited, distributions=SPACE, reference=(0.0, 26.0), seed=0), 12)
    assert max(t.values[1] for t in study.trials) <= 5


def test_what_may_be_asked_is_found_beside_the_trials_where_it_is_rare_among_all() -> None:
    space = {f"p{i}": IntDistribution(0, 9) for i in range(5)}

    def allowed(params):  # 32 of 100,000
        return max(params.values()) <= 1

    sampler = KnownCostSampler(
        lambda cs, ts: [cost(c) if allowed(c) else math.nan for c in cs],
        reference=(0.0, 26.0),
        distributions=space,
        seed=0,
    )
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for number in range(8):
        params = {name: number >> i & 1 for i, name in enumerate(space)}
        study.add_trial(create_trial(params=params, distributions=space, values=[quality(params), cost(params)]))
    for _ in range(10):
        trial = study.ask(space)
        assert allowed(trial.params)
        study.tell(trial, [quality(trial.params), cost(trial.params)])


def test_short_trainings_inform_and_never_pose_as_long_ones():
    """A hundred stopped trials say that p0 matters; their low-rung values, ten times too high, are on no front."""
    sampler = KnownCostSampler(
        costs,
        distributions=SPACE,
        reference=(0.0, 26.0),
        seed=0,
        rungs=2,
        read_trial=lambda t: TrialValues(tuple(t.user_attrs["rungs"]), cost(t.params)) if t.user_attrs else None,
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


@pytest.mark.parametrize(("direction", "reference"), [("minimize", 50.0), ("maximize", -50.0), ("minimize", None)])
def test_one_objective_either_way_with_and_without_a_reference(direction, reference):
    space = {"x": FloatDistribution(-5, 5), "y": FloatDistribution(-5, 5)}
    sampler = KnownCostSampler(reference=None if reference is None else (reference, 0.0), seed=0)
    study = optuna.create_study(direction=direction, sampler=sampler)
    for _ in range(25):
        trial = study.ask(space)
        value = (trial.params["x"] - 1) ** 2 + (trial.params["y"] + 2) ** 2
        study.tell(trial, value if direction == "minimize" else -value)
    assert abs(study.best_value) < 0.05


def test_infinite_costs_are_on_no_front_and_stop_nothing():
    sampler = KnownCostSampler(costs, distributions=SPACE, reference=(0.0, 26.0), seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(12):
        study.tell(study.ask(SPACE), [5.0, math.inf])
    for _ in range(25):
        trial = study.ask(SPACE)
        study.tell(trial, [quality(trial.params), cost(trial.params)])
    found = hypervolume([(t.values[0], -t.values[1]) for t in study.trials[12:]], (0.0, -26.0))
    assert found > 0.95 * share(study_of(KnownCostSampler(costs, reference=(0.0, 26.0), seed=0), 25))


def test_what_came_to_nothing_is_left_alone():
    sampler = KnownCostSampler(costs, distributions=SPACE, reference=(0.0, 26.0), seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(40):
        trial = study.ask(SPACE)
        fails = trial.params["p0"] >= 3
        study.tell(trial, [-math.inf if fails else quality(trial.params), cost(trial.params)])
    assert sum(t.params["p0"] >= 3 for t in study.trials[20:]) <= 4


def test_all_trials_of_the_study_inform_the_cost():
    seen = []

    def counted_costs(candidates, trials):
        seen.append(len(trials))
        return costs(candidates, trials)

    sampler = KnownCostSampler(counted_costs, distributions=SPACE, reference=(0.0, 26.0), seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.add_trial(create_trial(values=[0.0, 0.0]))
    odd = {**dict.fromkeys(SPACE, 0), "p0": 9}
    wider = {**SPACE, "p0": CategoricalDistribution(tuple(range(10)))}
    study.add_trial(create_trial(values=[0.0, 0.0], params=odd, distributions=wider))
    study.ask(SPACE)
    assert set(seen) == {2}


def test_both_ends_of_the_cost_are_in_the_start():
    """Of 300 candidates the cheapest, then the most expensive in the end."""
    study = study_of(KnownCostSampler(costs, distributions=SPACE, seed=0), 8)
    asked = [t.values[1] for t in study.trials]
    assert asked.index(min(asked)) == 0
    assert asked.index(max(asked)) == 7
    assert min(asked) <= 6
    assert max(asked) >= 21


def test_a_lucky_short_training_does_not_count_as_it_is():
    """Where the last rung is only expected, the sampler does not search around lucky outliers."""
    features = np.linspace(0, 1, 40)[:, None]
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1.0, 40)  # there is nothing but noise
    groups = np.zeros(1, dtype=int)
    histories = [(value,) for value in values]
    running = np.ones(40, dtype=bool)
    expected = AcquisitionModel.of(histories, np.ones(40), features, groups, rungs=2, running=running)
    final = AcquisitionModel.of(histories, np.ones(40), features, groups)
    assert expected.points[:, 0].max() < 0.7 * final.points[:, 0].max()
    assert sorted(final.points[:, 0])[20:] == pytest.approx(sorted(values)[20:])


def test_far_below_the_reference_all_are_as_bad():
    """One value a thousand below must not flatten what the others say."""
    rows = np.linspace(0, 1, 21)[:, None]
    groups = np.zeros(1, dtype=int)
    values = [1 + row for row in rows[:, 0]]
    values[0] = -1000.0
    acquisition = AcquisitionModel.of([(v,) for v in values], np.ones(21), rows, groups, reference=(1.2, 0.0))
    mean, _ = acquisition.qualities.predict(np.array([[0.425], [0.875]]))
    assert mean == pytest.approx([1.425, 1.875], abs=0.05)


def test_positive_numbers_are_sizes_unless_others_are_given():
    space = {f"width{i}": IntDistribution(1, 256, log=True) for i in range(5)}
    study, rng = optuna.create_study(direction="maximize"), np.random.default_rng(0)
    for _ in range(12):
        params = {width: round(2 ** rng.uniform(0, 8)) for width in space}
        value = sum(math.log2(width) for width in params.values())
        study.add_trial(create_trial(values=[value], params=params, distributions=space))
    history = TrialHistory.of(study, study.trials[0], space, completed_values, 100)

    def share(**settings):
        return KnownCostSampler(distributions=space, seed=0, **settings)._fit(history)[0].qualities.linear_share

    assert share() > 0.5
    assert share(sizes=lambda candidates: np.empty((len(candidates), 0))) == 0.0
    assert share(parameters=False, features=lambda candidates: [[c["width0"]] for c in candidates]) == 0.0
    unrelated = np.random.default_rng(1).normal(size=len(history.params))
    assert share(sizes=lambda candidates: unrelated[: len(candidates), None]) < 0.2


def test_what_runs_is_on_the_front_with_what_it_is_expected_to_reach():
    rows = np.linspace(0, 1, 13)[:, None]
    groups = np.zeros(1, dtype=int)
    histories = [(0.1 * i, 0.2 * i) for i in range(12)] + [(1.2,)]
    running = np.arange(13) == 12
    over = AcquisitionModel.of(histories, np.ones(13), rows, groups, rungs=2)
    under_way = AcquisitionModel.of(histories, np.ones(13), rows, groups, rungs=2, running=running)
    assert len(over.points) == 12
    assert len(under_way.points) == 13
    assert under_way.points[:, 0].max() == pytest.approx(2.4, abs=0.2)


def test_of_many_trials_the_best_and_the_latest_are_kept():
    study = optuna.create_study(directions=["maximize", "maximize"])
    for i in (9, 8, 7, 0, 1, 2, 3, 4, 5, 6):
        distributions = {"x": FloatDistribution(0, 10)}
        study.add_trial(create_trial(values=[float(i), 1.0], params={"x": float(i)}, distributions=distributions))
    trial = study.ask({"x": FloatDistribution(0, 10)})
    history = TrialHistory.of(study, study.trials[trial.number], {"x": FloatDistribution(0, 10)}, completed_values, 4)
    assert [o.qualities[0] for _, o in history.observed] == [9.0, 8.0, 5.0, 6.0]
    assert len(history.proposed) == 10
