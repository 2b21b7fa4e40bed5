"""Files are whole or missing, and two writers never share a temporary file."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.cache.entry import mark_in_use, remove_unless_in_use
from nas.doctor.readings import read_folder
from nas.files import atomic_path, atomic_write, check_writable
from nas.search import dry_run
from nas.validation import ConfigError
from tests.nas.study.builders import search_config
from tests.nas.study.searches import new_store


@pytest.mark.parametrize("sync", [False, True])
def test_text_and_bytes_replace_what_is_there(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    atomic_write(path, "first\n", sync=sync)
    atomic_write(path, "zwölf\n", sync=sync)
    assert path.read_bytes() == "zwölf\n".encode()
    atomic_write(path, b"\x00\xff", sync=sync)
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as unfinished:
            unfinished.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_path(path) as slow:
        slow.write_text("slow")
        with atomic_path(path) as fast:
            assert fast.parent == slow.parent == tmp_path
            fast.write_text("fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unfinished_file_that_was_swept_counts_where_the_finished_one_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    with atomic_path(path) as unfinished:
        unfinished.write_text("mine")
        path.write_text("theirs")
        unfinished.unlink()
    assert path.read_text() == "theirs"


def remove_used(folder: Path) -> None:
    folder.mkdir()
    (folder / "used").touch()
    remove_unless_in_use(folder)


def create_study(folder: Path) -> None:
    new_store(folder, search_config())


@pytest.mark.parametrize(
    ("act", "number"),
    [
        (check_writable, errno.ENOSYS),
        (mark_in_use, errno.ENOLCK),
        (remove_used, errno.EOPNOTSUPP),
        (create_study, errno.ENOSYS),
        (dry_run._check_writable, errno.ENOLCK),
    ],
)
def test_a_file_system_without_locks_is_named_with_the_remedy(
    act: Callable[[Path], None], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    words = f"the file system of '{tmp_path}.*' has no file locks; mount it with -o flock, or choose another folder"
    with pytest.raises((OSError, ConfigError, RuntimeError, ValueError), match=words):
        act(tmp_path / "new")
    assert "has no file locks" in read_folder(tmp_path / "new").problem
