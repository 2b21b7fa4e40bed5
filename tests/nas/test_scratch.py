"""Scratch folders are private, and nothing of a killed process stays."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nas.machine import lock_dir
from nas.scratch import VARIABLE, guarded, kill_children, private_folder, scratch_folder
from tests.nas.backend.processes import gone
from tests.waiting import PATIENCE_S, until

# A process with a scratch folder and a child that ignores signals and its parent's death.
_OWNER = """
import signal, subprocess, sys
from contextlib import nullcontext
from pathlib import Path
from nas.scratch import guarded, scratch_folder
child = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
with scratch_folder("s-", Path(sys.argv[1])) as folder, guarded(folder) if sys.argv[2] == "guarded" else nullcontext():
    process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    (folder / "content").write_text("x")
    print(folder, process.pid, flush=True)
    signal.pause()
"""


def start(parent: Path, guard: str) -> tuple[subprocess.Popen[str], Path, int]:
    """Start a process that has a scratch folder; return it, the folder and its child."""
    words = [sys.executable, "-c", _OWNER, str(parent), guard]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder, child = process.stdout.readline().split()
    return process, Path(folder), int(child)


def test_a_folder_is_of_this_user_alone_and_is_removed(tmp_path: Path) -> None:
    with scratch_folder("s-", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.environ[VARIABLE] == str(folder)
        (folder / "a").write_text("x")
    assert not list(tmp_path.iterdir())
    assert VARIABLE not in os.environ


def test_the_next_process_sweeps_what_a_killed_one_has_left(tmp_path: Path) -> None:
    (killed, folder, child), (living, other, other_child) = start(tmp_path, "alone"), start(tmp_path, "alone")
    killed.kill()
    killed.wait()
    assert not gone(child)
    with scratch_folder("s-", tmp_path):
        until(lambda: gone(child))
        assert not folder.exists()
        assert (other / "content").exists()
        assert not gone(other_child), "its process lives"
    living.kill()
    living.wait()
    os.kill(other_child, signal.SIGKILL)


def test_a_stopped_child_of_a_killed_process_ends_by_the_guard(tmp_path: Path) -> None:
    process, folder, child = start(tmp_path, "guarded")
    os.kill(child, signal.SIGSTOP)
    process.kill()
    process.wait()
    until(lambda: gone(child) and not folder.exists())


def test_a_child_whose_title_has_overwritten_its_environment_ends_too(tmp_path: Path) -> None:
    """Ray's agents are such: they lived on for a minute."""
    title = "import ray._raylet; ray._raylet.setproctitle('ray::Agent'); log = open(folder + '/log', 'w'); log.flush()"
    code = f"import os, signal; folder = os.environ['{VARIABLE}']; {title}; print('ready', flush=True); signal.pause()"
    with scratch_folder("s-", tmp_path) as folder:
        short = {"PATH": os.environ["PATH"], VARIABLE: str(folder)}
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=short)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        other = subprocess.Popen(["tail", "-f", folder / "log"], env={"PATH": os.environ["PATH"]})  # a user's
        assert VARIABLE.encode() not in Path(f"/proc/{child.pid}/environ").read_bytes()
        kill_children(folder)
        assert child.wait(PATIENCE_S) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
        other.wait()


def test_a_guard_ends_with_the_body_and_sweeps_nothing(tmp_path: Path) -> None:
    with scratch_folder("s-", tmp_path) as folder:
        with guarded(folder):
            pass
        assert folder.exists()


@pytest.mark.parametrize("lock", ["none", "fifo"])
def test_folders_of_others_stay(tmp_path: Path, lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder without a lock is swept, as of a process that has just begun, nor one of another user."""
    (tmp_path / "s-other").mkdir()
    if lock == "fifo":  # opening it would wait for ever
        os.mkfifo(tmp_path / "s-other" / ".lock")
        monkeypatch.setattr("nas.scratch.os.geteuid", lambda: 12345)
    with scratch_folder("s-", tmp_path):
        pass
    assert (tmp_path / "s-other").exists()


def test_the_folder_of_locks_is_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = lock_dir()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)  # as an earlier version made it
    assert stat.S_IMODE(lock_dir().stat().st_mode) == 0o700


def test_what_is_no_folder_of_this_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(PermissionError, match="is not a folder that belongs to this user"):
            private_folder(tmp_path / name)
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) != 0o700, "the link's folder is as it was"
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "own").stat().st_uid + 1)
    with pytest.raises(PermissionError, match="is not a folder that belongs to this user"):
        private_folder(tmp_path / "own")
