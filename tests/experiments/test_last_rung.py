"""The comparison of rules for the last rung: its recorded searches, and the chances of its own rules."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.last_rung import Rival, chances, drawn_search, filled, recorded_outcome, recorded_searches


def test_recorded_searches_have_the_trials_of_their_sources() -> None:
    reached = [[sum(len(s) > rung for s in search.scores) for rung in range(3)] for search in recorded_searches()]
    assert reached == [[200, 101, 48], [200, 119, 76]]


def test_known_scores_are_kept_and_unknown_ones_are_near_the_line() -> None:
    curves = [[i / 10, i / 10 + 0.1, i / 10 + 0.3] for i in range(5)]
    full = filled([*curves, [1.0], [1.0, 1.1]], np.random.default_rng(0))
    assert full[:5].tolist() == curves
    assert full[5:].tolist() == pytest.approx(np.array([[1.0, 1.1, 1.3]] * 2))


def test_a_chance_counts_who_is_close_below_the_front() -> None:
    rivals = [Rival([0.1, 0.5], 1.0, 0.0, True), Rival([0.1, 0.49], 0.0, 0.0, True)]
    assert chances(rivals, [0, 1], 2, 0.02, (0,)) == [1.0, 1.0]
    assert chances(rivals, [0, 1], 2, 0.0, (0,)) == [1.0, 0.0]
    ended = [rivals[0]._replace(alive=False), rivals[1]]
    assert chances(ended, [0, 1], 2, 0.0, (0,)) == [1.0, 1.0]


def test_a_rule_that_asks_for_more_trains_fewer() -> None:
    search = drawn_search(0, size=60)
    halving, both, sure = (recorded_outcome(search, rule, 0) for rule in ("halving", "chance:0.5", "chance:1.0"))
    assert halving.complete > both.complete > sure.complete
    assert halving.steps > both.steps > sure.steps
    assert halving.curve[-1] == (halving.steps, halving.volume)
    taken_up = recorded_outcome(search, "chance:1.0+0.5", 0)
    assert taken_up.complete - taken_up.taken_up == sure.complete
    assert taken_up.volume > sure.volume
