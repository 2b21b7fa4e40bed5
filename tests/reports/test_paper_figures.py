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
from reports.figure_data import STOPPED, prepare
from reports.paper_figures import draw, save
from reports.paper_style import COLUMN_INCHES, DPI, MIN_FONT_POINTS
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.awkward import ATTACKS, hostile, planted

PROGRESS = ("hypervolume", "hypervolume-seconds", "hypervolume-steps")
STUDIES = {
    "planted": (lambda: planted(100), {"front"}),
    "hostile": (lambda: hostile(ATTACKS[-1]), {"front", *PROGRESS}),
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


def test_a_label_stands_nearest_to_the_mark_that_it_names():
    """Trials 126 and 135 of a published front are this close; the label of the one stood over the mark of the other."""
    study = synthetic.study(60)
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
