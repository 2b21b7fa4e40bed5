"""Which images, at which size, for which teachers, in which step: a pure function of the seed.

All architectures of a study so see the same batches, and a run that goes on sees those that it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nas.config import Group

WINDOW = 65_536  # images
Indices = np.ndarray[Any, np.dtype[np.int64]]


class Plan(NamedTuple):
    """One step: its group, the rows of its images (rising), and the student's input side in px."""

    group: Group
    rows: Indices
    image_px: int


class Schedule:
    """The plan of every step.

    Args:
        groups: drawn for each step in proportion to their rates; each goes through the images at its own pace.
        count: number of images.
        seed: of everything that is drawn here.
    """

    def __init__(self, groups: Sequence[Group], count: int, seed: int) -> None:
        self._groups, self._count, self._seed = tuple(groups), count, seed
        rates = np.array([group.rate for group in groups], dtype=np.float64)
        self._edges = np.cumsum(rates / rates.sum())[:-1]
        self._drawn = np.zeros(0, dtype=np.int64)
        self._orders: dict[int, tuple[int, Indices]] = {}  # group -> the epoch it is in, and its order

    def __getitem__(self, step: int) -> Plan:
        """The plan of step 0, 1, ..."""
        drawn = self._groups_until(step)
        number = int(drawn[step])
        group = self._groups[number]
        earlier = int((drawn[:step] == number).sum())
        epoch, position = divmod(earlier, max(1, self._count // group.batch_size))
        order = self._order(number, epoch)
        rows = np.sort(order[position * group.batch_size : (position + 1) * group.batch_size])
        sizes = group.image_px
        return Plan(group, rows, sizes[int(np.random.default_rng((self._seed, 2, step)).integers(len(sizes)))])

    def _groups_until(self, step: int) -> Indices:
        """Group of every step up to `step`; a longer draw begins with a shorter one."""
        if step >= len(self._drawn):
            draws = np.random.default_rng((self._seed, 1)).random(max(1024, 2 * step))
            self._drawn = np.searchsorted(self._edges, draws, side="right").astype(np.int64)
        return self._drawn

    def _order(self, number: int, epoch: int) -> Indices:
        known, order = self._orders.get(number, (-1, np.zeros(0, dtype=np.int64)))
        if known != epoch:
            order = shuffled(self._count, np.random.default_rng((self._seed, epoch, *([number] if number else []))))
            self._orders[number] = (epoch, order)
        return order


def shuffled(count: int, rng: np.random.Generator) -> Indices:
    """0 to count - 1 in random order; of more than a window, window after window.

    So a cache of millions is read from a few hundred of its files at a time. The windows begin elsewhere every time.
    """
    if count <= WINDOW:
        return rng.permutation(count)
    starts = rng.permutation(np.arange(0, count, WINDOW))
    order = np.concatenate([start + rng.permutation(min(WINDOW, count - start)) for start in starts])
    return np.asarray((order + rng.integers(count)) % count)
