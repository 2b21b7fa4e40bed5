"""Indexes of shards that are kept in a folder: another process reads them in place of the shard."""

from __future__ import annotations

import itertools
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.data import open_images, tar_index, webdataset
from nas.data.tar_index import ShardIndex, read_index
from tests.nas.data.builders import png, write_shard


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tar_index, "KEPT_S", 0.0)
    path = tmp_path / "s-0.tar"
    samples = {f"{i:03}": {"png": png(i), "cls": str(i).encode(), "mask.png": png(i, mode="L")} for i in range(4)}
    write_shard(path, {**samples, "with\udcff": {"JPG": png(9)}, "without": {"txt": b"no image"}})
    return path


def read_in_another_process(path: Path, folder: Path) -> ShardIndex:
    """Read an index as a process does that has not read the shard before."""
    tar_index._index_of_version.cache_clear()
    return read_index(path, str(path), folder)


def refuse_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_index, "_indexed", lambda path, name: pytest.fail("the shard was read"))


def test_another_process_reads_the_kept_index(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = read_in_another_process(shard, tmp_path / "indexes")
    refuse_to_open(monkeypatch)
    kept = read_in_another_process(shard, tmp_path / "indexes")
    assert kept == fresh
    assert [sample.label for sample in kept.samples] == [0, 1, 2, 3, None]
    assert kept.samples[0].image.read() == png(0)
    assert [sample.mask is None for sample in kept.samples] == [False] * 4 + [True]
    assert kept.left_out["samples without an image (jpg, jpeg, png, webp)"] == ("s-0.tar/without",)


def test_a_shard_of_another_size_or_date_is_read_again(shard: Path, tmp_path: Path) -> None:
    read_in_another_process(shard, tmp_path / "indexes")
    for names in ("abcdefghi", "rstuvwxyz"):
        date_ns = shard.stat().st_mtime_ns
        write_shard(shard, {name: {"png": png(0)} for name in names})
        os.utime(shard, ns=(date_ns, date_ns + 1))
        again = read_in_another_process(shard, tmp_path / "indexes")
        assert [sample.key for sample in again.samples] == [f"s-0.tar/{name}" for name in names]


INFINITE = '{"samples": [["a", Infinity, 1, null, null, null]], "left_out": {}}'
CONTENTS = ("", "[]", "{}", '{"samples": [[1]], "left_out": {}}', "[" * 99_999, '{"samples": 1}', INFINITE)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_index_is_made_again(shard: Path, tmp_path: Path, content: str) -> None:
    fresh = read_in_another_process(shard, tmp_path / "indexes")
    (file,) = (tmp_path / "indexes").iterdir()
    whole = file.read_text()
    file.write_text(content)
    assert read_in_another_process(shard, tmp_path / "indexes") == fresh
    assert file.read_text() == whole


def test_the_index_of_a_shard_that_is_read_at_once_is_not_kept(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_index, "KEPT_S", 60.0)
    read_in_another_process(shard, tmp_path / "indexes")
    assert not (tmp_path / "indexes").exists()


def test_a_folder_that_cannot_be_written_loses_nothing(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "indexes").write_text("a file")
    assert len(read_in_another_process(shard, tmp_path / "indexes").samples) == 5


def test_processes_that_begin_together_share_the_indexing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads without a common memory stand for the 64 processes of a build, which all select the same samples."""
    for number in range(64):
        write_shard(tmp_path / f"s-{number:02}.tar", {f"{number}-{i}": {"png": png(i)} for i in range(3)})
    monkeypatch.setattr(tar_index, "KEPT_S", -1.0)
    monkeypatch.setattr(webdataset, "QUIET_S", -1.0)
    uri, indexed, calls = f"webdataset:{tmp_path}/s-*.tar", [], []
    alone = open_images(uri, "train", None, 0, 32, tmp_path / "alone", progress=lambda *call: calls.append(call))
    reported = [done for _, done, _ in calls]
    assert reported == list(range(1, 65))
    assert max(total for _, _, total in calls) == 64
    index = tar_index._indexed

    def slowly(path: Path, name: str) -> ShardIndex:
        indexed.append(path)
        time.sleep(0.02)
        return index(path, name)

    seeds = itertools.count()
    monkeypatch.setattr(webdataset, "random", SimpleNamespace(Random=lambda: random.Random(next(seeds))))
    monkeypatch.setattr(tar_index, "_indexed", slowly)
    monkeypatch.setattr(tar_index, "_index_of_version", tar_index._index_of_version.__wrapped__)
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_images(uri, "train", None, 0, 32, tmp_path / "cache"), range(4)))
    assert all(images.samples == alone.samples for images in opened)
    assert set(indexed) == set(tmp_path.glob("s-*.tar"))
    assert len(indexed) < 2 * 64

    indexed.clear()
    few = open_images(uri, "train", 30, 0, 32, tmp_path / "few")
    assert len(set(indexed)) == len(few.paths), "no more shards than are needed"
