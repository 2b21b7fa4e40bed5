from reports.label_sides import label_sides


def sides(*labeled, marks=(), line=()):
    return label_sides([(place, "a label") for place in labeled], marks or labeled, line, 800)


def test_a_label_lies_on_the_preferred_side_that_covers_nothing():
    assert sides((100, 100)) == [(1, 1)]
    assert sides((100, 100), marks=[(120, 108)]) == [(-1, 1)]
    assert sides((790, 100)) == [(-1, 1)], "it would end outside"


def test_a_label_is_not_struck_by_the_front():
    drop = [(50, 200), (120, 200), (200, 90)]  # falls right of the point, through the label's first side
    assert sides((100, 100), line=drop) == [(-1, 1)]


def test_a_label_that_covers_others_everywhere_is_removed():
    assert sides((100, 100), (100, 100), (100, 100), (100, 100), (100, 100)) == [
        (1, 1),
        (-1, 1),
        (1, -1),
        (-1, -1),
        None,
    ]
