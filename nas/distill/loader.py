"""The next batch is read and decoded while the student works on this one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.cache.targets import SplitTargets
from nas.distill.heads import normalise
from nas.distill.schedule import Group, Schedule


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
    """Batches of a schedule, one ahead; only one consumer."""

    def __init__(self, split: SplitTargets, schedule: Schedule, device: torch.device) -> None:
        self._split, self._schedule, self._device = split, schedule, device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step; the next one is begun."""
        known, future = self._ahead or (-1, None)
        batch = future.result() if future is not None and known == step else self._read(step)
        self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
        return batch

    def close(self) -> None:
        """Ends the reading thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int) -> Batch:
        plan = self._schedule[step]
        images = resized(normalise(self._rows(self._split.images, plan.rows)), plan.image_px)
        return Batch(images, {key: self._rows(array, plan.rows) for key, array in self._arrays(plan.group)})

    def _arrays(self, group: Group) -> list[tuple[str, Any]]:
        named = []
        for teacher in group.teachers:
            if teacher in self._split.summary:
                named.append((f"{teacher}/summary", self._split.summary[teacher]))
            named.append((f"{teacher}/spatial", self._split.spatial[teacher]))
        return named

    def _rows(self, array: Any, index: Any) -> Tensor:
        rows = torch.from_numpy(np.array(array[index]))
        if rows.dtype == torch.float16:
            rows = rows.float()
        return rows.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else rows


def resized(images: Tensor, side_px: int) -> Tensor:
    """Images (B, 3, S, S) as (B, 3, side, side), antialiased; the same tensor where they have that size."""
    if images.shape[-1] == side_px:
        return images
    smaller = F.interpolate(images, (side_px, side_px), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)
