"""Builders that are killed, that work side by side, that meet another teacher under the same name."""

import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from filelock import Timeout

from nas.cache import CacheError
from nas.cache.entry import CacheEntry, Shard
from nas.cache.targets import read_cache_set
from nas.cache.teacher_features import TeacherCacheBuilder
from nas.files import atomic_path
from tests.waiting import PATIENCE_S


def start(root, *fatal):
    command = [sys.executable, "-m", "tests.nas.cache.builder", str(root), *fatal]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def hashes(targets):
    """File name -> sha256, over all parts."""
    return {
        f"{entry.folder.name}/{name}": file["sha256"]
        for entry in read_cache_set(targets.path).entries
        for name, file in entry.manifest["files"].items()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory, teachers):
    """Built by one process in one go."""
    from nas.cache import open_targets
    from tests.nas.cache.conftest import SIZES

    return open_targets("builtin", "xfeat", root=tmp_path_factory.mktemp("alone"), **SIZES)


def test_a_killed_build_goes_on_where_it_was(tmp_path, opened, alone):
    """Killed with SIGKILL after two of three shards' statistics and targets; what was finished isn't touched again."""
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
    assert not {stage for stage, *_ in calls} & {"train images", "val images"}
    folders = {entry.folder for entry in read_cache_set(targets.path).entries}
    assert all(path.parent in folders for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path)


def test_two_processes_share_the_work(tmp_path, opened, alone):
    """No shard is made twice, none is lost, and the content is that of one process."""
    builders = [start(tmp_path) for _ in range(2)]
    made = [line for builder in builders for line in builder.communicate(timeout=PATIENCE_S)[0].split("\n")[:-1]]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert len(made) == len(set(made)) == 5 + 5
    calls = []
    assert hashes(opened(tmp_path, progress=lambda *call: calls.append(call))) == hashes(alone)
    assert calls == []


def test_locks_are_had_while_another_builder_finishes_the_part(tmp_path):
    """It removes what the part was built with, at any moment."""
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
            with suppress(Timeout), entry.lock("shard", wait=False):  # taken up in the next round, as if it were held
                pass
    finally:
        over.set()
        finisher.join()
    assert broken == []


def test_an_interrupted_build_is_taken_up_in_the_same_process(tmp_path, opened, alone):
    def interrupt(stage, done, total):
        if (stage, done) == ("xfeat on the first train images", 16):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, progress=interrupt)
    assert not list(tmp_path.rglob("*.tmp"))
    assert hashes(opened(tmp_path)) == hashes(alone)


def test_a_shard_that_another_builder_holds_is_passed_over_and_waited_for(tmp_path):
    """Taken up when that builder's lock goes, as the kernel drops a dead process's."""
    entry, shards, made = CacheEntry(tmp_path), [Shard("train", i, 16 * i, 16 * i + 16) for i in range(3)], []
    held = entry.lock(shards[0].name)
    held.__enter__()

    def make(shard, done):
        made.append(shard.number)
        entry.record(shard, 16, [])
        if len(made) == 2:
            held.__exit__(None, None, None)

    told = []
    entry.working.mkdir(exist_ok=True)
    entry.fill(shards, entry.has, make, told.append)
    assert made == [1, 2, 0]
    assert told == [16, 32, 48]


def test_a_teacher_that_computes_something_else_is_refused(tmp_path, opened, teachers, monkeypatch):
    """Same weights, same name, but its input is fed otherwise since the build began."""

    def interrupt(stage, done, total):
        if (stage, done) == ("xfeat on train images", 48):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, progress=interrupt)
    original = type(teachers["xfeat"]).forward
    monkeypatch.setattr(type(teachers["xfeat"]), "forward", lambda self, images: original(self, images.flip(2)))
    monkeypatch.setattr("nas.teachers.base.recorded_activations", dict)  # as for teachers not recorded there
    with pytest.raises(CacheError, match=r"xfeat computes something else now .*normalisation\? version\?.*delete it"):
        opened(tmp_path)


def test_a_teacher_is_loaded_only_where_it_has_something_to_say(tmp_path, opened, monkeypatch):
    """All that is left to do is to gather the records."""
    finish = CacheEntry.finish
    with monkeypatch.context() as patch:
        patch.setattr(CacheEntry, "finish", lambda entry, *rest: "images" in entry.folder.name and finish(entry, *rest))
        with pytest.raises(CacheError, match="manifest"):
            opened(tmp_path)
    monkeypatch.setattr(TeacherCacheBuilder, "teacher", property(lambda features: pytest.fail("loaded")))
    assert len(opened(tmp_path).train) == 48


def test_a_finished_part_keeps_nothing_of_killed_writers(tmp_path):
    part = CacheEntry(tmp_path / "part")
    part.open()
    killed = [atomic_path(part.folder / "a.npy"), atomic_path(part.working / "b.npy")]
    for writer in killed:
        writer.__enter__().touch()
    part.finish([], [], lambda records: {})
    assert sorted(path.name for path in part.folder.iterdir()) == ["manifest.json", "used", "working"]
    assert not list(part.working.iterdir())
