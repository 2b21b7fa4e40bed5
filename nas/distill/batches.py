"""Batches of a training: which images, sizes and teachers in which step, read and decoded ahead of the student.

The schedule is a pure function of the seed: all architectures of a study see the same batches, and a resumed training
sees those that it would have seen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.cache.shards import read_rows
from nas.cache.targets import SplitTargets
from nas.distill import distributed
from nas.distill.heads import normalize
from nas.study.config import Group

WINDOW = 65_536  # images
Indices = np.ndarray[Any, np.dtype[np.int64]]

_READ_AHEAD = 3  # batches; one would do if every read took the same time, but the first touch of a mapped file does not
_READERS = 2


Shift = tuple[int, int]


class BatchPlan(NamedTuple):
    """One step.

    Args:
        group: Its teachers and the number of its images.
        rows: Rows of its images, rising.
        image_px: Side of the student's input.
        epoch: Number of times that the group has been through the images before.
        shift: Cells of the targets by which the student's images are moved, down and to the right.
    """

    group: Group
    rows: Indices
    image_px: int
    epoch: int = 0
    shift: Shift = (0, 0)


class Schedule:
    """The plan of every step.

    Args:
        groups: drawn for each step in proportion to their rates; each goes through the images at its own pace.
        count: number of images.
        seed: of everything that is drawn here.
        max_shift: largest shift of a step's images, in cells of the targets; each is as likely as any other.
    """

    def __init__(self, groups: Sequence[Group], count: int, seed: int, max_shift: int = 0) -> None:
        self._groups, self._count, self._seed, self._max_shift = tuple(groups), count, seed, max_shift
        rates = np.array([group.rate for group in groups], dtype=np.float64)
        self._edges = np.cumsum(rates / rates.sum())[:-1]
        self._drawn = np.zeros(0, dtype=np.int64)
        self._orders: dict[int, tuple[int, Indices]] = {}  # group -> the epoch it is in, and its order

    def __getitem__(self, step: int) -> BatchPlan:
        """Return the plan of step 0, 1, ..."""
        drawn = self._groups_until(step)
        number = int(drawn[step])
        group = self._groups[number]
        earlier = int((drawn[:step] == number).sum())
        epoch, position = divmod(earlier, max(1, self._count // group.batch_size))
        order = self._order(number, epoch)
        rows = np.sort(order[position * group.batch_size : (position + 1) * group.batch_size])
        sizes = group.img_size
        size = sizes[int(np.random.default_rng((self._seed, 2, step)).integers(len(sizes)))]
        return BatchPlan(group, rows, size, epoch, self._shift(step))

    def _shift(self, step: int) -> Shift:
        if not self._max_shift:
            return (0, 0)
        drawn = np.random.default_rng((self._seed, 3, step)).integers(-self._max_shift, self._max_shift + 1, 2)
        return int(drawn[0]), int(drawn[1])

    def _groups_until(self, step: int) -> Indices:
        """Draw the group of every step up to `step`; a longer draw begins with a shorter one."""
        if step >= len(self._drawn):
            draws = np.random.default_rng((self._seed, 1)).random(max(1024, 2 * step))
            self._drawn = np.searchsorted(self._edges, draws, side="right").astype(np.int64)
        return self._drawn

    def _order(self, number: int, epoch: int) -> Indices:
        drawn_epoch, order = self._orders.get(number, (-1, np.zeros(0, dtype=np.int64)))
        if drawn_epoch != epoch:
            order = shuffled(self._count, np.random.default_rng((self._seed, epoch, *([number] if number else []))))
            self._orders[number] = (epoch, order)
        return order


def shuffled(count: int, rng: np.random.Generator) -> Indices:
    """Return 0 to count - 1 in random order; more than a window is shuffled window by window.

    A cache of millions of images is thus read from a few hundred of its files at a time. The windows begin elsewhere in
    every epoch.
    """
    if count <= WINDOW:
        return rng.permutation(count)
    starts = rng.permutation(np.arange(0, count, WINDOW))
    order = np.concatenate([start + rng.permutation(min(WINDOW, count - start)) for start in starts])
    return np.asarray((order + rng.integers(count)) % count)


@dataclass(frozen=True)
class Batch:
    """Images and targets of one step.

    Args:
        images: (B, 3, S, S), normalized.
        targets: "teacher/head" -> PHI-S targets, (B, k), or (B, k, g, g) without the cells that a shift has moved out.
        shift: Cells by which the images were moved, down and to the right.
    """

    images: Tensor
    targets: dict[str, Tensor]
    shift: Shift = (0, 0)

    def shifted(self, shift: Shift) -> Self:
        """Return the batch with its images moved by whole cells of the targets, which lose those that move out.

        The edge pixels fill the images. A batch whose cells have no whole number of pixels stays as it is.
        """
        maps = [target for target in self.targets.values() if target.ndim == 4]
        side, grid = self.images.shape[-1], maps[0].shape[-1] if maps else 0
        if shift == (0, 0) or not grid or side % grid:
            return self
        down, right = (cells * side // grid for cells in shift)
        padded = F.pad(self.images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="replicate")
        top, left = max(-down, 0), max(-right, 0)
        images = padded[..., top : top + side, left : left + side].contiguous(memory_format=torch.channels_last)
        rows, columns = (slice(max(-cells, 0), grid - max(cells, 0)) for cells in shift)
        targets = {key: each[..., rows, columns] if each.ndim == 4 else each for key, each in self.targets.items()}
        return replace(self, images=images, targets=targets, shift=shift)

    def keep_for(self, stream: torch.cuda.Stream) -> None:
        """Keep the batch's memory, which another stream has allocated, until `stream` has done what it was given."""
        for tensor in (self.images, *self.targets.values()):
            tensor.record_stream(stream)

    def with_targets(self, maps: Tensor) -> Tensor:
        """Return the cells of the student's maps (B, k, g, g) that have targets."""
        if self.shift == (0, 0):
            return maps
        rows, columns = (slice(max(cells, 0), maps.shape[-1] + min(cells, 0)) for cells in self.shift)
        return maps[..., rows, columns]

    def micro_batches(self, parts: int) -> list[Self]:
        """Split the batch into `parts` equal ones, for gradient accumulation."""
        images = self.images.chunk(parts)
        targets = {key: value.chunk(parts) for key, value in self.targets.items()}
        return [
            replace(self, images=part, targets={key: value[i] for key, value in targets.items()})
            for i, part in enumerate(images)
        ]


class BatchSource(Protocol):
    """Where the images and targets of a training come from. Several threads read at the same time."""

    def __len__(self) -> int:
        """Return the number of images of an epoch."""

    def read(self, plan: BatchPlan, rows: Indices, device: torch.device) -> Batch:
        """Return the batch of these rows of a plan, on a device.

        Args:
            plan: The step.
            rows: This rank's part of the plan's rows.
            device: Device of the student.
        """


class CachedSource:
    """Images and targets of a cache."""

    def __init__(self, split: SplitTargets) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def read(self, plan: BatchPlan, rows: Indices, device: torch.device) -> Batch:
        """Return the batch of these rows of a plan, on a device."""
        images = resize_images(normalize(read_rows(self._split.images, rows, device)), plan.image_px)
        return Batch(images, {key: read_rows(array, rows, device) for key, array in self._arrays(plan.group)})

    def _arrays(self, group: Group) -> list[tuple[str, Any]]:
        arrays = []
        for teacher in group.teachers:
            if teacher in self._split.summary:
                arrays.append((f"{teacher}/summary", self._split.summary[teacher]))
            arrays.append((f"{teacher}/spatial", self._split.spatial[teacher]))
        return arrays


class BatchLoader:
    """Reads this rank's slice of every batch of a schedule, some batches ahead, for one consumer.

    An error of a reading thread is raised in the step that asks for the batch. On a GPU batches are copied, and the
    teachers of live targets compute, in a CUDA stream of their own, so that they overlap with the student's step.

    Attributes:
        waiting_s: seconds that the consumer has waited for batches.
    """

    def __init__(self, source: BatchSource, schedule: Schedule, device: torch.device) -> None:
        self._source, self._schedule, self._device = source, schedule, device
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="batches")
        self._ahead: dict[int, Future[Batch]] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.waiting_s = 0.0

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step and begin to read those after it."""
        steps = range(step, step + 1 + _READ_AHEAD)
        self._ahead = {number: future for number, future in self._ahead.items() if number in steps}
        for number in steps:
            if number not in self._ahead:
                self._ahead[number] = self._readers.submit(self._read, self._schedule[number])
        began = time.perf_counter()
        batch = self._ahead.pop(step).result()
        self.waiting_s += time.perf_counter() - began
        if self._stream is not None:
            batch.keep_for(torch.cuda.current_stream(self._device))
        return batch

    def close(self) -> None:
        """End the reading threads and drop their batches."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def _read(self, plan: BatchPlan) -> Batch:
        rows = plan.rows[distributed.rank() :: distributed.world_size()]
        with torch.cuda.stream(self._stream):  # nothing without a stream
            batch = self._source.read(plan, rows, self._device).shifted(plan.shift)
        if self._stream is not None:
            self._stream.synchronize()  # blocks this thread only; the consumer's waiting is then waiting_s
        return batch


def resize_images(images: Tensor, side_px: int) -> Tensor:
    """Resize (B, 3, S, S) to (B, 3, side, side), antialiased; the same tensor where it has that size."""
    if images.shape[-1] == side_px:
        return images
    smaller = F.interpolate(images, (side_px, side_px), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)
