import re
from dataclasses import replace

import pytest
from rich.console import Console

from nas.analysis.evidence import gather_evidence
from nas.analysis.recommendation import recommend
from nas.search.live_report import REPORT_EVERY_S, REST_FACTOR, LiveReport, LostModels, end_search
from nas.search.session import SearchFailed, conclude
from nas.storage.store import read_study
from nas.study.loop import StudyLoop
from nas.study.records import TrialState
from tests.nas.study.builders import search_config
from tests.nas.study.searches import drive, new_store
from tests.reports import synthetic
from tests.reports.synthetic import store_study


@pytest.fixture
def study():
    return synthetic.study(3, baselines=False, only=TrialState.COMPLETE, budget=8)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_report_is_written_while_the_search_runs_and_then_rests(study, tmp_path):
    store_study(study, tmp_path / "run")
    clock, received, shown = Clock(), [], []
    page = tmp_path / "run" / "report.html"
    live = LiveReport(tmp_path / "run", lambda loop, record: received.append(record.number), shown.append, clock)

    def report(now_s: float, state: TrialState = TrialState.COMPLETE) -> bool:
        """Pass a record on at a time; return whether a page was written."""
        clock.now_s = now_s
        page.unlink(missing_ok=True)
        live(None, replace(study.trials[0], state=state))
        return page.exists()

    assert not report(REPORT_EVERY_S - 1)
    assert not report(REPORT_EVERY_S, TrialState.RUNNING)
    assert report(REPORT_EVERY_S)
    assert "3 of 8 evaluations" in page.read_text()
    assert not report(2 * REPORT_EVERY_S - 1)
    assert report(2 * REPORT_EVERY_S)
    assert received == [0] * 5
    assert shown == []


def test_the_pause_grows_with_the_report_s_time_and_a_report_that_fails_stops_nothing(tmp_path, study):
    times = iter([0.0, 60.0, 64.0, 64.0 + 4 * REST_FACTOR - 1, 64.0 + 4 * REST_FACTOR, 400.0])
    shown: list[str] = []
    live = LiveReport(tmp_path / "nowhere", lambda loop, record: None, shown.append, lambda: next(times))
    live(None, study.trials[0])  # takes four seconds to fail
    assert len(shown) == 1
    live(None, study.trials[0])
    assert len(shown) == 1
    live(None, study.trials[0])
    assert len(shown) == 2


@pytest.fixture
def loop(tmp_path):
    loop = StudyLoop(new_store(tmp_path / "run", search_config(budget=2, baselines=())))
    drive(loop)
    return loop


def end(loop, run, ending):
    end_search(loop, 1, 0.0, run, ending, Console(width=1000), command_s=231.0)


def test_a_last_report_that_fails_is_shown_and_the_study_is_closed(loop, tmp_path, capsys):
    (tmp_path / "run" / "report.html").mkdir()  # nothing can be written there
    end(loop, tmp_path / "run", None)
    shown = capsys.readouterr().out
    assert f"backbone-nas report {tmp_path / 'run'}" in shown
    assert read_study(tmp_path / "run").info.time_spent


@pytest.mark.parametrize("why", ["20 failed architectures in a row", None])
def test_a_session_stores_why_it_ended_before_its_budget(loop, tmp_path, why):
    loop.gave_up = why
    end(loop, tmp_path / "run", "gave up" if why else "done")
    assert read_study(tmp_path / "run").info.sessions[-1].get("ending") == why


def test_a_finished_search_names_its_winner_and_what_to_do_next(loop, tmp_path, capsys):
    run = tmp_path / "run"
    end(loop, run, "done")
    shown = capsys.readouterr().out
    recommended = recommend(gather_evidence(read_study(run)))
    assert recommended is not None
    assert f" {recommended.trial.name} " in shown
    for command in (f"report {run} --open", f"retrain {run}", f"export {run} --format timm"):
        assert f"\n  backbone-nas {command} " in shown
    assert "--baselines" not in shown, "the study has none"
    assert shown.endswith(f"\nreport: {run / 'report.html'}\n")


def test_an_interrupted_search_says_how_far_it_came_and_recommends_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    loop = StudyLoop(new_store(run, search_config(budget=2, baselines=("eradio_pico",))))
    drive(loop, 2)
    end(loop, run, None)
    shown = capsys.readouterr().out
    assert re.match(r"after 3:51, \d:\d\d in trials over 2 sessions: 1 of 2 architectures evaluated", shown)
    assert "backbone-nas" not in shown
    assert f"report: {run / 'report.html'}" in shown


def test_failed_models_are_counted_with_their_reasons_and_most_of_them_are_a_failure():
    complete, stopped, infeasible = (
        synthetic.study(1, only=state, baselines=False).trials[0]
        for state in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.INFEASIBLE)
    )
    a, b = (replace(complete, state=TrialState.FAILED, reason=reason) for reason in ("no memory", "no compiler"))
    assert (str(LostModels.among([complete, infeasible])), LostModels.among([infeasible]).most) == ("", False)
    few = LostModels.among([complete, stopped, a, b, infeasible])
    assert not few.most
    assert str(few).startswith("2 of 4 models failed: no memory (1 of them)")
    most = LostModels.among([complete, stopped, b, a, b, replace(complete, state=TrialState.RUNNING)])
    assert most.most
    assert str(most) == "3 of 5 models failed: no compiler (2 of them); no memory (1 of them)"
    many = LostModels.among(replace(a, reason=str(n)) for n in range(5))
    assert str(many).endswith("; and 2 more reasons")


def test_a_finished_search_fails_where_more_models_failed_than_were_trained(loop, tmp_path):
    shown: list[str] = []
    conclude(loop, "resume", shown.append)
    assert shown == []
    failed = replace(loop.trials[0], state=TrialState.FAILED, reason="measuring: no compiler")
    for number in (10, 11, 12):
        loop.trials[number] = replace(failed, number=number)
        if number < 12:
            conclude(loop, "resume", shown.append)
    assert shown[-1] == "2 of 4 models failed: measuring: no compiler (2 of them)"
    with pytest.raises(SearchFailed, match="3 of 5 models failed: measuring: no compiler"):
        conclude(loop, "resume", shown.append)
