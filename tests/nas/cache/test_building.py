"""Builds that are killed, run in parallel, or meet another teacher under the same name."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
from filelock import Timeout

from nas.cache import CacheError, open_targets
from nas.cache.build import CachePlan
from nas.cache.entry import CacheEntry, Shard, read_json
from nas.cache.images import ImageSource
from nas.cache.poses import poses_file
from nas.cache.shards import ArrayFile, ArrayWriter, mapped
from nas.cache.standardize import STATISTICS_FILE
from nas.cache.targets import load_targets, read_cache_set
from nas.cache.teacher_features import Compression
from nas.teachers import TeacherError
from tests.nas.cache.builder import SIZES
from tests.waiting import PATIENCE_S

COMPRESSION = Compression(4, "int8", 0.25)


def quiet(*progress):
    """Report nothing."""


def start(root, *fatal):
    command = [sys.executable, "-m", "tests.nas.cache.builder", str(root), *fatal]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def hashes(targets):
    """File name -> sha256, over all entries."""
    return {
        f"{entry.folder.name}/{name}": file["sha256"]
        for entry in read_cache_set(targets.path).entries
        for name, file in entry.manifest["files"].items()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory, teachers):
    """A cache built by one process without an interruption."""
    return open_targets("builtin", "xfeat", root=tmp_path_factory.mktemp("alone"), **SIZES)


def test_a_killed_build_resumes(tmp_path, opened, alone):
    """Killed with SIGKILL after two of three shards of targets; finished shards aren't written again."""
    killed = start(tmp_path, "xfeat on train images", "32")
    finished = killed.communicate(timeout=PATIENCE_S)[0].split("\n")[:-1]
    assert killed.returncode == -signal.SIGKILL
    assert len(finished) == 5 + 2
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*-0000*.npy") if ".raw" not in path.name}
    assert len(before) == 5 * 3 + 2 * 2
    assert list(tmp_path.rglob("*.raw.npy"))
    calls = []
    targets = opened(tmp_path, progress=lambda *call: calls.append(call))
    assert {path: path.stat().st_ino for path in before} == before
    assert hashes(targets) == hashes(alone)
    steps = [stage for stage, done, total in calls if done == total and stage.startswith("step ")]
    assert [stage.partition(": ")[2] for stage in dict.fromkeys(steps)] == [
        "xfeat on 48 train images, to fit its standardization",
        "xfeat on train images",
        "xfeat on val images",
        "xfeat on pairs of poses",
    ]
    assert [stage.partition(":")[0] for stage in dict.fromkeys(steps)] == [f"step {i} of 4" for i in (1, 2, 3, 4)]
    folders = {entry.folder for entry in read_cache_set(targets.path).entries}
    assert all(path.parent in folders for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path)


def test_a_file_is_on_the_disk_before_what_says_that_it_is_written(tmp_path, opened, monkeypatch):
    """Else a shard can have a record after a power cut, and no content."""
    synced, sync = [], os.fsync

    def sync_and_list(file):
        sync(file)
        synced.append(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", sync_and_list)
    recorded = []
    record = CacheEntry.record

    def record_and_list(entry, shard, rows, paths, **details):
        record(entry, shard, rows, paths, **details)
        recorded.append([path.stat().st_ino for path in (*paths, entry.record_path(shard))])

    monkeypatch.setattr(CacheEntry, "record", record_and_list)
    targets = opened(tmp_path)
    assert len(recorded) == 2 * 5
    for files in recorded:
        assert files[-1] == max(files, key=synced.index), "the record last"
    for entry in read_cache_set(targets.path).entries:
        manifest, *files = (
            path.stat().st_ino for path in (entry.manifest_path, *map(entry.folder.joinpath, entry.manifest["files"]))
        )
        assert all(synced.index(file) < synced.index(manifest) for file in files)
    assert targets.path.stat().st_ino in synced


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, opened, alone):
    """Every shard is written once, with the content of a single process's build."""
    builders = [start(tmp_path) for _ in range(2)]
    written = [line for builder in builders for line in builder.communicate(timeout=PATIENCE_S)[0].split("\n")[:-1]]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert len(written) == len(set(written)) == 5 + 5
    calls = []
    assert hashes(opened(tmp_path, progress=lambda *call: calls.append(call))) == hashes(alone)
    assert calls == []


def test_locks_work_while_another_builder_finishes_the_entry(tmp_path):
    """It removes the lock files at any moment."""
    entry, over, broken = CacheEntry(tmp_path), threading.Event(), []
    entry.open()

    def finish_again_and_again():
        try:
            while not over.is_set():
                CacheEntry(tmp_path).finish([], [], dict)
        except OSError as error:
            broken.append(error)

    finisher = threading.Thread(target=finish_again_and_again)
    finisher.start()
    try:
        for number in range(500):
            with entry.lock(f"shard {number % 3}"):
                pass
            with suppress(Timeout), entry.lock("shard", wait=False):  # a builder tries again later
                pass
    finally:
        over.set()
        finisher.join()
    assert broken == []


@pytest.fixture
def fitted(tmp_path, teachers):
    """A builder of xfeat's entry whose images and statistics are written, and its one train shard, not yet written."""
    plan = CachePlan(ImageSource("builtin", {"train": 16, "val": 2}, 0, 1, tmp_path), "xfeat", {}, 64, COMPRESSION)
    plan.images.build(quiet)
    (builder,) = plan.teachers
    builder.entry.open()
    (shard,) = builder.calibration_shards
    builder.write_raw_shard(shard, quiet)
    builder.calibrate([shard])
    return plan, builder, shard


def test_a_calibration_shard_that_is_written_twice_keeps_its_rows(fitted):
    """As where a network file system loses a lock: the first writer has deleted the raw features."""
    plan, builder, shard = fitted
    builder.write_shard(shard, quiet)
    first = read_json(builder.entry.record_path(shard))
    assert first["rows"] == 16
    assert not list(builder.entry.working.glob("*.raw.npy"))
    builder.write_shard(shard, quiet)
    again = read_json(builder.entry.record_path(shard))
    assert again["files"] == first["files"]
    assert again["rows"] == 16
    plan.build(quiet)
    assert len(load_targets(plan.path).train) == 16


def test_targets_of_some_of_a_shards_images_replace_no_file(fitted, monkeypatch):
    _, builder, shard = fitted
    builder.write_shard(shard, quiet)
    before = {path: path.read_bytes() for path in builder.entry.folder.rglob(f"{shard.name}*")}
    monkeypatch.setattr(builder, "compress", lambda heads: {})
    with pytest.raises(CacheError, match=r"xfeat has features of 0 of the 16 images in train-00000"):
        builder.write_shard(shard, quiet)
    assert {path: path.read_bytes() for path in builder.entry.folder.rglob(f"{shard.name}*")} == before


def test_statistics_are_not_fitted_on_a_part_of_the_raw_features(fitted):
    """As where another process has deleted them meanwhile."""
    _, builder, shard = fitted
    (builder.entry.folder / STATISTICS_FILE).unlink()
    builder.raw_paths(shard)["spatial"].unlink()
    mapped.cache_clear()
    with pytest.raises(CacheError, match=r"train-00000-spatial\.raw\.npy is missing"):
        builder.calibrate([shard])
    assert not builder.calibrated


def test_a_shard_that_another_builder_holds_is_skipped_and_waited_for(tmp_path):
    """It is written when that builder's lock is released, as the kernel does for a dead process."""
    entry, shards, written = CacheEntry(tmp_path), [Shard("train", i, 16 * i, 16 * i + 16) for i in range(3)], []
    held = entry.lock(shards[0].name)
    held.__enter__()

    def write(shard, done):
        written.append(shard.number)
        entry.record(shard, 16, [])
        if len(written) == 2:
            held.__exit__(None, None, None)

    reports = []
    entry.working.mkdir(exist_ok=True)
    entry.fill(shards, entry.written, write, reports.append)
    assert set(written[:2]) == {1, 2}
    assert written[2] == 0
    assert reports == [16, 32, 48]


def test_a_teacher_that_computes_other_features_is_refused(tmp_path, opened, teachers, monkeypatch):
    """It has the same weights and name, but its preprocessing changed after the build began."""

    def interrupt(stage, done, total):
        if stage.endswith("xfeat on train images") and done == 48:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, progress=interrupt)
    original = type(teachers["xfeat"]).forward
    monkeypatch.setattr(type(teachers["xfeat"]), "forward", lambda self, images: original(self, images.flip(2)))
    monkeypatch.setattr("nas.teachers.base.recorded_activations", dict)  # as for teachers not recorded there
    with pytest.raises(CacheError, match=r"xfeat .*delete it"):
        opened(tmp_path)


@pytest.mark.parametrize(("value", "image"), [(float("nan"), 0), (float("inf"), -1)], ids=["fitted", "held out"])
def test_features_that_are_not_finite_are_refused(value, image, tmp_path, opened, teachers, monkeypatch):
    """In eight bits NaN would be the mean feature: students would learn invented targets."""
    original, seen = type(teachers["xfeat"]).forward, []

    def damaged(self, images):
        output = original(self, images)
        seen.append(len(images))
        if image == 0 or sum(seen) > SIZES["train_images"]:
            output.spatial[image, 0, 0, 0] = value
        return output

    monkeypatch.setattr(type(teachers["xfeat"]), "forward", damaged)
    monkeypatch.setattr("nas.teachers.base.recorded_activations", dict)  # as for teachers not recorded there
    with pytest.raises(TeacherError, match="teacher xfeat: its spatial features are not finite"):
        opened(tmp_path)


def test_a_builder_that_finishes_second_leaves_the_poses_that_the_first_one_writes(tmp_path):
    """Poses are written into an entry that is complete already."""
    first, second = CacheEntry(tmp_path / "entry"), CacheEntry(tmp_path / "entry")
    first.open()
    first.finish([], [], lambda records: {})
    with ArrayWriter(poses_file(first, "spatial"), "uint8", (2,)) as writer:
        writer.append(np.ones((3, 2), dtype=np.uint8))
        second.finish([], [], lambda records: {})
    assert np.array_equal(ArrayFile(poses_file(first, "spatial"))[[0, 1, 2]], np.ones((3, 2)))
