import math
from dataclasses import replace

import pytest

from nas.study.records import Objective, StudyRecord, TrialState
from reports.importance import MAX_MODELS, MIN_MODELS, Importance, importances
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.awkward import cut, planted


def of(study: StudyRecord, objective: str) -> dict[str, Importance]:
    return {r.choice: r for r in importances(study.info, summarize(study)) if r.objective == objective}


def variance_share(study: StudyRecord, part, whole) -> float:
    def variance(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / len(values)

    return variance([part(t) for t in study.trials]) / variance([whole(t) for t in study.trials])


def test_choices_that_matter_are_found_with_their_share_and_no_others():
    study = planted(400)
    score, speed = of(study, "score"), of(study, "throughput")
    width = variance_share(study, lambda t: 0.05 * math.log2(t.spec["stages"][2]["width"]), lambda t: t.score)
    wide = variance_share(
        study, lambda t: 0.5 * math.log2(t.spec["stages"][3]["width"]), lambda t: math.log2(t.measurement.ratio)
    )
    assert list(score)[:2] == ["stage 3 block", "stage 3 width"]
    assert score["stage 3 width"].low < width < score["stage 3 width"].high
    assert next(iter(speed)) == "stage 4 width"
    assert speed["stage 4 width"].low < wide < speed["stage 4 width"].high
    # Stage 3's heads exist in attention blocks alone: not centered within the block, they would seem to matter.
    assert all(r.share < 0.02 for r in list(score.values())[2:])
    assert {c for c, r in speed.items() if r.low > 0.02} == {"stage 4 width", "stage 2 block", "stage 2 expansion"}
    assert all(r.explained > 0.75 and r.models == 400 for r in score.values())
    assert all(r.explained > 0.97 for r in speed.values())  # of its logarithm, in which the effects add up


def test_choices_explain_nothing_of_noise():
    studies = [synthetic.study(60, seed=seed, only=TrialState.COMPLETE) for seed in range(2)]
    rows = [of(study, objective) for study in studies for objective in ("score", "throughput")]
    assert sum(next(iter(row.values())).explained for row in rows) / len(rows) < 0.02
    assert not any(r.meaningful for row in rows for r in row.values())
    assert all(min(r.share for r in row.values()) < 0 and max(r.share for r in row.values()) < 0.2 for row in rows)


def test_too_few_models_and_constant_objectives_have_no_importances():
    assert importances(synthetic.info(), summarize(synthetic.study(0))) == ()
    assert of(planted(MIN_MODELS - 1), "score") == {}
    assert of(planted(MIN_MODELS), "score")
    study = synthetic.study(60, only=TrialState.COMPLETE)
    same = tuple(replace(t, measurement=replace(t.measurement, ratio=1.0)) for t in study.trials)
    assert of(replace(study, trials=same), "throughput") == {}


def test_the_same_study_gives_the_same_numbers_and_a_large_one_a_sample():
    study = planted(60)
    summary = summarize(study)
    assert importances(study.info, summary) == importances(study.info, summary)
    many = replace(summary, complete=summary.complete * (2 * MAX_MODELS // 60))
    score = replace(study.info, objectives=study.info.objectives[:1])
    assert 0.9 * MAX_MODELS < importances(score, many)[0].models <= MAX_MODELS


def test_further_objectives_are_a_field_of_the_measurement_or_a_metric():
    study = synthetic.study(80, only=TrialState.COMPLETE)
    further = tuple(Objective(name, name, "", 0.0, log=True) for name in ("latency_ms", "knn", "unknown"))
    found = importances(replace(study.info, objectives=further), summarize(study))
    assert {r.objective for r in found} == {"latency_ms", "knn"}


def test_stages_of_one_stride_have_one_name_whatever_stem_is_before_them():
    score = of(cut(planted(400)), "score")
    assert list(score)[:2] == ["stage 3 block", "stage 3 width"]


@pytest.mark.parametrize(("cause", "choice"), [(2, "stem"), (3, "last stride")])
def test_the_number_of_stages_is_one_choice(cause: int, choice: str):
    """A stage that is not there would else share its effect among its block, depth and width."""
    study = cut(planted(400))
    trials = tuple(
        replace(t, rungs=(*t.rungs[:-1], replace(t.rungs[-1], score=0.3 + 0.2 * (t.number % cause == 0))))
        for t in study.trials
    )
    score = of(replace(study, trials=trials), "score")
    assert next(iter(score)) == choice
    assert score[choice].share > 0.9
    assert all(row.share < 0.02 for name, row in score.items() if name != choice)


def test_a_neck_has_the_name_of_its_stride_too():
    study = planted(400)
    same = replace(study, trials=tuple(replace(t, spec={**t.spec, "neck": "stage3"}) for t in study.trials))
    assert "neck" not in of(cut(same), "score")
