import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from matplotlib.text import Text
from PIL import Image

from nas.analysis.evidence import gather_evidence
from nas.analysis.retraining import RETRAINING_TIMINGS
from nas.study.records import Remeasurement, Retraining, StudyRecord, TrialState
from reports.evidence_data import retraining_points, retraining_results
from reports.figure_data import BASELINE, FRONT, MARKS, STOPPED, prepare
from reports.paper_figures import draw, save
from reports.paper_style import COLUMN_INCHES, DPI, MARK_POINTS, MIN_FONT_POINTS
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.awkward import ATTACKS, hostile, planted

PROGRESS = ("hypervolume", "hypervolume-seconds", "hypervolume-steps")
STUDIES = {
    "planted": (lambda: planted(100), {"front"}),
    "hostile": (lambda: hostile(ATTACKS[-1]), {"front", *PROGRESS}),
    "one": (lambda: synthetic.study(1, only=TrialState.COMPLETE), {"front", *PROGRESS}),
    "all infeasible": (lambda: synthetic.study(12, only=TrialState.INFEASIBLE), {"front"}),
    "all failed": (lambda: synthetic.study(12, only=TrialState.FAILED, baselines=False), set()),
}


@pytest.mark.parametrize("name", STUDIES)
def test_what_there_is_data_for_is_drawn(name):
    make, drawn = STUDIES[name]
    study = make()
    figures = draw(study, summarize(study))
    assert {name for name, figure in figures.items() if figure is not None} == drawn
    texts = [t for figure in figures.values() if figure for t in figure.findobj(Text) if t.get_text()]
    assert all(text.get_fontsize() >= MIN_FONT_POINTS for text in texts)


def test_one_objective_has_no_front_and_its_progress_is_of_that_objective():
    study = synthetic.study(12, only=TrialState.COMPLETE)
    single = replace(study, info=replace(study.info, objectives=study.info.objectives[:1]))
    figures = draw(single, summarize(single))
    assert figures["front"] is None
    label = figures["hypervolume"].axes[0].get_ylabel()
    assert study.info.objectives[0].label in " ".join(label.split())


def test_an_svg_is_xml_whatever_a_study_s_texts_hold(tmp_path):
    study = hostile("a\x1b[2J\x07", trials=8)
    front = draw(study, summarize(study))["front"]
    (svg,) = (path for path in save({"front": front}, tmp_path) if path.suffix == ".svg")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def texts(figure) -> str:
    return " ".join(" ".join(t.get_text().split()) for t in figure.findobj(Text))


def test_the_front_of_another_study_and_retrained_models_are_drawn_with_their_intervals():
    study, other = synthetic.study(30), synthetic.with_info(synthetic.study(30, seed=1), name="random")
    summary = summarize(study)
    best = summary.front[0].trial
    candidate = {
        "trial": best.number, "name": best.name, "change": "still on it", "score_of_study": best.score,
        "score": 0.7, "scores": {"0": 0.69, "1": 0.71}, "half_width": 0.05, "measurement": best.measurement.to_dict(),
    }  # fmt: skip
    retraining = {"steps": 1620, "seeds": [0, 1], "candidates": [candidate]}
    front = draw(study, summary, retraining, other)["front"]
    assert "front of random" in texts(front)
    assert "1,620 steps, 2 seeds" in texts(front)
    (bars,) = front.axes[0].containers
    m = best.measurement
    (across, up) = (lines.get_segments()[0].tolist() for lines in bars.lines[2])
    assert [x for x, _ in across] == pytest.approx([m.ratio_low, m.ratio_high])
    assert [y for _, y in up] == pytest.approx([0.65, 0.75])
    mark_top = front.axes[0].transData.transform((1, 0.75))[1] + front.dpi * MARK_POINTS / 72 / 2
    assert mark_top <= front.axes[0].bbox.y1, "a mark on the edge would be cut"
    assert "front of" not in texts(draw(study, summary)["front"])


def test_the_axes_reach_the_front_of_the_other_study():
    study, other = (synthetic.study(12, seed=seed, only=TrialState.COMPLETE) for seed in (0, 3))
    other = synthetic.timed(
        other, lambda t: {name: 20 * getattr(t.measurement, name) for name in ("ratio", "ratio_low", "ratio_high")}
    )
    other = synthetic.scored(other, lambda t: t.final_score - 1)
    axes = draw(study, summarize(study), None, other)["front"].axes[0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for summary in (summarize(study), summarize(other)):
        assert all(left < s.ratio < right and bottom < s.score < top for s in summary.front)


def retrained(study: StudyRecord, change: float, times: float = 1.0, device: str = "synthetic CPU") -> dict:
    """Retrain all complete trials with two seeds, `change` above and below their scores, timed on `device`."""
    trials = [t for t in study.trials if t.state is TrialState.COMPLETE]
    trainings = [
        Retraining(t.number, seed, 1620, "2026-01-01", device, (replace(t.rungs[-1], steps=1620, score=score),))
        for t in trials
        for seed, score in enumerate((t.final_score + change, t.final_score - change))
    ]
    names = ("ratio", "ratio_low", "ratio_high")
    timings = {
        t.number: replace(
            t.measurement, device=device, **{name: times * getattr(t.measurement, name) for name in names}
        )
        for t in trials
    }
    again = Remeasurement(RETRAINING_TIMINGS, "2026-01-01", device, {}, {}, None, timings)
    evidence = gather_evidence(study, trainings, [again])
    return evidence.study, retraining_results(evidence)


def test_infeasible_candidates_lie_on_the_lower_edge_also_below_retrained_models():
    study = synthetic.study(60, seed=5)
    axes = draw(study, summarize(study), retrained(study, 0.15)[1])["front"].axes[0]
    (crosses,) = (c for c in axes.collections if c.get_label() == "infeasible")
    assert set(crosses.get_offsets()[:, 1]) == {axes.get_ylim()[0]}


@pytest.mark.parametrize(("device", "times"), [("synthetic CPU", 1.1), ("another GPU", 8.0)])
def test_ratios_of_retrained_models_are_those_of_the_axis_s_device(device, times):
    study = synthetic.study(20, seed=5, only=TrialState.COMPLETE)
    decided, results = retrained(study, 0.01, times, device)
    drawn = {row["number"]: row["ratio"] for row in retraining_points(decided, results)}
    for trial in study.trials:
        expected = trial.measurement.ratio * (times if device == "synthetic CPU" else 1)
        assert drawn[trial.number] == pytest.approx(expected)
    axes = draw(decided, summarize(decided), results)["front"].axes[0]
    assert all(axes.get_xlim()[0] < ratio < axes.get_xlim()[1] for ratio in drawn.values())


def test_retrained_baselines_keep_the_mark_of_baselines():
    study = synthetic.study(20, seed=5, only=TrialState.COMPLETE)
    _, results = retrained(study, 0.01)
    kinds = [row["kind"] for row in retraining_points(study, results)]
    front = draw(study, summarize(study), results)["front"]
    candidates, baselines = front.axes[0].containers
    assert [text.get_text() for text in front.legends[0].get_texts()].count("retrained, 1,620 steps, 2 seeds") == 1
    for bars, marker, kind in (
        (candidates, "s", "retrained"),
        (baselines, MARKS[BASELINE].matplotlib_marker, "baseline"),
    ):
        assert bars.lines[0].get_marker() == marker
        assert len(bars.lines[0].get_xdata()) == kinds.count(kind) > 0


def test_the_name_of_a_comparison_network_gives_way_to_a_model():
    """Drawn at its usual place, left of the line at the lower edge, it would cover the model of the lowest score."""
    study = synthetic.study(12, only=TrialState.COMPLETE)
    lowest = min(study.trials, key=lambda trial: trial.final_score)
    ratio = lowest.measurement.ratio
    study = synthetic.with_scale(study, {"timm:resnet18": 1.02 * ratio})
    front = draw(study, summarize(study))["front"]
    axes = front.axes[0]
    (name,) = (text for text in axes.texts if text.get_rotation() == 90)
    assert name.get_text() == "resnet18"
    assert not name.get_window_extent().contains(*axes.transData.transform((ratio, lowest.final_score)))


def test_labels_of_models_do_not_cover_the_names_of_comparison_networks():
    study = synthetic.study(40)
    ratios = [b.scored.trial.measurement.ratio for b in summarize(study).baselines]
    names = {f"timm:a_long_name_{i}": 1.15 * ratio for i, ratio in enumerate(ratios)}
    study = synthetic.with_scale(study, names)
    front = draw(study, summarize(study))["front"]
    placed = [text for text in front.axes[0].texts if text.get_text()]
    upright = [text.get_window_extent() for text in placed if text.get_rotation() == 90]
    level = [text.get_window_extent() for text in placed if text.get_rotation() == 0]
    assert upright
    assert len(level) > 3
    assert not any(box.overlaps(name) for box in level for name in upright)


def test_the_legend_fits_the_figure_whatever_the_other_study_is_called():
    study = synthetic.study(30)
    other = synthetic.with_info(synthetic.study(30, seed=1), name="2026-11-27-143000-of-one")
    front = draw(study, summarize(study), None, other)["front"]
    front.draw_without_rendering()
    (legend,) = front.legends
    assert any("2026-11-27-" in text.get_text() for text in legend.get_texts())
    assert 0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= front.bbox.x1


def test_files_are_a_column_wide_hold_their_fonts_and_no_date_and_are_the_same_each_time(tmp_path):
    study = synthetic.study(8, only=TrialState.COMPLETE)
    drawn = [{"front": draw(study, summarize(study))["front"]} for _ in range(2)]
    first, second = (save(figures, tmp_path / str(i)) for i, figures in enumerate(drawn))
    assert [p.name for p in first] == ["front.pdf", "front.png", "front.svg"]
    for ours, again in zip(first, second, strict=True):
        data = ours.read_bytes()
        assert data == again.read_bytes()
        assert not re.search(rb"CreationDate|<dc:date>|20[2-9]\d-\d\d-\d\d", data)
        if ours.suffix == ".png":
            assert Image.open(ours).width == COLUMN_INCHES * DPI
        if ours.suffix == ".pdf":
            assert b"/FontFile2" in data
            assert b"/Type3" not in data


def test_lines_are_those_of_the_study():
    study = synthetic.study(60)
    summary = summarize(study)
    figures = draw(study, summary)
    steps = sum(t.rungs[-1].steps for t in study.trials if t.counts)
    last = max(t.finished_s for t in study.trials if t.counts)
    for name, end in (("hypervolume", summary.evaluated), ("-steps", steps), ("-seconds", last)):
        line = figures[f"hypervolume{name.removeprefix('hypervolume')}"].axes[0].lines[0]
        assert line.get_xdata()[-2] == end
        assert line.get_ydata()[-2] == summary.hypervolume


def test_models_keep_their_labels_when_they_are_retrained():
    """The mark of a model's own longer training is often nearer to its label than the mark of the search."""
    counts = {"retrained": 0, "search": 0}
    for seed in range(3):
        study = synthetic.study(60, seed=seed)
        summary, results = summarize(study), retrained(study, 0.004)[1]
        wanted = {p.label for p in prepare(study, summary).points if p.kind in (FRONT, BASELINE)}
        shown = {s.trial.number for s in summary.front} | {t.number for t in study.trials if t.baseline}
        results["candidates"] = [
            c | {"score": c["score"] + 0.005} for c in results["candidates"] if c["trial"] in shown
        ]
        for name, retraining in (("retrained", results), ("search", None)):
            axes = draw(study, summary, retraining)["front"].axes[0]
            counts[name] += sum(text.get_text() in wanted for text in axes.texts)
    assert counts["retrained"] >= 0.7 * counts["search"]


@pytest.mark.parametrize("seed", range(3))
def test_a_label_stands_nearest_to_the_mark_that_it_names(seed):
    """Trials 126 and 135 of a published front are this close; the label of the one stood over the mark of the other."""
    study = synthetic.study(60, seed=seed)
    data = prepare(study, summarize(study))
    axes = draw(study, summarize(study))["front"].axes[0]
    drawn = [p for p in data.points if p.kind != STOPPED and p.score is not None]
    marks = {p.label or p.number: axes.transData.transform((p.ratio, p.score)) for p in drawn}
    labels = [text for text in axes.texts if text.get_text() in marks]
    assert labels
    for label in labels:
        box = label.get_window_extent()

        def distance(mark, box=box) -> float:
            sides = zip(mark, box.min, box.max, strict=True)
            return math.hypot(*(max(low - at, at - high, 0) for at, low, high in sides))

        nearest = min(marks, key=lambda name: distance(marks[name]))
        assert nearest == label.get_text()
