"""Batches are those of the schedule, read ahead; what goes wrong while reading is told; nothing stays behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from nas.cache.targets import SplitTargets
from nas.config import Group
from nas.distill.batches import Loader
from nas.distill.heads import normalise
from nas.distill.schedule import Schedule

GROUPS = (Group(("a",), 4, (32,)),)


class Rows:
    """Rows that hold their own number, as an array of targets; counts reads and can be slow or broken."""

    def __init__(self, count: int, shape: tuple[int, ...], dtype: type = np.float32) -> None:
        self.values = np.arange(count, dtype=dtype).reshape(count, *[1] * len(shape)) * np.ones(shape, dtype)
        self.shape = self.values.shape
        self.reads, self.seconds, self.broken_from = 0, 0.0, 10**9

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads += 1
        time.sleep(self.seconds)
        if self.reads > self.broken_from:
            raise OSError("shard 3 is gone")
        return self.values[index]


@pytest.fixture
def spatial() -> Rows:
    return Rows(16, (2, 1, 1))


@pytest.fixture
def loader(spatial: Rows) -> Iterator[Loader]:
    split = SplitTargets(Rows(16, (3, 32, 32), np.uint8), None, None, {}, {"a": spatial})
    made = Loader(split, Schedule(GROUPS, 16, 0), torch.device("cpu"))
    yield made
    made.close()


def test_batches_are_those_of_the_schedule_from_any_step_on(loader: Loader) -> None:
    for step in (0, 1, 2, 9, 10, 3):
        rows = torch.from_numpy(Schedule(GROUPS, 16, 0)[step].rows)
        batch = loader[step]
        assert batch.truth["a/spatial"][:, 0, 0, 0].tolist() == rows.tolist()
        assert torch.equal(batch.images, normalise(rows.to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)))


def test_reading_goes_on_while_the_student_works(loader: Loader, spatial: Rows) -> None:
    spatial.seconds = 0.02
    assert len(loader[0].images) == 4
    deadline = time.monotonic() + 20
    while spatial.reads < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert spatial.reads >= 3
    before = spatial.reads
    time.sleep(0.3)
    assert spatial.reads <= before + 2, "no further than a few batches"


def test_what_a_reading_thread_raises_reaches_the_step_that_wanted_the_batch(loader: Loader, spatial: Rows) -> None:
    spatial.broken_from = 2
    loader[0]
    with pytest.raises(OSError, match="shard 3 is gone"):
        [loader[step] for step in range(1, 9)]


def test_a_closed_loader_keeps_neither_threads_nor_arrays() -> None:
    def reading() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("batches")}

    before, array = reading(), Rows(16, (2, 1, 1))
    split = SplitTargets(Rows(16, (3, 32, 32), np.uint8), None, None, {}, {"a": array})
    loader, gone = Loader(split, Schedule(GROUPS, 16, 0), torch.device("cpu")), weakref.ref(array)
    loader[0]
    assert reading() - before
    loader.close()
    assert not reading() - before
    del loader, split, array
    gc.collect()
    assert gone() is None
