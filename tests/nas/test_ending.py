from dataclasses import replace

import pytest

from nas.ending import REPORT_EVERY_S, REST, LiveReport
from nas.records import TrialState
from tests.reports import synthetic
from tests.reports.test_command import store_study


@pytest.fixture
def study():
    return synthetic.study(3, baselines=False, only=TrialState.COMPLETE, budget=8)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_report_is_written_while_the_search_runs_and_then_rests(study, tmp_path):
    store_study(study, tmp_path / "run")
    clock, heard, said = Clock(), [], []
    page = tmp_path / "run" / "report.html"
    live = LiveReport(tmp_path / "run", lambda loop, record: heard.append(record.number), said.append, clock)

    def tell(now_s: float, state: TrialState = TrialState.COMPLETE) -> bool:
        """Whether a page was written, of a record that comes at this time."""
        clock.now_s = now_s
        page.unlink(missing_ok=True)
        live(None, replace(study.trials[0], state=state))
        return page.exists()

    assert not tell(REPORT_EVERY_S - 1)
    assert not tell(REPORT_EVERY_S, TrialState.RUNNING)
    assert tell(REPORT_EVERY_S)
    assert "Unfinished: 3 of 8 evaluations are in." in page.read_text()
    assert not tell(2 * REPORT_EVERY_S - 1)
    assert tell(2 * REPORT_EVERY_S)
    assert heard == [0] * 5
    assert said == []


def test_a_slow_report_rests_longer_and_one_that_fails_stops_nothing(tmp_path, study):
    times = iter([0.0, 60.0, 64.0, 64.0 + 4 * REST - 1, 64.0 + 4 * REST, 400.0])
    said: list[str] = []
    live = LiveReport(tmp_path / "nowhere", lambda loop, record: None, said.append, lambda: next(times))
    live(None, study.trials[0])  # takes four seconds to fail
    assert len(said) == 1
    live(None, study.trials[0])
    assert len(said) == 1
    live(None, study.trials[0])
    assert len(said) == 2
