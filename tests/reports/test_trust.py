"""The four checks of a report, and what it takes to pass them."""

import re
from dataclasses import replace

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.noise import SeedScatter
from nas.study.objectives import objectives
from nas.study.records import RaceResult, Retraining, StudyRecord, TrialState
from reports.evidence_data import retraining_results
from reports.formatting import duration
from reports.metric_agreement import summarize_metrics
from reports.search_course import MIN_RANKED, RungCorrelation
from reports.summary import CurvePoint, summarize
from reports.trust import (
    MAX_DOUBTFUL,
    MAX_FLOOR,
    MIN_CHANCE,
    MIN_TAU,
    Outcome,
    TrustCheck,
    trust_checks,
)
from tests.nas.analysis.builders import failed, remeasured_for_retraining, retrained, small_study
from tests.reports import synthetic

NOISE, RUNGS, SEEDS, METRICS = range(4)


@pytest.fixture(scope="module")
def study() -> StudyRecord:
    """Return a study whose reference was measured against itself to 1 %, without disturbance."""
    exact = {"ratio": 1.0, "ratio_low": 0.99, "ratio_high": 1.01}
    return synthetic.timed(
        synthetic.study(60), lambda t: {"verdict": "ok", **(exact if t.baseline == synthetic.REFERENCE else {})}
    )


def check(study: StudyRecord, which: int, retraining: dict | None = None, **changes: object) -> TrustCheck:
    summary = replace(summarize(study), **changes)
    return trust_checks(study.info, summary, summarize_metrics(study.info, summary), retraining, "runs/mine")[which]


@pytest.mark.parametrize(("floor", "outcome"), [(MAX_FLOOR - 0.01, Outcome.PASS), (MAX_FLOOR + 0.01, Outcome.WARN)])
def test_noise_is_judged_by_the_reference_against_itself(study, floor, outcome):
    noisy = synthetic.timed(study, lambda t: {"ratio_high": 1 + floor} if t.baseline == synthetic.REFERENCE else {})
    found = check(noisy, NOISE)
    assert found.outcome is outcome
    assert (found.command is not None) is (outcome is Outcome.WARN)


@pytest.mark.parametrize(("share", "outcome"), [(MAX_DOUBTFUL / 2, Outcome.PASS), (2 * MAX_DOUBTFUL, Outcome.WARN)])
def test_many_disturbed_measurements_warn(study, share, outcome):
    measured = [t.number for t in study.trials if t.measurement and not t.baseline]
    bad = set(measured[: int(share * len(measured))])
    assert (
        check(synthetic.timed(study, lambda t: {"verdict": "contended"} if t.number in bad else {}), NOISE).outcome
        is outcome
    )


def test_without_the_reference_among_the_baselines_noise_is_unknown(study):
    lone = replace(study, trials=tuple(t for t in study.trials if not t.baseline))
    found = check(lone, NOISE)
    assert (found.outcome, found.command) == (Outcome.NOT_DONE, None), "a remeasurement's own reference does not count"


@pytest.mark.parametrize(
    ("taus", "models", "outcome"),
    [
        ((MIN_TAU, 0.9), 30, Outcome.PASS),
        ((0.9, MIN_TAU - 0.01), 30, Outcome.WARN),
        ((0.9, 0.9), 4, Outcome.NOT_DONE),
        ((None, 0.9), 30, Outcome.NOT_DONE),
        ((), 0, Outcome.NOT_APPLICABLE),  # no rung below the last one
    ],
)
def test_short_runs_are_judged_by_the_lower_rung_that_agrees_least(study, taus, models, outcome):
    to_last = tuple(RungCorrelation(low, 2, models, tau, 0.001) for low, tau in enumerate(taus))
    between = (RungCorrelation(0, 1, models, 0.0, 0.5),) if taus else ()  # decides nothing
    assert check(study, RUNGS, correlations=(*between, *to_last)).outcome is outcome


def test_equal_scores_at_a_rung_are_no_lack_of_candidates():
    study = synthetic.study(14, only=TrialState.COMPLETE)
    same = replace(
        study, trials=tuple(replace(t, rungs=(replace(t.rungs[0], score=0.1), *t.rungs[1:])) for t in study.trials)
    )
    found = check(same, RUNGS)
    assert (found.outcome, found.command, found.price) == (Outcome.NOT_DONE, None, "")


@pytest.mark.parametrize("names", [("score",), ("score", "params")])
def test_retraining_does_not_apply_where_it_takes_no_such_objectives(study, names):
    other = synthetic.with_info(study, objectives=objectives(names, "both"))
    found = check(other, SEEDS)
    assert (found.outcome, found.command) == (Outcome.NOT_APPLICABLE, None)


def results(number: int, chance: float | None, seeds: int = 3) -> dict:
    scores = {str(seed): 0.5 for seed in range(seeds)}
    candidate = {"trial": number, "score": 0.5, "half_width": 0.01, "scores": scores, "chance": chance}
    candidate |= {"change": "still on it", "fronts": "on both", "measurement": None}
    return {"seeds": list(range(seeds)), "steps": 1620, "candidates": [candidate], "untrained": []}


@pytest.mark.parametrize(
    ("chance", "seeds", "outcome"),
    [
        (MIN_CHANCE, 2, Outcome.PASS),
        (MIN_CHANCE - 0.01, 2, Outcome.WARN),
        (0.9, 1, Outcome.WARN),
        (None, 2, Outcome.WARN),
    ],
)
def test_retraining_is_judged_by_the_recommended_candidate(study, chance, seeds, outcome):
    number = summarize(study).recommendation.trial.number
    assert check(study, SEEDS, results(number, chance, seeds)).outcome is outcome
    assert check(study, SEEDS, results(number + 1, 0.9)).outcome is Outcome.WARN
    part = results(number, 0.9) | {"untrained": [7]}
    assert check(study, SEEDS, part).outcome is Outcome.WARN, "on the front of some models, compared with no baseline"


@pytest.mark.parametrize(("gain", "outcome"), [(0.05, Outcome.PASS), (0.02, Outcome.WARN), (0.0005, Outcome.WARN)])
def test_a_recommendation_that_may_be_below_the_baseline_is_a_warning(study, gain, outcome):
    """The interval of the lead allows for the choice: by the model's own interval alone 0.0218 would be enough."""
    found = summarize(study).recommendation
    model = replace(found.model, scores=(found.best_baseline.score + gain,))
    result = replace(found.fastest_as_good, candidate=model, score_gain=gain, compared=30)
    seen = replace(found, model=model, fastest_as_good=result, scatter=SeedScatter(0.0075, 30))
    judged = check(study, SEEDS, results(found.trial.number, 0.9), recommendation=seen)
    assert judged.outcome is outcome
    words = r"± ([\d.]+)(?: in score)? \(95 % interval, which allows for the choice among 30 candidates\)\.$"
    half = float(re.search(words, judged.sentence)[1])
    assert 1.4 * 0.0217 < half < 0.05


@pytest.mark.parametrize(("winner", "outcome"), [(3, Outcome.PASS), (None, Outcome.WARN)])
def test_a_race_is_judged_by_whether_a_candidate_passed(study, winner, outcome):
    race = RaceResult(5400, 9000, 1, None, 0.4, winner=winner, best=3, chance=0.9, decided=True)
    found = replace(summarize(study).recommendation, race=race)
    judged = check(study, SEEDS, recommendation=found)
    assert (judged.outcome, judged.command) == (outcome, None)


def seed_check(
    scores: dict[int, tuple[float, float]], *trainings: Retraining, baseline: float = 0.3, slower: float = 0.4
) -> TrustCheck:
    """Judge a search that recommends trial 1, from both retrained scores of each trial; 0 is the baseline, 2 slower."""
    study = small_study({0: (baseline, 1.0), 1: (0.5, 3.0), 2: (slower, 2.0)})
    trainings += tuple(r for number, (a, b) in scores.items() for r in retrained(number, {1: a, 2: b}))
    again = remeasured_for_retraining({0: 1.0, 1: 3.0, 2: 2.0})
    evidence = gather_evidence(study, trainings, [again])
    summary, retraining = summarize(evidence.study, evidence), retraining_results(evidence)
    return trust_checks(study.info, summary, (), retraining, "runs/mine")[SEEDS]


def test_a_recommendation_passes_only_where_retrained_scores_compare_it_with_the_baseline():
    assert seed_check({0: (0.3, 0.31), 1: (0.5, 0.51), 2: (0.4, 0.41)}).outcome is Outcome.PASS
    below = seed_check({0: (0.7, 0.71), 1: (0.5, 0.51), 2: (0.4, 0.41)}, baseline=0.6)
    assert below.outcome is Outcome.WARN
    level = seed_check({0: (0.5, 0.51), 1: (0.5, 0.51), 2: (0.4, 0.41)}, baseline=0.45)
    assert level.outcome is Outcome.WARN
    alone = seed_check({1: (0.5, 0.51), 2: (0.4, 0.41)})
    assert alone.outcome is Outcome.WARN


def test_a_part_of_the_front_is_judged_by_its_scores_and_the_front_is_unknown():
    """Where one model is on the front of those that were retrained, that is no news."""
    found = seed_check({0: (0.3, 0.31), 1: (0.5, 0.51)}, slower=0.6)
    assert found.outcome is Outcome.PASS
    tie = seed_check({0: (0.5, 0.51), 1: (0.5, 0.511)}, baseline=0.45, slower=0.6)
    assert tie.outcome is Outcome.WARN, "as likely below the baseline as above"


def test_failed_trainings_are_no_seeds_of_a_score_and_no_lack_of_trying():
    others = {0: (0.3, 0.31), 2: (0.4, 0.41)}
    one = seed_check(others, *retrained(1, {1: 0.5}), failed(1, 2, "the loss is NaN"))
    none = seed_check(others, failed(1, 1, "the loss is NaN"), failed(1, 2, "the loss is NaN"))
    assert {one.outcome, none.outcome} == {Outcome.WARN}
    assert seed_check(others).outcome is Outcome.WARN


def test_without_retraining_the_command_is_there_unless_the_scores_are_published(study):
    found = check(study, SEEDS)
    assert (found.outcome, found.command) == (Outcome.NOT_DONE, "backbone-nas race runs/mine")
    assert check(synthetic.with_info(study, teachers={}), SEEDS).command is None


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (lambda score: 0.3 + score, Outcome.PASS),
        (lambda score: 0.9 - score, Outcome.WARN),
        (lambda score: 0.3, Outcome.NOT_DONE),  # no order to compare
    ],
)
def test_metrics_are_judged_by_their_order_of_the_models(study, value, outcome):
    judged = with_metrics(study, lambda score: {"knn": value(score)})
    found = check(judged, METRICS)
    assert found.outcome is outcome


def with_metrics(study: StudyRecord, metrics: object, models: int | None = None) -> StudyRecord:
    """Return the study with `metrics` of the score at the last rung, of the first `models` alone."""
    trials = [
        replace(t, rungs=(*t.rungs[:-1], replace(t.rungs[-1], metrics=metrics(t.score)))) if t.rungs else t  # type: ignore[operator]
        for t in study.trials
    ]
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    return replace(study, trials=tuple(trials if models is None else complete[:models]))


def test_metrics_pass_by_a_majority(study):
    agrees, none = (lambda score: 0.3 + score), (lambda score: 0.4 + (score * 1e4) % 0.1)
    for values, outcome in (
        ({"knn": agrees, "probe": agrees, "miou": none}, Outcome.PASS),
        ({"knn": agrees, "probe": none, "miou": none}, Outcome.WARN),
        ({"knn": agrees, "retrieval/hed": agrees, "probe": none}, Outcome.WARN),  # retrieval does not count
    ):
        judged = with_metrics(study, lambda score, values=values: {name: of(score) for name, of in values.items()})
        assert check(judged, METRICS).outcome is outcome


@pytest.mark.parametrize(("models", "outcome"), [(MIN_RANKED - 1, Outcome.NOT_DONE), (MIN_RANKED, Outcome.PASS)])
def test_the_orders_of_few_models_prove_nothing(study, models, outcome):
    few = with_metrics(study, lambda score: {"knn": score}, models)
    found = check(few, METRICS)
    assert found.outcome is outcome
    (row,) = summarize_metrics(few.info, summarize(few))
    assert row.agrees is (outcome is Outcome.PASS)


def test_more_trials_come_from_the_rest_of_the_budget_first(study):
    few = replace(study, trials=study.trials[:5])
    for budget, more in ((200, False), (1, True)):
        found = check(synthetic.with_info(few, config={**few.info.config, "budget": budget}), RUNGS)
        assert ("--extend" in found.command) is more
        assert "--resume runs/mine" in found.command


@pytest.mark.parametrize(("finished", "evaluated", "extend"), [(4, 8, 12), (9, 30, 4)])
def test_a_check_with_too_few_models_asks_for_as_many_as_are_missing(study, finished, evaluated, extend):
    full = synthetic.with_info(study, config={**study.info.config, "budget": evaluated})
    some = {
        "complete": summarize(study).complete[:finished],
        "evaluated": evaluated,
        "curve": (CurvePoint(evaluated, 100.0, 1.0, 50 * evaluated),),
        "baselines": (),
        "correlations": (RungCorrelation(0, 2, finished, 0.9, 0.001),),
    }
    found = check(full, RUNGS, **some)
    assert found.command.endswith(f"--extend {extend}")
    assert f"about {duration(100 * extend / evaluated)} " in found.price


def test_a_search_of_an_exhausted_space_is_offered_no_command_that_continues_it():
    study = synthetic.study(6, only=TrialState.COMPLETE, budget=200)
    session = {"started": "2025-01-31T12:00:00Z", "wall_s": 9.0}
    for ending, command in (("the space has only 6 architectures", None), (None, "search --resume runs/mine")):
        ended = synthetic.with_info(study, sessions=({**session, "ending": ending},))
        for which in (RUNGS, METRICS):
            found = check(ended, which)
            assert found.outcome is Outcome.NOT_DONE
            assert (found.command or "").endswith(command or "")
            assert bool(found.price) is bool(found.command) is bool(command)


def test_metrics_at_which_the_teachers_are_near_chance_judge_nothing(study):
    chance = dict.fromkeys(("knn", "probe", "miou"), 0.49)
    facts = {n: replace(f, metrics=dict.fromkeys(chance, 0.5)) for n, f in study.info.teacher_facts.items()}
    assert check(study, METRICS).outcome is Outcome.PASS
    assert check(synthetic.with_info(study, chance=chance, teacher_facts=facts), METRICS).outcome is Outcome.NOT_DONE


def test_a_study_without_trials_has_four_checks_and_passes_none():
    empty = synthetic.study(0, baselines=False, budget=8)
    assert [check(empty, i).outcome for i in range(4)] == [Outcome.NOT_DONE] * 4
