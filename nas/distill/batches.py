"""Batches of a training: which images and teachers in which step, read and decoded ahead of the student."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.cache.targets import SplitTargets
from nas.config import Group
from nas.distill import distributed
from nas.distill.heads import normalise

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


_AHEAD = 3  # one would do if every read took the same time; the first touch of a mapped file does not
_READERS = 2


@dataclass(frozen=True)
class Batch:
    """images (B, 3, S, S), normalised; truth: "teacher/head" -> PHI-S targets (B, k) or (B, k, g, g)."""

    images: Tensor
    truth: dict[str, Tensor]

    def micro(self, parts: int) -> list[Self]:
        """The batch in `parts` equal parts, for gradient accumulation."""
        images = self.images.chunk(parts)
        truths = {key: value.chunk(parts) for key, value in self.truth.items()}
        return [type(self)(part, {key: value[i] for key, value in truths.items()}) for i, part in enumerate(images)]


class Loader:
    """Batches of a schedule, of each this rank's slice, some ahead; only one consumer.

    What a reading thread raises is raised by the step that wanted the batch.
    """

    def __init__(self, split: SplitTargets, schedule: Schedule, device: torch.device) -> None:
        self._split, self._schedule, self._device = split, schedule, device
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="batches")
        self._ahead: dict[int, Future[Batch]] = {}

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step; those after it are begun."""
        wanted = range(step, step + 1 + _AHEAD)
        self._ahead = {known: future for known, future in self._ahead.items() if known in wanted}
        for missing in wanted:
            if missing not in self._ahead:
                self._ahead[missing] = self._readers.submit(self._read, self._schedule[missing])
        return self._ahead.pop(step).result()

    def close(self) -> None:
        """Ends the reading threads and forgets what they have read."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def _read(self, plan: Plan) -> Batch:
        rows = plan.rows[distributed.rank() :: distributed.world()]
        images = resized(normalise(self._rows(self._split.images, rows)), plan.image_px)
        return Batch(images, {key: self._rows(array, rows) for key, array in self._arrays(plan.group)})

    def _arrays(self, group: Group) -> list[tuple[str, Any]]:
        named = []
        for teacher in group.teachers:
            if teacher in self._split.summary:
                named.append((f"{teacher}/summary", self._split.summary[teacher]))
            named.append((f"{teacher}/spatial", self._split.spatial[teacher]))
        return named

    def _rows(self, array: Any, index: Indices) -> Tensor:
        rows = torch.from_numpy(array[index])
        if rows.dtype == torch.float16:
            rows = rows.float()
        return rows.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else rows


def resized(images: Tensor, side_px: int) -> Tensor:
    """Images (B, 3, S, S) as (B, 3, side, side), antialiased; the same tensor where they have that size."""
    if images.shape[-1] == side_px:
        return images
    smaller = F.interpolate(images, (side_px, side_px), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)
