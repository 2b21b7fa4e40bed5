"""One recommendation: the terminal, the commands, the Python API, the model card and the report name the same model.

The search recommends trial 1, its retrainings trial 2.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import backbones
from nas.api import load_study
from nas.export.__main__ import main as export_command
from nas.retrain.__main__ import main as retrain_command
from nas.run_folder import retraining_folder
from nas.search.live_report import show_result
from nas.select.__main__ import main as select_command
from nas.study.records import Expectation, TrialRecord, TrialState
from reports.__main__ import main as report_command
from search_space import ArchSpec
from tests.nas.analysis.builders import (
    OVERTURNED,
    SEARCHED,
    new_store,
    remeasured,
    remeasured_for_retraining,
    retrained,
    small_study,
)
from tests.nas.study.builders import record
from tests.reports.brute_force import Page


def searched(run: Path, more: tuple[TrialRecord, ...] = ()) -> Path:
    """Store the study with weights of the search and of two seeds of each retrained trial.

    `more` trials score 0.65 after retraining, at 4 times the reference's throughput.
    """
    study = small_study(SEARCHED)
    study = replace(study, trials=(*study.trials, *more))
    store = new_store(run, study)
    torch.manual_seed(0)
    for trial in (*study.trials[:3], *more):
        network = backbones.build(ArchSpec.from_dict(trial.spec))
        for folder in (run, retraining_folder(run, 90, 1), retraining_folder(run, 90, 2)):
            (folder / "weights").mkdir(parents=True, exist_ok=True)
            backbones.save(network, folder / "weights" / f"{trial.arch_id}.safetensors")
    for number, scores in OVERTURNED.items():
        for retraining in retrained(number, dict(enumerate(scores, 1))):
            store.save_retraining(retraining)
    for trial in more:
        for retraining in retrained(trial.number, {1: 0.65, 2: 0.65}):
            store.save_retraining(retraining)
    ratios = {n: ratio for n, (_, ratio) in SEARCHED.items()}
    store.save_remeasurement(remeasured_for_retraining(ratios | {trial.number: 4.0 for trial in more}))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return searched(tmp_path / "run")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """Return a function that checks an exit code and returns what the command printed on stdout."""

    def output(code: int) -> str:
        assert code == 0
        return capsys.readouterr().out

    return output


def test_a_model_that_the_search_stopped_early_and_never_measured_is_recommended_everywhere(
    tmp_path: Path, printed: Callable[[int], str]
) -> None:
    cut = replace(record(5, (0.3,), 1.0), state=TrialState.STOPPED, measurement=None, reason="early-stopped")
    cut = replace(cut, expected=Expectation(0.5, 0.01, 0.01, 4.0))
    run = searched(tmp_path / "run", more=(cut,))
    study = load_study(run)
    best = study.best()
    assert (best.number, best.score) == (5, pytest.approx(0.65))
    assert (study.model(5).number, study.model(5).score) == (5, best.score)
    assert json.loads(printed(select_command([str(run), "--min-throughput", "3900", "--json"])))["best"]["trial"] == 5
    assert "trial 5 scores at least as high as eradio_femto: 4.00 times" in printed(report_command([str(run)]))
    page = (run / "report.html").read_text()
    assert "Recommended so far: trial 5" in Page(page).words
    assert "#5 recommended" not in page  # the chart shows scores of the search
    assert export_command([str(run), "--format", "timm", "--out", str(tmp_path / "winner")]) == 0
    assert "recommended model: trial 5" in (tmp_path / "winner/README.md").read_text()


def test_the_end_of_a_search_recommends_by_retrained_scores(run: Path) -> None:
    text = io.StringIO()
    show_result(run, Console(file=text, width=1000))
    assert text.getvalue().startswith("Trial 2 is the fastest retrained candidate")


def test_retraining_ends_with_the_recommendation(run: Path, printed: Callable[[int], str]) -> None:
    words = ["--baselines", "--seeds", "2", "--train-steps", "90", "--near-misses", "0", "--plot", str(run / "p.png")]
    last = printed(retrain_command([str(run), *words])).splitlines()[-1]
    assert last.startswith("recommended model: trial 2 (scores of 2 longer trainings each, 90 steps; ")
    told = json.loads(printed(retrain_command([str(run), *words, "--json"])))
    assert told["recommendation"] == last


def test_timings_of_the_searchs_setting_change_the_report_the_api_select_and_the_card(
    tmp_path: Path, printed: Callable[[int], str]
) -> None:
    study = small_study(SEARCHED)
    run = tmp_path / "run"
    store = new_store(run, study)
    # Trial 1 turns out to be slower than 2 and leaves the front of speed and score.
    again = remeasured({0: 1.0, 1: 2.0, 2: 3.2}, name="quiet")
    phone = remeasured(dict.fromkeys(SEARCHED, 100.0), name="phone")
    phone = replace(phone, measurements={n: replace(m, device="phone") for n, m in phone.measurements.items()})
    for each in (again, phone):
        store.save_remeasurement(each)
    (run / "weights").mkdir()
    for trial in study.trials[1:3]:
        backbones.save(
            backbones.build(ArchSpec.from_dict(trial.spec)), run / "weights" / f"{trial.arch_id}.safetensors"
        )
    loaded = load_study(run)
    best = loaded.best()
    assert (best.number, best.ratio, best.score) == (2, 3.2, SEARCHED[2][0])
    assert [model.number for model in loaded.front()] == [4, 2, 3]
    last = printed(report_command([str(run)])).splitlines()[-1]
    assert "trial 2 scores at least as high as eradio_femto: 3.20 times" in last
    answer = json.loads(printed(select_command([str(run), "--min-throughput", "3000", "--json"])))
    assert (answer["best"]["trial"], answer["best"]["remeasurement"]) == (2, "quiet")
    assert answer["best"]["measurement"]["ratio"] == 3.2
    printed(export_command([str(run), "--format", "timm", "--out", str(tmp_path / "winner")]))
    card = (tmp_path / "winner/README.md").read_text()
    assert "Measured again (remeasurement `quiet`) on" in card
    assert "| 3.200 | " in card
