"""Forecasts of clusters and deadlines from costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.backend.simulated import Cluster
from nas.plan.forecast import (
    Basis,
    Candidate,
    PlanCosts,
    RaceCosts,
    forecasts,
    race_figures,
    search_figures,
    simulate_search,
    weaker,
)
from nas.plan.tables import seconds
from nas.study.config import SearchConfig
from search_space import SPACES

TIMES = (Candidate(2.0, (10.0, 20.0, 60.0)), Candidate(2.0, (20.0, 40.0, 120.0)))
COSTS = PlanCosts(TIMES, TIMES[:1], 1e6, 0.0, Basis.MEASURED, 3600.0, Basis.MEASURED)
CONFIG = SearchConfig(budget=60, baselines=SPACES["micro"].baselines)


def test_deadline_takes_the_teachers_first() -> None:
    (planned, *_) = forecasts(CONFIG, lambda workers: COSTS, Cluster(1), (), max_hours=2.0)
    (late, *_) = forecasts(CONFIG, lambda workers: replace(COSTS, teachers_s=7200.0), Cluster(1), (), max_hours=2.0)
    assert late.fits == 0
    assert planned.fits is not None
    exact = simulate_search(replace(CONFIG, budget=planned.fits), COSTS, Cluster(1)).wall_s
    more = simulate_search(replace(CONFIG, budget=planned.fits + 3), COSTS, Cluster(1)).wall_s
    assert exact <= 3600 < more


def test_extrapolated_budget_is_near_the_simulated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.plan.forecast.MAX_SIMULATED", 250)
    clusters = forecasts(CONFIG, lambda workers: COSTS, Cluster(1), (8, 64), max_hours=1.25)
    assert [o.devices for o in clusters] == [1, 8, 64]
    assert [o.planned for o in clusters] == [True, False, False]
    eight = clusters[1]
    assert eight.extrapolated
    assert eight.fits is not None
    wall_s = simulate_search(replace(CONFIG, budget=eight.fits), COSTS, Cluster(8)).wall_s
    assert wall_s == pytest.approx(1.25 * 3600 - 3600 / 8, rel=0.1)


def test_ranks_take_devices_together() -> None:
    config = replace(CONFIG, distill=replace(CONFIG.distill, ranks=4))
    clusters = forecasts(config, lambda workers: COSTS, Cluster(1), (2, 8), None)
    assert [(o.devices, o.simulated.cluster.workers) for o in clusters] == [(4, 1), (8, 2)]
    assert clusters[0].device_hours == pytest.approx((clusters[0].simulated.wall_s + 3600 / 4) * 4 / 3600)


def test_a_race_ends_the_search_and_takes_a_third_of_the_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.plan.forecast.MAX_SIMULATED", 250)
    race = RaceCosts(1600.0, Basis.MEASURED, (100.0, 300.0, 200.0))
    costs = replace(COSTS, race=race)
    (here, eight) = forecasts(CONFIG, lambda workers: costs, Cluster(1), (8,), max_hours=3.0)
    (without,) = forecasts(CONFIG, lambda workers: COSTS, Cluster(1), (), max_hours=2.0)
    assert (here.race_s, eight.race_s) == (1600 + 5 * 200, 200 + 200)
    assert here.fits == without.fits
    assert here.device_hours == pytest.approx(without.device_hours + 2600 / 3600)
    (two,) = forecasts(CONFIG, lambda workers: costs, Cluster(1, 2), (), None)
    (_, whole) = race_figures(race, Basis.MEASURED, two)
    assert (whole.low, whole.value, whole.high, whole.basis) == (2000, 2200, 2400, Basis.ASSUMED)


def test_random_search_is_assumed_to_learn_nothing() -> None:
    chance = simulate_search(replace(CONFIG, sampler="random", budget=200), COSTS, Cluster(1))
    some = simulate_search(replace(CONFIG, budget=200, sampler="known-cost"), COSTS, Cluster(1))
    learning = simulate_search(replace(CONFIG, budget=200, sampler="evolution"), COSTS, Cluster(1))
    assert chance.complete * 2 < learning.complete
    assert chance.complete < some.complete < learning.complete
    figures = {f.key: f for f in search_figures(CONFIG, COSTS, learning)}
    assert figures["busy_s"].value == learning.busy_s
    assert figures["run_bytes"].value == learning.complete * 4e6


@pytest.mark.parametrize(
    ("bases", "result"),
    [
        ((Basis.MEASURED,), Basis.DERIVED),
        ((Basis.MEASURED, Basis.SIMULATED), Basis.SIMULATED),
        ((Basis.ASSUMED, Basis.SIMULATED), Basis.ASSUMED),
        ((Basis.UNKNOWN, Basis.ASSUMED), Basis.UNKNOWN),
    ],
)
def test_a_number_is_as_certain_as_its_weakest_source(bases: tuple[Basis, ...], result: Basis) -> None:
    assert weaker(*bases) is result


def test_seconds_in_words() -> None:
    assert [seconds(s) for s in (0.0123, 4.567, 3725, 44280)] == ["12.3 ms", "4.57 s", "1:02:05", "12.3 h"]
