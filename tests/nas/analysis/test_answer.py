"""Answers by hand: the best that fits, how sure, who cannot be told apart, and what comes nearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.analysis.answer import LAST_RUNG, RETRAINED, Answer, answer
from nas.analysis.noise import TYPICAL_SCATTER
from nas.analysis.retraining import RetrainingSummary, summarize_retraining
from nas.analysis.selection import SelectionError
from nas.study.records import Study, TrialRecord, TrialState
from tests.nas.analysis.builders import remeasured_for_retraining, retrained, small_study
from tests.nas.study.builders import measurement, record, rung


def sized(trial: TrialRecord, params: int) -> TrialRecord:
    return replace(trial, params=params)


# By trial (score, ratio); throughput is 1000 times the ratio. 0 is the baseline.
POINTS = {0: (0.30, 1.0), 1: (0.20, 4.0), 2: (0.40, 2.0), 3: (0.60, 1.0), 4: (0.595, 1.1), 5: (0.38, 1.99)}


def study() -> Study:
    made = small_study(POINTS)
    return replace(made, trials=tuple(sized(t, 100_000 * (t.number + 1)) for t in made.trials))


def asked(limits: Mapping[str, float], found: RetrainingSummary | None = None, of: Study | None = None) -> Answer:
    return answer(of or study(), found, limits)


def numbers(told: Answer) -> list[int]:
    return [net.trial.number for net in told.runners_up]


def test_the_best_by_score_of_those_that_fit() -> None:
    told = asked({"min_throughput_img_s": 1900})
    assert told.best is not None
    assert told.best.trial.number == 2
    assert (told.fitting, told.compared, told.basis, told.steps) == (3, 6, LAST_RUNG, 30)
    assert told.scatter == TYPICAL_SCATTER
    assert (told.nearest, told.alone) == (None, {})
    # 0.02 ahead of net 5: 0.02 / (0.0075 * sqrt(2)) = 1.886, Student's t of 30 degrees of freedom.
    assert told.best.chance_best == pytest.approx(0.966, abs=0.008)
    assert numbers(told) == []  # 0.034 is negligible


def test_who_cannot_be_told_apart_runs_up() -> None:
    told = asked({})
    assert told.best is not None
    assert told.best.trial.number == 3
    assert numbers(told) == [4]  # behind by 0.005 of 0.0106: 0.32
    (other,) = told.runners_up
    assert other.chance_best == pytest.approx(0.32, abs=0.015)
    assert told.best.chance_best == pytest.approx(0.68, abs=0.015)
    assert told.best.chance_to_keep == 1


def test_the_limits_are_kept_as_surely_as_the_interval_says() -> None:
    told = asked({"min_throughput_img_s": 990 * 2.0})
    assert told.best is not None
    assert told.best.trial.number == 2
    assert told.best.chance_to_keep == pytest.approx(0.975)


def test_a_baseline_may_be_the_answer() -> None:
    told = asked({"max_params": 100_000})
    assert told.best is not None
    assert told.best.trial.baseline == "eradio_femto"


def test_where_nothing_fits_the_nearest_needs_least() -> None:
    told = asked({"min_throughput_img_s": 2100, "max_params": 190_000})
    # 1 has 4000 images/s and 200,000 parameters (1.053); 0 has 1000 (2.1), 2 has 2000 and 300,000 (1.58).
    assert told.best is None
    assert told.nearest is not None
    assert told.nearest.trial.number == 1
    limits = {"min_throughput_img_s": 2100.0, "max_params": 190_000.0}
    assert told.nearest.excess(limits) == {"max_params": pytest.approx(200 / 190)}
    assert told.nearest.chance_best is None
    alone = {name: net and net.trial.number for name, net in told.alone.items()}
    assert alone == {"min_throughput_img_s": 1, "max_params": 0}
    assert asked({"max_params": 1}).alone == {"max_params": None}


def test_what_is_unknown_does_not_fit() -> None:
    made = study()
    unknown = replace(measurement(1.0), peak_memory_mib=None)
    trials = tuple(replace(t, measurement=unknown) for t in made.trials)
    told = asked({"max_memory_mib": 100}, of=replace(made, trials=trials))
    assert (told.best, told.nearest) == (None, None)


def test_nets_stopped_at_a_lower_rung_are_left_out_however_good() -> None:
    made = study()
    known = {"params": 1, "macs": 1, "measurement": measurement(3.0), "rungs": (rung(0, 0.99),)}
    stopped = replace(record(6, (0.99,), 3.0), state=TrialState.STOPPED, **known)  # type: ignore[arg-type]
    slow = replace(stopped, number=7, measurement=measurement(0.5))
    told = asked({"min_throughput_img_s": 1900}, of=replace(made, trials=(*made.trials, stopped, slow)))
    assert told.best is not None
    assert told.best.trial.number == 2
    assert told.stopped_early == 1


def test_a_study_without_complete_nets_has_no_answer() -> None:
    made = study()
    with pytest.raises(SelectionError, match="no trial that was measured"):
        asked({}, of=replace(made, trials=()))


def summary_of(scores: Mapping[int, tuple[float, ...]], ratios: Mapping[int, float]) -> RetrainingSummary:
    again = [f for n, values in scores.items() for f in retrained(n, dict(enumerate(values, 1)))]
    found = summarize_retraining(study(), again, [remeasured_for_retraining(ratios)])
    assert found is not None
    return found


def test_finalists_answer_by_their_means_and_measurements() -> None:
    found = summary_of({3: (0.70, 0.71), 4: (0.75, 0.76), 2: (0.5, 0.51)}, {3: 1.0, 4: 1.2, 2: 2.0})
    told = asked({"max_params": 500_000}, found)
    assert told.best is not None
    assert (told.basis, told.steps) == (RETRAINED, 90)
    assert told.best.trial.number == 4  # 3 is ahead in the study
    assert told.best.score == pytest.approx(0.755)
    assert told.best.seeds == 2
    assert told.scatter == found.scatter
    assert (told.compared, told.fitting, told.not_retrained) == (3, 3, 2)  # 0 and 1 fit, too
    # It has 1200 images/s now and had 1100 in the study, where 2 is the favourite under this limit.
    told = asked({"min_throughput_img_s": 1150}, found)
    assert told.best is not None
    assert (told.basis, told.best.trial.number) == (RETRAINED, 4)
    assert asked({"min_throughput_img_s": 1250}, found).best.trial.number == 2  # type: ignore[union-attr]


def test_a_favourite_that_is_not_retrained_keeps_the_answer_to_the_last_rung() -> None:
    found = summary_of({2: (0.5, 0.51), 1: (0.3, 0.31)}, {1: 4.0, 2: 2.0})
    told = asked({}, found)
    assert told.best is not None
    assert (told.basis, told.best.trial.number, told.best.score) == (LAST_RUNG, 3, 0.60)
    assert told.scatter == found.scatter_at_last_rung  # measured by the retrainings after the study's last rung
    assert told.not_retrained == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 8)), min_size=1, max_size=5),
    st.floats(100, 9000),
    st.integers(50_000, 700_000),
)
def test_the_answer_fits_and_nothing_that_fits_is_better(
    points: list[tuple[float, float]], speed: float, params: int
) -> None:
    made = small_study(dict(enumerate([(0.3, 1.0), *points])))
    made = replace(made, trials=tuple(sized(t, 100_000 * (t.number + 1)) for t in made.trials))
    limits = {"min_throughput_img_s": speed, "max_params": float(params)}
    told = asked(limits, of=made)
    fit = [
        t for t in made.trials
        if t.measurement and t.measurement.throughput_img_s >= speed and t.params and t.params <= params
    ]  # fmt: skip
    assert told.fitting == len(fit)
    if told.best is None:
        assert not fit
        assert told.nearest is not None
        worst = max(told.nearest.excess(limits).values())
        assert all(
            max(speed / t.measurement.throughput_img_s, (t.params or 0) / params) >= worst * (1 - 1e-9)
            for t in made.trials
            if t.measurement
        )
    else:
        assert told.best.score == max(t.rungs[-1].score for t in fit)
        assert 0 < (told.best.chance_best or 0) <= 1
        assert told.best.trial.number not in numbers(told)
