"""Batches are a pure function of seed and step."""

from __future__ import annotations

import numpy as np

from nas.config import Group
from nas.distill.schedule import WINDOW, Schedule, shuffled

ONE = (Group(("a",), 16, (64,)),)


def test_every_epoch_sees_every_image_once() -> None:
    schedule = Schedule(ONE, 96, 0)
    epochs = [np.concatenate([schedule[epoch * 6 + step].rows for step in range(6)]) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(96)) for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_the_order_is_the_seed_s() -> None:
    orders = [Schedule(ONE, 96, seed)[0].rows.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_any_step_can_be_asked_first() -> None:
    groups = (Group(("a",), 16, (32, 64), 1.0), Group(("b",), 8, (64,), 2.0))
    forward, backward = Schedule(groups, 96, 3), Schedule(groups, 96, 3)
    steps = [*range(60), 3000]
    there = {step: forward[step] for step in steps}
    for step in reversed(steps):
        plan = backward[step]
        assert plan.group is there[step].group
        assert plan.rows.tolist() == there[step].rows.tolist()
        assert plan.image_px == there[step].image_px


def test_groups_come_at_their_rates_and_each_sees_every_image() -> None:
    groups = (Group(("a",), 16, (64,), 1.0), Group(("b",), 8, (64,), 3.0))
    schedule = Schedule(groups, 48, 0)
    plans = [schedule[step] for step in range(2000)]
    share = sum(plan.group is groups[1] for plan in plans) / len(plans)
    assert abs(share - 0.75) < 0.04
    for group in groups:
        mine = [plan.rows for plan in plans if plan.group is group][: 48 // group.batch_size]
        assert sorted(np.concatenate(mine)) == list(range(48))


def test_many_images_come_window_after_window_and_each_once() -> None:
    count = 3 * WINDOW + 1000
    orders = [shuffled(count, np.random.default_rng(seed)) for seed in (0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(count))
        batches = order[: WINDOW // 32 * 32].reshape(-1, 32)
        spread = [len(np.unique(batch // 256)) for batch in batches]
        assert np.mean(spread) > 25, "a batch comes from many places"
        assert len(np.unique(order[:WINDOW] // 256)) <= 2 * WINDOW // 256, "and a window from few files"
    assert not np.array_equal(*orders)
