"""Batches are a pure function of seed and step, read ahead; nothing stays behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.cache.codecs import CODECS
from nas.cache.shards import ArrayWriter, ShardedArray
from nas.cache.targets import SplitTargets
from nas.distill.batches import WINDOW, Batch, BatchLoader, CachedSource, Schedule, shuffled
from nas.distill.heads import normalize
from nas.study.config import Group
from tests.waiting import until

ONE = (Group(("a",), 16, (64,)),)


def test_every_epoch_sees_every_image_once() -> None:
    schedule = Schedule(ONE, 96, 0)
    epochs = [np.concatenate([schedule[epoch * 6 + step].rows for step in range(6)]) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(96)) for epoch in epochs)
    assert not np.array_equal(*epochs)
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


GROUPS = (Group(("a",), 4, (32,)),)


class Rows:
    """Rows that hold their own number, as an array of targets; counts reads and can be slow or broken."""

    def __init__(self, count: int, shape: tuple[int, ...], dtype: type = np.float32) -> None:
        self.values = np.arange(count, dtype=dtype).reshape(count, *[1] * len(shape)) * np.ones(shape, dtype)
        self.shape = self.values.shape
        self.reads, self.seconds, self.broken = 0, 0.0, set[int]()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads += 1
        time.sleep(self.seconds)
        if self.broken & set(np.atleast_1d(index).tolist()):
            raise OSError("shard 3 is gone")
        return self.values[index]


@pytest.fixture
def spatial() -> Rows:
    return Rows(16, (2, 1, 1))


@pytest.fixture
def loader(spatial: Rows) -> Iterator[BatchLoader]:
    split = SplitTargets(Rows(16, (3, 32, 32), np.uint8), None, None, {}, {"a": spatial})
    made = BatchLoader(CachedSource(split), Schedule(GROUPS, 16, 0), torch.device("cpu"))
    yield made
    made.close()


def test_batches_are_those_of_the_schedule_from_any_step_on(loader: BatchLoader) -> None:
    for step in (0, 1, 2, 9, 10, 3):
        rows = torch.from_numpy(Schedule(GROUPS, 16, 0)[step].rows)
        batch = loader[step]
        assert batch.targets["a/spatial"][:, 0, 0, 0].tolist() == rows.tolist()
        assert torch.equal(batch.images, normalize(rows.to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)))


def test_reading_goes_on_while_the_student_works(loader: BatchLoader, spatial: Rows) -> None:
    spatial.seconds = 0.02
    assert len(loader[0].images) == 4
    until(lambda: spatial.reads >= 3)
    before = spatial.reads
    time.sleep(0.3)
    assert spatial.reads <= before + 2, "no further than a few batches"


def test_an_error_of_a_reading_thread_reaches_the_step_that_asks_for_the_batch(
    loader: BatchLoader, spatial: Rows
) -> None:
    spatial.broken = set(Schedule(GROUPS, 16, 0)[2].rows.tolist())
    loader[0]
    loader[1]
    with pytest.raises(OSError, match="shard 3 is gone"):
        loader[2]


def test_a_closed_loader_keeps_neither_threads_nor_arrays() -> None:
    def reading() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("batches")}

    before, array = reading(), Rows(16, (2, 1, 1))
    split = SplitTargets(Rows(16, (3, 32, 32), np.uint8), None, None, {}, {"a": array})
    loader, gone = BatchLoader(CachedSource(split), Schedule(GROUPS, 16, 0), torch.device("cpu")), weakref.ref(array)
    loader[0]
    assert reading() - before
    loader.close()
    assert not reading() - before
    del loader, split, array
    gc.collect()
    assert gone() is None


def batch_of_cells() -> Batch:
    """Two images of 4 x 4 cells of 2 px, each of its own color, whose targets are these colors."""
    cells = torch.arange(32.0).reshape(2, 1, 4, 4)
    images = cells.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)
    return Batch(images, {"a/spatial": cells, "a/summary": torch.arange(2.0)[:, None]})


@pytest.mark.parametrize("shift", [(0, 0), (-3, 3), (2, 1)])
def test_a_shifted_student_is_compared_with_the_cells_that_it_sees(shift: tuple[int, int]) -> None:
    batch = batch_of_cells().shifted(shift)
    student_sees = batch.images[:, :1, ::2, ::2]  # a perfect student: the color of each cell
    assert torch.equal(batch.with_targets(student_sees), batch.targets["a/spatial"])
    kept = tuple(4 - abs(cells) for cells in shift)
    assert batch.targets["a/spatial"].shape[2:] == kept
    assert torch.equal(batch.targets["a/summary"], batch_of_cells().targets["a/summary"])
    halves = batch.micro_batches(2)
    assert torch.equal(torch.cat([half.with_targets(half.images[:, :1, ::2, ::2]) for half in halves]),
                       torch.cat([half.targets["a/spatial"] for half in halves]))  # fmt: skip


def test_an_image_is_moved_down_and_to_the_right_and_filled_by_its_edge() -> None:
    images = batch_of_cells().shifted((1, 1)).images
    before = batch_of_cells().images
    assert torch.equal(images[..., 2:, 2:], before[..., :6, :6])
    assert torch.equal(images[..., :2, 2:], before[..., :1, :6].expand(-1, -1, 2, -1))


def test_shifts_are_drawn_within_their_limit_for_each_step() -> None:
    shifts = [Schedule(ONE, 96, 0, max_shift=1)[step].shift for step in range(300)]
    assert set(shifts) == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert {Schedule(ONE, 96, 0)[step].shift for step in range(50)} == {(0, 0)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_s_batches_are_those_of_the_cpu_while_the_student_s_stream_is_busy() -> None:
    source = CachedSource(SplitTargets(Rows(16, (3, 32, 32), np.uint8), None, None, {}, {"a": Rows(16, (2, 4, 4))}))
    schedule, cpu = Schedule(GROUPS, 16, 0), torch.device("cpu")
    loader, product = BatchLoader(source, schedule, torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    try:
        for step in range(40):
            batch = loader[step]
            for _ in range(20):
                product = torch.tanh(product @ product)
            images, maps = batch.images + 0, batch.targets["a/spatial"] + 0
            del batch  # its memory is free again before the student's stream has read it
            plain = source.read(schedule[step], schedule[step].rows, cpu)
            torch.testing.assert_close(images.cpu(), plain.images)
            assert torch.equal(maps.cpu(), plain.targets["a/spatial"])
    finally:
        loader.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("storage", CODECS)
def test_a_gpu_decodes_targets_to_the_bits_that_a_cpu_decodes(storage: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((16, 5, 4, 4), dtype=np.float32)
    codec = CODECS[storage](np.abs(values).max((0, 2, 3)))
    codes = codec.encode(values)
    with ArrayWriter(tmp_path / "rows.npy", codes.dtype, codes.shape[1:]) as writer:
        writer.append(codes)
    maps = {"a": ShardedArray([tmp_path / "rows.npy"], [16], codec)}
    source = CachedSource(SplitTargets(Rows(16, (3, 32, 32), np.uint8), None, None, {}, maps))
    plan = Schedule(GROUPS, 16, 0)[0]
    decoded = source.read(plan, plan.rows, torch.device("cuda")).targets["a/spatial"]
    assert decoded.device.type == "cuda"
    assert torch.equal(decoded.cpu(), source.read(plan, plan.rows, torch.device("cpu")).targets["a/spatial"])
