"""Compare quantities, chances and relaxations of one candidate with those by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import NormalDist, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.analysis.limit_chances import Quantity, chance_to_keep, quantities
from nas.study.timing_doubts import order_statistic_interval
from tests.nas.study.builders import measurement, record


def test_a_candidate_has_all_limited_quantities_with_measured_intervals() -> None:
    trial = record(1, (0.1, 0.2), 2.0)
    values = quantities(trial, trial.measurement, [0.001 * n for n in range(1, 101)])
    assert (values["max_params"].value, values["max_gmacs"].value) == (10**6, 0.01)
    assert values["min_throughput_img_s"] == Quantity("min_throughput_img_s", 2000, 1980, 2020)
    # Of 100 samples the 40th and the 61st: 0.95 of a binomial of 100 tosses lies between.
    assert values["max_latency_ms"] == Quantity("max_latency_ms", 1.0, 40.0, 61.0)
    assert values["max_memory_mib"] == Quantity("max_memory_mib", 10.0)
    assert set(quantities(trial, None)) == {"max_params", "max_gmacs"}


@pytest.mark.parametrize("verdict", ["contended", "throttled", "clock changed"])
def test_a_disturbed_timing_gives_values_and_no_chances(verdict: str) -> None:
    trial = record(1, (0.1, 0.2), 2.0)
    values = quantities(trial, replace(measurement(2.0), verdict=verdict), [0.001] * 100)
    assert values["min_throughput_img_s"] == Quantity("min_throughput_img_s", 2000)
    assert values["max_latency_ms"] == Quantity("max_latency_ms", 1.0)
    assert chance_to_keep(values, {"min_throughput_img_s": 1000.0}) is None
    assert chance_to_keep(values, {"max_params": 2e6}) == 1


def test_a_chance_is_that_of_a_normal_logarithm() -> None:
    speed = Quantity("min_throughput_img_s", 1000, 980, 1030)
    below, above = (math.hypot(math.log(1000 / 980) / 1.959964, 0.06), math.hypot(math.log(1.03) / 1.959964, 0.06))
    normal = NormalDist()
    assert speed.chance(990) == pytest.approx(normal.cdf(math.log(1000 / 990) / below))
    assert speed.chance(980) == pytest.approx(normal.cdf(math.log(1000 / 980) / below))
    assert speed.chance(1030) == pytest.approx(1 - normal.cdf(math.log(1030 / 1000) / above))
    assert speed.chance(980) < 0.9, "less than 0.975, that of the interval of one process"
    assert Quantity("min_throughput_img_s", 1000, 1000, 1000).chance(999) == 1, "a published value is exact"
    assert speed.chance(1010) == pytest.approx(1 - normal.cdf(math.log(1010 / 1000) / above))
    assert speed.chance(1000) == 0.5
    slow = Quantity("max_latency_ms", 10.0, 9.5, 10.5)
    assert slow.chance(10.5) == pytest.approx(0.6821, abs=1e-4)  # 0.473 deviations of 0.1031
    assert slow.chance(9.5) == pytest.approx(0.3099, abs=1e-4)  # 0.496 of 0.1034


def test_counts_have_certain_chances_and_times_without_interval_none() -> None:
    assert Quantity("max_params", 100).chance(100) == 1
    assert Quantity("max_params", 101).chance(100) == 0
    assert Quantity("max_latency_ms", 1.0).chance(100) is None
    assert Quantity("max_latency_ms", 1.0, 1.0, 1.0).chance(1.1) == 1
    assert Quantity("max_latency_ms", 1.0, 1.0, 1.0).chance(0.9) == 0
    assert Quantity("max_latency_ms", 1.0, 1.0, 1.0).chance(1.0) == 1


def test_a_limit_is_relaxed_by_a_factor() -> None:
    assert Quantity("max_params", 110).relaxation(100) == pytest.approx(1.1)
    assert Quantity("max_params", 90).relaxation(100) == 1
    assert Quantity("min_throughput_img_s", 80).relaxation(100) == pytest.approx(1.25)
    assert Quantity("min_throughput_img_s", 100).relaxation(100) == 1


def test_all_limits_together() -> None:
    values = {"max_params": Quantity("max_params", 5), "max_latency_ms": Quantity("max_latency_ms", 10.0, 9.5, 10.5)}
    values["min_throughput_img_s"] = Quantity("min_throughput_img_s", 1000, 980, 1030)
    assert chance_to_keep(values, {}) == 1
    assert chance_to_keep(values, {"max_params": 6, "max_latency_ms": 10.5}) == pytest.approx(0.6821, abs=1e-4)
    both = {"min_throughput_img_s": 980, "max_latency_ms": 10.5}
    assert chance_to_keep(values, both) == pytest.approx(0.6300 * 0.6821, abs=2e-4)
    assert chance_to_keep(values, {"max_params": 6, "max_memory_mib": 1}) is None
    timed = quantities(record(1, (0.1, 0.2), 1.0), measurement(1.0))
    assert chance_to_keep(timed, {"max_latency_ms": 100.0}) is None


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    rng, covered = random.Random(0), 0
    for _ in range(2000):
        interval = order_statistic_interval([rng.expovariate(1.0) for _ in range(40)])
        assert interval is not None
        covered += interval[0] <= math.log(2) <= interval[1]
    assert 0.94 <= covered / 2000 <= 0.985  # of 40 samples 0.962
    assert order_statistic_interval([1.0] * 5) is None


positive = st.floats(1e-3, 1e3)


@settings(deadline=None)
@given(st.lists(positive, min_size=6, max_size=300))
def test_the_interval_of_a_median_holds_it(samples: list[float]) -> None:
    interval = order_statistic_interval(samples)
    assert interval is not None
    assert min(samples) <= interval[0] <= median(samples) <= interval[1] <= max(samples)


@settings(deadline=None)
@given(st.sampled_from(["max_latency_ms", "min_throughput_img_s"]), positive, positive, st.floats(0.001, 0.5))
def test_a_looser_limit_is_never_less_sure_and_kept_is_even_odds_or_better(
    name: str, value: float, bound: float, off: float
) -> None:
    q = Quantity(name, value, value * (1 - off), value * (1 + off))
    chance, looser = q.chance(bound), q.chance(bound * (0.9 if name.startswith("min_") else 1.1))
    assert chance is not None
    assert looser is not None
    assert 0 <= chance <= looser <= 1
    assert (chance >= 0.5) == q.kept(bound)
    assert (q.relaxation(bound) == 1) == q.kept(bound)
