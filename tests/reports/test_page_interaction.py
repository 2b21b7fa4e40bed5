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
from reports import page as page_of_report
from reports.dataframe import trial_frame
from reports.page import write_page
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.awkward import ATTACKS, cut, hostile
from tests.reports.browser import Browser, needs_chromium

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
    walked = []
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowRight", "End"):
        tab.press(key)
        walked.append(int(tab.evaluate(ROW)))
    assert walked == [order[0], order[1], order[2], order[1], order[-1]]
    assert tab.evaluate(OPTION).startswith(f"trial {order[-1]},")
    tab.press("Home")
    tab.wait(f"{RING} !== null")


def test_enter_opens_a_card_and_escape_gives_the_focus_back(tab, study):
    first = by_speed(study)[0]
    tab.evaluate(f"{LIST}.focus()")
    tab.press("Home")
    tab.press("Enter")
    tab.wait(f"{CARD} === 'trial {first}'")
    assert tab.evaluate("location.hash") == f"#{study.trials[first].arch_id}"
    tab.press("Escape")
    tab.wait(f"{CARD} === null")
    assert tab.evaluate(f"document.activeElement === {LIST}")
    assert tab.evaluate("location.hash") == ""


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


def test_a_card_without_stage_times_does_not_mention_them(tab, study):
    bare = next(t for t in study.trials if t.measurement is None)
    tab.evaluate(f"document.querySelector('#all a[data-open=\"{bare.number}\"]').click()")
    tab.wait(f"{CARD} === 'trial {bare.number}'")
    text = tab.evaluate("document.querySelector('dialog').textContent")
    assert "of time" not in text


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
    assert browser.evaluate("document.querySelector('#trials > p').textContent.includes('†')") is not None


@pytest.mark.parametrize("most", [1000, 9])
def test_of_many_models_the_charts_of_metrics_draw_some_and_all_that_matter(
    browser, study, tmp_path, monkeypatch, most
):
    monkeypatch.setattr(figure_data, "MAX_SCATTERED", most)
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    summary = summarize(study)
    important = len(summary.front) + len(summary.baselines)
    others = len(summary.complete) - len(summary.front)
    drawn = browser.evaluate("document.querySelectorAll('#chart-metric-0 .mark-symbol path').length")
    step = math.ceil(others / most)
    assert drawn == important + math.ceil(others / step)
    assert (step > 1) is (most == 9)


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


def test_a_column_after_the_texts_is_sorted_and_aligned_as_numbers(browser, study, tmp_path, monkeypatch):
    script = page_of_report._script()
    extra = "\n  ['extra', t => t.number, t => String(t.number)],\n];\nconst view"
    monkeypatch.setattr(page_of_report, "_script", lambda: script.replace("\n];\nconst view", extra))
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    head = "document.querySelectorAll('#all thead th')"
    texts = ["trial", "status", "blocks"]
    for i, title in enumerate(titles := browser.evaluate(f"[...{head}].map(cell => cell.textContent.split(' ↑')[0])")):
        cells = f"[{head}[{i}], document.querySelector('#all tbody tr').cells[{i}]]"
        aligned = browser.evaluate(f"{cells}.map(cell => getComputedStyle(cell).textAlign)")
        assert aligned == ["left" if title in texts else "right"] * 2, title
    for i in reversed(range(len(titles))):
        browser.evaluate(f"{head}[{i}].firstChild.click()")
        order = browser.evaluate(f"{head}[{i}].getAttribute('aria-sort')")
        assert order == ("ascending" if titles[i] in texts else "descending"), titles[i]


def test_rows_are_walked_with_arrows_from_one_tab_stop(tab):
    assert tab.evaluate("document.querySelectorAll('#all a[tabindex=\"0\"]').length") == 1
    tab.evaluate("document.querySelector('#all a[tabindex=\"0\"]').focus()")
    tab.press("ArrowDown")
    tab.press("ArrowDown")
    assert tab.evaluate(ROW) == "2"
    tab.press("Enter")
    tab.wait(f"{CARD} !== null")
    tab.press("Escape")
    assert tab.evaluate("document.activeElement.closest('tr').dataset.row") == "2"


def test_brushing_an_axis_filters_the_table_and_the_front(tab, study):
    assert tab.evaluate(ROWS) == len(study.trials)
    tab.evaluate("document.querySelector('#parallel').scrollIntoView({block: 'center', behavior: 'instant'})")
    place = "(() => { const b = document.querySelectorAll('#axes .grab')[1].getBoundingClientRect();"
    x, top, bottom = tab.evaluate(f"{place} return [b.x + b.width / 2, b.top + 8, b.bottom - 8]; }})()")
    tab.drag((x, top), (x, top + 20), (x, (top + bottom) / 2))  # the upper half of the scores
    scores = [t.score for t in study.trials if t.score is not None]
    middle = (min(scores) + max(scores)) / 2
    wanted = {t.number for t in study.trials if t.score is not None and t.score >= middle}
    tab.wait(f"{ROWS} < {len(study.trials)}")
    shown = tab.evaluate("[...document.querySelectorAll('#all tbody tr')].map(row => Number(row.dataset.row))")
    assert len(set(shown) ^ wanted) <= 2  # a pixel is a pixel
    drawn = "document.querySelectorAll('#chart-front .mark-symbol path[fill]').length"
    tab.wait(f"{drawn} < {len(shown) + 20}")
    tab.evaluate("document.querySelector('.readout [data-clear]').click()")
    tab.wait(f"{ROWS} === {len(study.trials)}")


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


def test_a_table_in_another_order_begins_with_its_first_row(tab, study):
    best = max((t for t in study.trials if t.rungs), key=lambda t: t.rungs[-1].score)
    tab.evaluate("document.querySelector('#rows').scrollTop = 600")
    tab.evaluate("[...document.querySelectorAll('#all thead button')].find(b => b.textContent === 'score').click()")
    assert tab.evaluate("document.querySelector('#rows').scrollTop") == 0
    assert tab.evaluate("document.querySelector('#all tbody tr').dataset.row") == str(best.number)
    assert (
        tab.evaluate("document.querySelector('#shown').textContent")
        == f"{len(study.trials)} of {len(study.trials)} trials shown"
    )


def test_the_printed_table_of_all_trials_is_no_wider_than_the_paper(tab):
    tab.send("Emulation.setDeviceMetricsOverride", width=718, height=1000, deviceScaleFactor=1, mobile=False)
    tab.send("Emulation.setEmulatedMedia", media="print")
    tab.wait("innerWidth === 718")
    width = tab.evaluate("document.querySelector('#all').offsetWidth")
    tab.send("Emulation.setEmulatedMedia", media="")
    assert width <= 718


def test_what_was_searched_for_is_not_downloaded(tab, study):
    tab.evaluate("byId = id => document.getElementById(id), byId('find').value = '#7', true")
    tab.evaluate("byId('find').dispatchEvent(new Event('input', {bubbles: true}))")
    tab.wait(f"{ROWS} < {len(study.trials)}")
    tab.evaluate("made = URL.createObjectURL, URL.createObjectURL = b => { blob = b; return made.call(URL, b); }, 1")
    tab.evaluate("byId('json').click()")
    downloaded = json.loads(tab.evaluate("blob.text()"))["trials"]
    for trial, known in zip(downloaded, study.trials, strict=True):
        assert TrialRecord.from_dict(trial).arch_id == known.arch_id


POINTED = """(() => {
  const axes = document.querySelector('#axes'), tip = document.querySelector('#tip');
  const box = axes.getBoundingClientRect();
  const last = [...axes.querySelectorAll('.grab')].at(-1).getBoundingClientRect();
  const x = (last.left + last.right) / 2;
  const at = (x, y) => {
    axes.dispatchEvent(new PointerEvent('pointermove', { clientX: x, clientY: y, bubbles: true }));
    return tip.hidden ? null : tip.textContent;
  };
  return Array.from({ length: box.height / 4 }, (_, i) => [at(x - 1, box.top + 4 * i), at(x + 1, box.top + 4 * i)]);
})()"""


def test_right_of_the_last_axis_are_the_nets_that_end_there(tab):
    pairs = tab.evaluate(POINTED)  # that axis is the steps: all lines end in three bundles, which cross there
    assert {before is not None for before, _ in pairs} == {True, False}
    assert sum((before is None) != (after is None) for before, after in pairs) < 5


STOPPED_MARKS = 'document.querySelectorAll(\'#chart-front path[stroke="var(--stopped)"][d*="L"]\').length'


def test_early_stopped_candidates_are_drawn_while_the_switch_is_on(tab, study):
    stopped = sum(t.state is TrialState.STOPPED for t in study.trials)
    assert tab.evaluate(STOPPED_MARKS) == 0
    tab.evaluate("document.querySelector('#stopped').focus()")
    tab.press(" ")
    tab.wait(f"{STOPPED_MARKS} >= {stopped}")  # one more is in the legend
    tab.press(" ")
    tab.wait(f"{STOPPED_MARKS} === 0")


def test_a_click_on_a_point_opens_its_card(tab, study):
    tab.evaluate("document.querySelector('#chart-front').scrollIntoView({block: 'center', behavior: 'instant'})")
    tab.evaluate(f"{LIST}.focus({{preventScroll: true}})")
    tab.press("Home")
    tab.wait(f"{RING} !== null")
    middle = "return [b.x + b.width / 2, b.y + b.height / 2];"
    x, y = tab.evaluate(f"(() => {{ const b = {RING}.getBoundingClientRect(); {middle} }})()")
    tab.drag((x, y))
    tab.wait(f"{CARD} === 'trial {by_speed(study)[0]}'")


def test_the_button_opens_the_card_of_the_picked_candidate(tab, study):
    button = "document.querySelector('.readout [data-card]')"
    assert tab.evaluate(f"{button}.getClientRects().length") == 0, "nothing is picked"
    tab.evaluate(f"{LIST}.focus()")
    tab.press("Home")
    tab.wait(f"{button}.getClientRects().length > 0")
    tab.evaluate(f"{button}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    tab.drag(tab.evaluate(f"(() => {{ const b = {button}.getBoundingClientRect(); return [b.x + 5, b.y + 5]; }})()"))
    tab.wait(f"{CARD} === 'trial {by_speed(study)[0]}'")


def test_the_tables_of_a_desktop_are_not_cut(tab):
    cut_off = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth)"
    assert tab.evaluate("innerWidth") == 1280
    assert tab.evaluate(f"{cut_off}.map(box => box.getAttribute('aria-label'))") == ["Table of all trials"]


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
    assert browser.evaluate(
        "document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth"
    )
    assert browser.evaluate("document.title").startswith("<script>")


def test_a_predicted_throughput_says_that_it_was_not_measured(browser, tmp_path):
    study = synthetic.predicted(synthetic.study(60), error=0.25)
    write_page(gather_evidence(study), tmp_path / "report.html", tmp_path)
    browser.open(tmp_path / "report.html")
    unmeasured = [t for t in study.trials if t.predicted_ratio is not None]
    assert unmeasured
    for trial in unmeasured[:3]:
        row = f"document.querySelector('#all tr[data-row=\"{trial.number}\"]')"
        browser.evaluate(f"{row}.querySelector('a').click()")
        browser.wait(f"{CARD} === 'trial {trial.number}'")
        card = browser.evaluate("document.querySelector('dialog[open]').innerText")
        assert f"About {trial.predicted_ratio:.2f} times" in card
        assert "images/s" not in card
        browser.evaluate("document.querySelector('dialog[open]').close()")
        assert f"about {trial.predicted_ratio:.2f}" in browser.evaluate(f"{row}.innerText")
    text = browser.evaluate("document.body.innerText")
    assert f"{len(unmeasured)} early-stopped candidates were not measured" in text
    assert "off by 25.0 % in the median and by 25.0 % at most" in text
    assert browser.console == []


def test_paper_shows_what_is_folded_on_the_screen(tab):
    folded = "document.querySelectorAll('details:not([open])').length"
    before = tab.evaluate(folded)
    assert before > 0
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(folded) == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(folded) == before
