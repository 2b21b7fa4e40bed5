"""Reports of replays: scores of a table are no distillation scores, and no command trains or exports their models."""

import re
from dataclasses import replace

from nas.study.records import StudyRecord, TrialState
from reports.metric_agreement import summarize_metrics
from reports.page import render
from reports.summary import summarize
from reports.trust import Outcome, trust_checks
from tests.reports import synthetic
from tests.reports.brute_force import Page

LABEL = "cifar100 accuracy, published"


def replayed(label: str = LABEL) -> StudyRecord:
    """Make a study as `backbone-nas replay` stores it, of accuracies unless `label` is another one."""
    study = synthetic.study(12, only=TrialState.COMPLETE, baselines=False)
    study = synthetic.timed(study, lambda t: {"arm": "published", "samples": 1})
    trials = tuple(
        replace(t, rungs=tuple(replace(r, teachers={}, losses={}, metrics={}) for r in t.rungs)) for t in study.trials
    )
    score, throughput = study.info.objectives
    environment = study.info.environment | {"replayed": "published results; nothing was trained"}
    study = synthetic.with_info(
        replace(study, trials=trials), environment=environment, teachers={}, teacher_facts={}, baselines=()
    )
    return synthetic.with_info(study, objectives=(replace(score, label=label, unit="%"), throughput))


def test_no_command_exports_trains_or_continues_what_a_table_holds() -> None:
    study = replayed()
    study = replace(study, trials=study.trials[:4])
    summary = summarize(study)
    page = Page(render(study, summary, run="RUN")).words
    assert LABEL in page
    assert "distillation score" not in page.lower()
    assert not re.search(r"backbone-nas (?!report|compare)\w+", page)
    checks = trust_checks(study.info, summary, summarize_metrics(study.info, summary), None, "RUN")
    assert [check.command for check in checks] == [None] * 4
    noise, _, seeds, metrics = (check.outcome for check in checks)
    assert {noise, seeds, metrics} == {Outcome.NOT_APPLICABLE}
