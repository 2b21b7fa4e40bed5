"""The page of a training: of a finished one, an interrupted one, one that has just begun; hostile names are text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.study.records import StudyRecord, TrialState
from nas.study.training_files import PLAN, TABLE
from reports.page import build_report
from reports.training_page import MAX_POINTS, draw_charts, render
from tests.nas.analysis.builders import new_store
from tests.nas.study.builders import record, search_config, study_info

HISTORY = {
    "step": [10.0, 20.0, 30.0],
    "learning_rate": [0.002, 0.001, 0.0],
    "loss/lite0/summary": [0.9, 0.5, 0.4],
    "loss/lite0/spatial": [0.8, 0.6, 0.5],
    "images_per_second": [100.0, 110.0, 120.0],
    "waiting_share": [0.1, 0.0, 0.0],
}


def study(scores: tuple[float, ...] = (0.25, 0.5), state: TrialState = TrialState.COMPLETE) -> StudyRecord:
    info = replace(study_info(search_config(baselines=())), space={"architecture": ["mine"]})
    return StudyRecord(info, (replace(record(0, scores, 2.0), state=state),))


def test_a_finished_training_has_its_numbers_and_charts() -> None:
    page = render(study(), HISTORY, None, "runs/mine")
    assert "After 30 training steps the score is 0.500." in page
    assert "It was 0.250 after 10 steps." in page
    assert "Its throughput is 2.000 times that of eradio_pico" in page
    assert "backbone-nas export runs/mine --format timm" in page
    assert page.count('class="chart wide"') == page.count('class="chart narrow"') == 5
    assert "<script" not in page
    assert "gradient norm" not in page, "a chart without data is left out"


def test_an_interrupted_training_says_how_it_continues() -> None:
    page = render(study((0.25,), TrialState.RUNNING), HISTORY, None, "my runs/a")
    assert "After 10 of 30 training steps the score is 0.250." in page
    assert "backbone-nas train --resume &#39;my runs/a&#39;" in page
    assert "backbone-nas export" not in page


def test_a_timing_that_cannot_be_trusted_is_no_fact() -> None:
    made = study()
    (trial,) = made.trials
    assert trial.measurement is not None
    timed = replace(trial, measurement=replace(trial.measurement, verdict="contended"))
    assert "cannot be trusted (contended)" in render(replace(made, trials=(timed,)), HISTORY, None, "r")
    assert "cannot be trusted" not in render(made, HISTORY, None, "r")


def test_a_training_that_has_just_begun_has_a_page() -> None:
    started = study((), TrialState.RUNNING)
    assert "The training has not been evaluated yet." in render(started, {}, None, "r")
    assert "There is nothing to draw yet." in render(replace(started, trials=()), {}, None, "r")


@pytest.mark.parametrize("score", ["spatial", "both"])
def test_the_parts_of_the_score_are_those_of_the_heads_that_it_counts(score: str) -> None:
    made = study()
    (trial,) = made.trials
    rungs = tuple(replace(r, teachers={"lite0": {"summary": 0.1, "spatial": 0.7}}) for r in trial.rungs)
    config = {**made.info.config, "distill": {**made.info.config["distill"], "score": score}}
    made = replace(made, info=replace(made.info, config=config), trials=(replace(trial, rungs=rungs),))
    page = render(made, {}, None, "runs/mine")
    part = 0.4 if score == "both" else 0.7
    assert page.count(f"<td>{part:.3f}</td>") == len(rungs)


def test_names_are_text() -> None:
    hostile = "<script>alert(1)</script>"
    made = study()
    made = replace(made, info=replace(made.info, space={"architecture": [hostile]}, command=hostile))
    page = render(made, {**HISTORY, f"loss/{hostile}/spatial": [1.0, 1.0, 1.0]}, None, hostile)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_long_lines_are_averaged() -> None:
    steps = [float(step) for step in range(10, 30_010, 10)]
    assert len(steps) > 2 * MAX_POINTS
    long = draw_charts(study().info, (), {"step": steps, "loss/a/spatial": [1.0] * len(steps)})["losses"]
    short = draw_charts(study().info, (), {"step": steps[:MAX_POINTS], "loss/a/spatial": [1.0] * MAX_POINTS})["losses"]
    assert len(long) < 1.2 * len(short)


@pytest.mark.parametrize("table", [None, "step,learning_rate\n10,0.1\n20,"])
def test_the_report_of_a_training_folder_is_this_page(tmp_path: Path, table: str | None) -> None:
    new_store(tmp_path / "run", study())
    (tmp_path / "run" / PLAN).write_text("{}")
    if table is not None:
        (tmp_path / "run" / TABLE).write_text(table)
    page = build_report(tmp_path / "run").read_text()
    assert "Training of one backbone" in page
    assert "After 30 training steps the score is 0.500." in page
