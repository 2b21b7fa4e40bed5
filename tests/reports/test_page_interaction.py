"""Picking and filtering in a real browser: a change in one view shows in all."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nas.analysis.evidence import gather_evidence
from nas.study.objectives import OBJECTIVES
from nas.study.records import Objective, TrialRecord, TrialState
from reports import figure_data
from reports.dataframe import trial_frame
from reports.page import write_page
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.awkward import ATTACKS, cut, hostile
from tests.reports.browser import Browser, needs_chromium
from tests.waiting import until

pytestmark = needs_chromium
LIST = "document.querySelector('.readout [role=listbox]')"
OPTION = "document.querySelector('.readout [role=option]').textContent"
ROW = "(document.querySelector('#all [aria-current]')?.dataset.row ?? null)"
ROWS = "document.querySelectorAll('#all tbody tr').length"
RING = "document.querySelector('#chart-front path[stroke-width=\"2.5\"]')"
CARD = "(document.querySelector('dialog[open] h2')?.textContent ?? null)"


@pytest.fixture(scope="module")
def study():
    return synthetic.study(60)


@pytest.fixture(scope="module")
def page(study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("linked")
    write_page(gather_evidence(study), folder / "report.html", folder)
    return folder / "report.html"


@pytest.fixture
def tab(page, browser) -> Iterator[Browser]:
    """Open the page anew; the test fails if a script of the page does."""
    browser.open(page)
    yield browser
    assert browser.console == []


def by_speed(study) -> list[int]:
    measured = [t for t in study.trials if t.measurement]
    return [t.number for t in sorted(measured, key=lambda t: (-t.measurement.ratio, t.number))]


def test_arrow_keys_go_by_speed_and_light_up_the_table_and_the_front(tab, study):
    order = by_speed(study)
    tab.evaluate(f"{LIST}.focus()")
    for key, place in (("ArrowRight", 0), ("ArrowLeft", 1), ("ArrowLeft", 2), ("ArrowRight", 1), ("End", -1)):
        tab.press(key)
        tab.expect(ROW, str(order[place]))
    tab.wait(f"{OPTION}.startsWith('trial {order[-1]},')")
    tab.press("Home")
    tab.wait(f"{RING} !== null")


def test_enter_opens_a_card_and_escape_gives_the_focus_back(tab, study):
    first = by_speed(study)[0]
    tab.evaluate(f"{LIST}.focus()")
    tab.press("Home")
    tab.press("Enter")
    tab.expect(CARD, f"trial {first}")
    tab.expect("location.hash", f"#{study.trials[first].arch_id}")
    tab.press("Escape")
    tab.expect(CARD, None)
    tab.wait(f"document.activeElement === {LIST}")
    tab.expect("location.hash", "")


def test_a_card_has_the_time_of_each_stage(tab, study):
    trial = next(t for t in study.trials if not t.baseline and t.state is TrialState.COMPLETE)
    times = trial.measurement.stages_s
    tab.evaluate(f"document.querySelector('#all a[data-open=\"{trial.number}\"]').click()")
    rows = tab.evaluate(
        "[...document.querySelectorAll('dialog .stages tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    share = {name: f"{100 * s / sum(times.values()):.0f} %" for name, s in times.items()}
    assert [row[:3] for row in rows] == [[name, f"{1e3 * s:.2f}", share[name]] for name, s in times.items()]
    drawn = tab.evaluate("[...document.querySelectorAll('dialog > svg')][0].textContent")
    assert all(f"{share[name]} of time" in drawn for name in ("stem", "stage1", "stage4"))


@pytest.mark.slow
def test_a_disturbed_timing_is_marked_in_its_row_alone(browser, study, tmp_path):
    number = next(t.number for t in study.trials if t.measurement)
    trials = [
        replace(t, measurement=replace(t.measurement, verdict="contended")) if t.number == number else t
        for t in study.trials
    ]
    write_page(gather_evidence(replace(study, trials=tuple(trials))), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    marked = (
        "[...document.querySelectorAll('#all tbody tr')].filter(r => r.textContent.includes('†'))"
        ".map(r => r.dataset.row)"
    )
    assert browser.evaluate(marked) == [str(number)]


@pytest.mark.slow
def test_of_many_models_the_charts_of_metrics_draw_some_and_all_that_matter(browser, study, tmp_path, monkeypatch):
    most = 9
    monkeypatch.setattr(figure_data, "MAX_SCATTERED", most)
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    summary = summarize(study)
    important = len(summary.front) + len(summary.baselines)
    others = len(summary.complete) - len(summary.front)
    drawn = browser.evaluate("document.querySelectorAll('#chart-metric-0 .mark-symbol path').length")
    step = math.ceil(others / most)
    assert drawn == important + math.ceil(others / step)
    assert step > 1


def test_the_table_that_is_downloaded_has_a_plain_value_in_every_cell(browser, study, tmp_path):
    trials = tuple(
        replace(t, measurement=t.measurement and replace(t.measurement, conditions={"waited": 0.5}, notes=("a", "b")))
        for t in study.trials
    )
    write_page(gather_evidence(replace(study, trials=trials)), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    browser.evaluate("URL.createObjectURL = blob => { window.kept = blob; return '#'; }")
    browser.evaluate("document.querySelector('#csv').click()")
    text = browser.evaluate("window.kept.text()")
    assert "[object" not in text
    rows = {int(row["number"]): row for row in csv.DictReader(io.StringIO(text))}
    assert set(rows) == {t.number for t in trials}
    for t in trials:
        row = rows[t.number]
        conditions = row["measurement/conditions_json"]
        assert (json.loads(conditions) == {"waited": 0.5}) if t.measurement else not conditions
        value = float(row["stage/stage1_s"] or "nan")
        assert value == pytest.approx(
            t.measurement.stages_s["stage1"] if t.measurement else math.nan, rel=1e-3, nan_ok=True
        )
    frame = trial_frame(study := replace(study, trials=trials), summarize(study)).set_index("number")
    shown = pd.read_csv(io.StringIO(text)).set_index("number").dropna(axis=1, how="all")
    assert set(shown) == set(frame.dropna(axis=1, how="all")), "report --csv has the same columns"
    for name in shown.columns.intersection(frame.select_dtypes("number").columns):
        assert np.allclose(shown[name], frame[name].astype(float), rtol=1e-3, equal_nan=True), name


@pytest.mark.slow
def test_rows_are_walked_with_arrows_from_one_tab_stop(tab):
    assert tab.evaluate("document.querySelectorAll('#all a[tabindex=\"0\"]').length") == 1
    tab.evaluate("document.querySelector('#all a[tabindex=\"0\"]').focus()")
    tab.press("ArrowDown")
    tab.press("ArrowDown")
    tab.expect(ROW, "2")
    tab.press("Enter")
    tab.wait(f"{CARD} !== null")
    tab.press("Escape")
    tab.expect(f"{CARD} ?? document.activeElement.closest('tr')?.dataset.row", "2")


def test_brushing_an_axis_filters_the_table_and_the_front(tab, study):
    assert tab.evaluate(ROWS) == len(study.trials)
    tab.evaluate("document.querySelector('#parallel').scrollIntoView({block: 'center', behavior: 'instant'})")
    place = "(() => { const b = document.querySelectorAll('#axes .grab')[1].getBoundingClientRect();"
    x, top, bottom = tab.evaluate(f"{place} return [b.x + b.width / 2, b.top + 8, b.bottom - 8]; }})()")
    tab.drag((x, top), (x, top + 20), (x, (top + bottom) / 2))  # the upper half of the scores
    scores = [t.score for t in study.trials if t.score is not None]
    middle = (min(scores) + max(scores)) / 2
    wanted = {t.number for t in study.trials if t.score is not None and t.score >= middle}
    rows = "[...document.querySelectorAll('#all tbody tr')].map(row => Number(row.dataset.row))"
    until(lambda: len(set(tab.evaluate(rows)) ^ wanted) <= 2)  # a pixel is a pixel
    drawn = "document.querySelectorAll('#chart-front .mark-symbol path[fill]').length"
    tab.wait(f"{drawn} < {len(wanted) + 20}")
    tab.evaluate("document.querySelector('.readout [data-clear]').click()")
    tab.expect(ROWS, len(study.trials))


@pytest.mark.slow
def test_axes_of_stages_and_necks_count_by_stride_whatever_the_stem(browser, tmp_path):
    """Stage 1 at stride 4 and stage 3 at stride 16 have different blocks; half of the models begin with stage 3."""
    study = synthetic.study(40, only=TrialState.COMPLETE, baselines=False)
    blocks = ("c2f", "basic", "attention", "window"), ("mbconv", "convnext", "pool", "mr_window")
    trials = []
    for t in study.trials:
        named = zip(t.spec["stages"], blocks[t.number // 2 % 2], strict=True)
        stages = [{**stage, "block": block} for stage, block in named]
        trials.append(replace(t, spec={**t.spec, "stages": stages, "neck": ("stage2", "stage3")[t.number // 2 % 2]}))
    study = cut(replace(study, trials=tuple(trials)))
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    browser.evaluate("document.querySelectorAll('#axis-sets input')[1].click()")
    axes = browser.evaluate(
        "(() => { const axes = {}; let last; for (const text of document.querySelectorAll('#axes text')) {"
        " if (text.matches('.title')) axes[last = text.querySelector('title').textContent] = [];"
        " else axes[last].push(text.textContent); } return axes; })()"
    )
    wanted = {f"stage {i + 1}": sorted(pair) for i, pair in enumerate(zip(*blocks, strict=True))}
    assert {name: values for name, values in axes.items() if name.startswith("stage")} == wanted
    assert axes["neck"] == ["none", "stage2", "stage3"]
    assert browser.console == []


@pytest.mark.slow
def test_every_objective_has_one_column_and_one_axis_in_each_set(browser, study, tmp_path):
    """Memory has a column and an axis in every study; reserved memory only where it is an objective."""
    study = synthetic.timed(study, lambda t: {"reserved_memory_mib": 2.0 * t.number})
    reserved = Objective("reserved_memory_mib", "reserved memory", "MiB", 1e5, log=True, minimize=True)
    further = OBJECTIVES["params"].objective, OBJECTIVES["memory"].objective, reserved
    study = synthetic.with_info(study, objectives=(*study.info.objectives, *further))
    write_page(gather_evidence(study), tmp_path / "r.html", tmp_path)
    browser.open(tmp_path / "r.html")
    heads = browser.evaluate("[...document.querySelectorAll('#all thead th')].map(cell => cell.textContent)")
    own = ["params M", "memory MiB", "reserved memory MiB"]
    assert [heads.count(name) for name in own] == [1, 1, 1]
    at = heads.index(own[-1])
    cells = browser.evaluate(f"[...document.querySelectorAll('#all tbody tr')].map(row => row.cells[{at}].textContent)")
    assert cells == [str(2 * t.number) if t.measurement else "–" for t in study.trials]
    for i in range(browser.evaluate("document.querySelectorAll('#axis-sets input').length")):
        browser.evaluate(f"document.querySelectorAll('#axis-sets input')[{i}].click()")
        axes = browser.evaluate("[...document.querySelectorAll('#axes .title title')].map(title => title.textContent)")
        assert axes[:5] == ["× eradio_pico", "score", *own]
        assert len(set(axes)) == len(axes)
    assert browser.console == []


def test_what_was_searched_for_is_not_downloaded(tab, study):
    tab.evaluate("byId = id => document.getElementById(id), byId('find').value = '#7', true")
    tab.evaluate("byId('find').dispatchEvent(new Event('input', {bubbles: true}))")
    tab.wait(f"{ROWS} < {len(study.trials)}")
    tab.evaluate("made = URL.createObjectURL, URL.createObjectURL = b => { blob = b; return made.call(URL, b); }, 1")
    tab.evaluate("byId('json').click()")
    downloaded = json.loads(tab.evaluate("blob.text()"))["trials"]
    for trial, known in zip(downloaded, study.trials, strict=True):
        assert TrialRecord.from_dict(trial).arch_id == known.arch_id


def test_a_click_on_a_point_opens_its_card(tab, study):
    tab.evaluate("document.querySelector('#chart-front').scrollIntoView({block: 'center', behavior: 'instant'})")
    tab.evaluate(f"{LIST}.focus({{preventScroll: true}})")
    tab.press("Home")
    tab.wait(f"{RING} !== null")
    middle = "return [b.x + b.width / 2, b.y + b.height / 2];"
    x, y = tab.evaluate(f"(() => {{ const b = {RING}.getBoundingClientRect(); {middle} }})()")
    tab.drag((x, y))
    tab.expect(CARD, f"trial {by_speed(study)[0]}")


@pytest.mark.slow
def test_names_of_10_kb_stay_inside_a_phone(browser, tmp_path):
    write_page(gather_evidence(hostile("".join(ATTACKS) + "W" * 10_000, trials=8)), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    browser.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=False)
    browser.wait("innerWidth === 360")
    browser.wait("document.documentElement.scrollWidth <= 360")  # once the charts are laid out anew
    captions = "[...document.querySelectorAll('.scroll caption')].map(c => c.getBoundingClientRect().width)"
    assert all(width <= 360 for width in browser.evaluate(captions)), "a caption that is cut off"
    browser.evaluate(f"{LIST}.focus()")
    browser.press("Home")
    browser.press("Enter")
    browser.wait(f"{CARD} !== null")
    browser.wait("document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth")
    assert browser.evaluate("document.title").startswith("<script>")


@pytest.mark.slow
def test_a_predicted_throughput_says_that_it_was_not_measured(browser, tmp_path):
    study = synthetic.predicted(synthetic.study(60), error=0.25)
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    unmeasured = [t for t in study.trials if t.predicted_ratio is not None]
    assert unmeasured
    for trial in unmeasured[:3]:
        row = f"document.querySelector('#all tr[data-row=\"{trial.number}\"]')"
        browser.evaluate(f"{row}.querySelector('a').click()")
        browser.expect(CARD, f"trial {trial.number}")
        card = browser.evaluate("document.querySelector('dialog[open]').innerText")
        assert f"About {trial.predicted_ratio:.2f} times" in card
        assert "images/s" not in card
        browser.evaluate("document.querySelector('dialog[open]').close()")
        assert f"about {trial.predicted_ratio:.2f}" in browser.evaluate(f"{row}.innerText")
    assert browser.console == []


@pytest.mark.slow
def test_paper_shows_what_is_folded_on_the_screen(tab):
    folded = "document.querySelectorAll('details:not([open])').length"
    before = tab.evaluate(folded)
    assert before > 0
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(folded) == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(folded) == before
