"""Names in plots lie on no other name, point or whisker."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from nas.analysis.point_labels import label_points


def test_names_keep_off_each_other_and_points_and_whiskers():
    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(0, 10), ylim=(0, 10))
    points = [(5, 5, "the_first_net"), (5.1, 5.1, "the_second_net"), (6, 2.2, "the_third_net"), (9.9, 5, "at_the_edge")]
    label_points(axes, points, whiskers=[(4, 6), (5.1, 5.1), (2.2, 8), (5, 5)])
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [name for _, _, name in points]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    whisker = Bbox(axes.transData.transform([(6, 2.2), (6, 8)])).padded(0.5)
    assert not any(box.overlaps(whisker) for box in boxes)
    assert not any(box.contains(*axes.transData.transform((x, y))) for box in boxes for x, y, _ in points)
    assert boxes[-1].x1 <= axes.get_window_extent(renderer).x1
