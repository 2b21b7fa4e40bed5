"""The next batches are read and decoded while the student works on this one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.cache.targets import SplitTargets
from nas.config import Group
from nas.distill import distributed
from nas.distill.heads import normalise
from nas.distill.schedule import Indices, Plan, Schedule

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
