"""Comparisons of studies: numbers against plain loops, and which numbers are not compared."""

import re
import shutil
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import pytest

from nas.study.records import Remeasurement, StudyInfo, StudyRecord, TrialState
from reports.compare.__main__ import main
from reports.compare.comparison import MIN_RANKED, StudyComparison, compare_studies
from reports.compare.comparison_page import draw_charts, render
from reports.document import chart_svg
from reports.summary import summarize
from tests.reports import brute_force, synthetic
from tests.reports.awkward import ATTACKS, hostile
from tests.reports.brute_force import Page
from tests.reports.synthetic import with_info

REFERENCE = (-0.1, 0.25)  # the lowest of both studies


@cache
def known_cost() -> StudyRecord:
    study = synthetic.study(60, seed=1)
    return with_info(study, name="known-cost", config=study.info.config | {"sampler": "known_cost"})


@cache
def control() -> StudyRecord:
    """Make another search that has also seen 50 architectures of the first one, with another reference point."""
    study = synthetic.study(40, seed=2)
    shared = [replace(t, number=t.number + 100) for t in known_cost().trials[5:55]]
    faster = [
        replace(
            t, measurement=t.measurement and replace(t.measurement, ratio=t.measurement.ratio * (1 + 0.2 * (i % 3)))
        )
        for i, t in enumerate(shared)
    ]
    score, throughput = study.info.objectives
    objectives = (replace(score, reference=-0.1), replace(throughput, reference=0.5))
    config = study.info.config | {"sampler": "random"}
    study = replace(study, trials=(*study.trials, *faster))
    return with_info(study, name="control", objectives=objectives, config=config)


def page_of(comparison: StudyComparison) -> Page:
    """Render the page without its charts, which take seconds."""
    return Page(render(comparison, {}))


@cache
def both() -> StudyComparison:
    return compare_studies([known_cost(), control()])


@cache
def page_of_both() -> Page:
    return page_of(both())


def numbers(page: Page) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in page.table("Numbers of the studies").rows[1:]}


def places(study: StudyRecord, baselines: bool = False) -> list[brute_force.Place]:
    return [brute_force.place(t) for t in brute_force.trained(study, baselines)]


def test_numbers_are_those_of_plain_loops_over_one_reference_point():
    shown = numbers(page_of_both())
    for i, study in enumerate((known_cost(), control())):
        front = brute_force.front(brute_force.trained(study, False))
        counted = [t for t in study.trials if t.counts]
        assert shown["architectures evaluated"][i] == str(len(counted))
        assert shown["training steps"][i] == f"{sum(t.rungs[-1].steps for t in counted):,}"
        assert shown["on the Pareto front"][i] == str(len(front))
        assert shown["fastest on the front, × reference"][i] == f"{front[0].measurement.ratio:.3f}"
        assert shown["best score on the front"][i] == f"{max(t.rungs[-1].score for t in front):.3f}"
        assert shown["hypervolume"][i] == f"{brute_force.hypervolume(places(study), REFERENCE):.4f}"
        baselines = brute_force.hypervolume(places(study, True), REFERENCE)
        assert shown["hypervolume of the baselines alone"][i] == f"{baselines:.4f}"
    assert both().reference == REFERENCE


def test_curves_are_compared_after_as_many_trainings():
    curves = []
    for study in (known_cost(), control()):
        counted = sorted((t for t in study.trials if t.counts), key=lambda t: (t.finished_s, t.number))
        done = [
            [brute_force.place(t) for t in counted[:n] if t.state is TrialState.COMPLETE]
            for n in range(len(counted) + 1)
        ]
        curves.append([brute_force.hypervolume(some, REFERENCE) for some in done])
    (pair,) = both().pairs
    shorter = min(map(len, curves)) - 1
    assert pair.trainings == shorter
    assert pair.volumes == pytest.approx((curves[0][shorter], curves[1][shorter]))
    for ours, theirs, reached in ((0, 1, pair.reached[0]), (1, 0, pair.reached[1])):
        wanted = next((n for n, volume in enumerate(curves[ours]) if volume >= curves[theirs][-1] - 1e-12), None)
        assert reached == wanted
    words = page_of_both().words
    assert all(f"{volume:.4f}" in words for volume in pair.volumes)


def test_coverage_each_way():
    fronts = [
        [brute_force.place(t) for t in brute_force.front(brute_force.trained(s, False))]
        for s in (known_cost(), control())
    ]
    table = page_of_both().table("Coverage").rows
    ab, ba = brute_force.coverage(*fronts), brute_force.coverage(*fronts[::-1])
    assert ab != ba
    assert table[1][1:] == ["", f"{100 * ab:.1f} %"]
    assert table[2][1:] == [f"{100 * ba:.1f} %", ""]


def test_shared_architectures_and_how_alike_they_rank():
    a, b = known_cost(), control()
    ratios = [{t.arch_id: t.measurement.ratio for t in reversed(s.trials) if t.measurement} for s in (a, b)]
    scores = [
        {t.arch_id: t.rungs[-1].score for t in brute_force.trained(s, False) + brute_force.trained(s, True)}
        for s in (a, b)
    ]
    rows = page_of_both().table("Rank correlations of A and B").body()
    for row, (first, second) in zip(rows, (ratios, scores), strict=True):
        pairs = [(first[i], second[i]) for i in first if i in second]
        assert len(pairs) > 10
        assert int(row["architectures"]) == len(pairs)
        assert row["τ"] == f"{brute_force.tau(pairs):.2f}"
    table = page_of_both().table("Shared architectures of A and B").rows[1:]
    fastest = sorted((i for i in ratios[0] if i in ratios[1]), key=lambda i: (-ratios[0][i], i))
    assert [row[0] for row in table] == fastest[:25]
    for arch_id, _, _, ours, theirs, score, other in table:
        assert (ours, theirs) == (f"{ratios[0][arch_id]:.3f}", f"{ratios[1][arch_id]:.3f}")
        assert score == (f"{scores[0][arch_id]:.3f}" if arch_id in scores[0] else "–")
        assert other == (f"{scores[1][arch_id]:.3f}" if arch_id in scores[1] else "–")


def test_of_few_shared_architectures_no_rank_correlation_is_shown():
    def sharing(trials: int) -> Page:
        study = synthetic.study(trials, seed=1, only=TrialState.COMPLETE, baselines=False)
        return page_of(compare_studies([study, study]))

    few, enough = sharing(MIN_RANKED - 1), sharing(MIN_RANKED)
    assert "too few" in few.words
    assert "too few" not in enough.words
    for page, count, tau in ((few, MIN_RANKED - 1, "too few"), (enough, MIN_RANKED, "1.00")):
        for row in page.table("Rank correlations of A and B").body():
            assert (row["architectures"], row["τ"]) == (str(count), tau)
            assert (row["p"] == "–") is (page is few)


def other_score(info: StudyInfo) -> dict:
    score = replace(info.objectives[0], label="explained variance of something else")
    return {"objectives": (score, info.objectives[1])}


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda i: {"teachers": {"hed": "0" * 64}}, "score"),
        (lambda i: {"teachers": i.teachers | {"hed": f"{2:064x}"}}, "score"),
        (lambda i: {"data": {"name": "other", "fingerprint": "0" * 64}}, "score"),
        (lambda i: {"rung_steps": (60, 180, 541)}, "score"),
        (other_score, "score"),
        (lambda i: {"reference": "eradio_nano"}, "throughput"),
    ],
)
def test_numbers_on_different_scales_are_not_compared_and_the_reason_is_given(change, missing):
    a, b = known_cost(), control()
    comparison = compare_studies([a, with_info(b, **change(b.info))])
    reasons = comparison.comparability
    (reason,) = getattr(reasons, missing)
    assert (reasons.same_axes, reasons.dominance, comparison.reference, comparison.coverage) == (False, False, None, {})
    page = page_of(comparison)
    assert reason in page.words
    assert not [name for name in numbers(page) if "hypervolume" in name]
    assert ("best score on the front" in numbers(page)) is (missing != "score")
    assert ("fastest on the front, × reference" in numbers(page)) is (missing != "throughput")
    assert "Coverage" not in [t.label for t in page.tables]
    assert not [s.summary for s in comparison.studies if f"{s.summary.hypervolume:.4f}" in page.words]
    assert len(page.table("Rank correlations of A and B").body()) == 2


def test_on_another_device_no_model_dominates_but_both_fronts_are_shown():
    a, b = known_cost(), control()
    moved = tuple(replace(t, measurement=t.measurement and replace(t.measurement, device="H100")) for t in b.trials)
    comparison = compare_studies([a, replace(b, trials=moved)])
    assert len(comparison.comparability.measurement) == 1
    page = page_of(comparison)
    assert "Coverage" not in [t.label for t in page.tables]
    assert "hypervolume" in numbers(page)


def test_three_studies_and_studies_without_a_front_have_a_page():
    empty = synthetic.study(0, baselines=False)
    lost = synthetic.study(5, only=TrialState.INFEASIBLE, baselines=False)
    comparison = compare_studies([known_cost(), empty, lost])
    page = page_of(comparison)
    assert page.table("Coverage").rows[1][2] == "no front"
    assert numbers(page)["on the Pareto front"][1:] == ["0", "0"]
    assert [pair.trainings for pair in comparison.pairs] == [0, 0]
    assert draw_charts(compare_studies([empty, lost])) == {}
    assert numbers(page_of(compare_studies([empty, lost])))["on the Pareto front"] == ["0", "0"]


def test_charts_show_every_front_wide_and_narrow():
    a, b = known_cost(), control()
    together, apart = (draw_charts(compare_studies([a, other])) for other in (b, with_info(b, reference="eradio_nano")))
    assert (set(together), set(apart)) == ({"fronts", "curve"}, {"front-A", "front-B"})
    for svg in (*together.values(), *apart.values()):
        assert svg.count("<svg ") == svg.count('<svg aria-hidden="true" ') == 2
    models = sum(len(brute_force.trained(study, False)) for study in (a, b))
    assert together["fronts"].count("<path") >= 2 * models


def test_a_study_with_throughput_before_score_compares_as_any_other():
    swapped = with_info(known_cost(), objectives=known_cost().info.objectives[::-1])
    compared = compare_studies([known_cost(), swapped])
    assert compared.comparability.same_axes
    first, second = (each.summary.hypervolume for each in compared.studies)
    assert first == pytest.approx(second)
    throughput, score = swapped.info.objectives
    other = with_info(known_cost(), objectives=(score, replace(throughput, name="latency")))
    with pytest.raises(ValueError, match="objectives are score, latency"):
        compare_studies([known_cost(), other])


@pytest.mark.parametrize("attack", ["".join(reversed(ATTACKS))])
def test_hostile_text_is_shown_and_nothing_runs(attack):
    comparison = compare_studies(
        [hostile(attack), with_info(known_cost(), teachers={attack: attack}, reference=attack)]
    )
    text = render(comparison, draw_charts(comparison))
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
    assert "script" not in policy
    assert "unsafe" not in policy
    markup = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    assert not re.search(r"<(script|img|iframe|svg onload)|\sstyle=\"|\son\w+=\"", markup)
    assert not re.search(r'(?:src|href)="(?!#|data:,)', markup)
    assert "&lt;iframe" in text


def test_the_command_compares_the_newest_timings_that_can_be_trusted(tmp_path, capsys):
    study = synthetic.study(12)
    number = max(summarize(study).front, key=lambda s: s.ratio).trial.number
    (old,) = (t.measurement for t in study.trials if t.number == number)
    slower = replace(old, ratio=old.ratio / 2, ratio_low=old.ratio_low / 2, ratio_high=old.ratio_high / 2)
    with synthetic.store_study(study, tmp_path / "run") as store:
        store.save_remeasurement(Remeasurement("again", "2026-01-01", "c", {}, {}, measurements={number: slower}))
    other = tmp_path / "other"
    synthetic.store_study(study, other).close()
    assert main([str(tmp_path / "run"), str(other), "--out", str(tmp_path / "page.html")]) == 0
    row = numbers(Page((tmp_path / "page.html").read_text()))["fastest on the front, × reference"]
    assert row[1] == f"{old.ratio:.3f}"
    assert float(row[0]) < 0.99 * old.ratio


def test_command_writes_one_page(stored, tmp_path, capsys):
    out, copy = tmp_path / "page.html", shutil.copytree(stored, tmp_path / "copy")
    assert main([str(stored), str(copy), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert Page(out.read_text()).table("Coverage").rows[1][2] == "100.0 %"
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "copy"}


@pytest.mark.parametrize(
    "arguments",
    [["RUN"], ["RUN", "RUN"], ["RUN", "nowhere"], ["RUN"] * 7, ["RUN", "nowhere", "--out", "page.db"]],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, stored, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main([str(stored) if a == "RUN" else a for a in arguments])
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_a_chart_may_have_control_characters_in_its_texts():
    """vl-convert would end the whole process: XML has no such characters."""
    data = {"values": [{"a\x1b": "b\x07"}]}
    chart = chart_svg({"title": ["c\x00"], "data": data, "mark": "text", "encoding": {"text": {"field": "a\x1b"}}})
    assert ElementTree.fromstring(chart).tag.endswith("svg")
    assert "b�" in chart
    assert "c�" in chart
