from reports.figure_data import prepare
from reports.label_sides import label_sides
from reports.summary import summarize
from tests.reports import synthetic


def sides(*labeled, marks=(), line=()):
    return label_sides([(place, "a label") for place in labeled], marks or labeled, line, 800)


def test_a_label_lies_on_the_preferred_side_that_covers_nothing():
    assert sides((100, 100)) == [(1, 1)]
    assert sides((100, 100), marks=[(120, 108)]) == [(-1, 1)]
    assert sides((790, 100)) == [(-1, 1)], "it would end outside"


def test_a_label_is_not_struck_by_the_front():
    drop = [(50, 200), (120, 200), (200, 90)]  # falls right of the point, through the label's first side
    assert sides((100, 100), line=drop) == [(-1, 1)]


def test_a_label_that_covers_a_point_on_every_side_is_removed_unless_it_is_important():
    around = [(x, y) for x in range(20, 181, 8) for y in range(80, 121, 8) if (x, y) != (100, 104)]
    labeled = [((100, 100), "a label")]
    assert label_sides(labeled, around, (), 800) == [None]
    assert label_sides(labeled, around, (), 800, important=1) != [None]


def test_the_recommended_candidate_has_a_label_in_wide_and_narrow_charts():
    study = synthetic.study(150, seed=3)
    data = prepare(study, summarize(study))
    texts = {
        narrow: {label.number: label.text for label in data.labels if label.narrow is narrow}
        for narrow in (False, True)
    }
    for narrow, labels in texts.items():
        assert labels[data.recommended] == f"#{data.recommended}{'' if narrow else ' recommended'}"
        assert set(synthetic.BASELINES) <= set(labels.values())
    assert len(texts[True]) <= len(texts[False])


def test_two_labels_on_one_line_have_a_gap():
    def second(x):
        return label_sides([((0, 50), "#189"), ((x, 50), "#195")], [], [], x + 5)[1]

    assert second(70) == (-1, -1), "next to the first label, it would read as one word"
    assert second(80) == (-1, 1)


def test_the_chart_ends_at_the_data():
    study = synthetic.study(150, seed=3)
    summary = summarize(study)
    data = prepare(study, summary)
    scores = [s.score for s in (*summary.complete, *(b.scored for b in summary.baselines))]
    span = max(scores) - min(scores)
    assert min(scores) - 0.1 * span < data.score_range[0] < min(scores)
    assert data.staircase[-1][1] == data.score_range[0]
