"""Studies on read-only and full disks are read by the commands that only read, and by nothing without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas.remeasure.arguments import RemeasureSettings
from nas.remeasure.measuring import plan_remeasuring
from nas.storage.errors import StoreError
from nas.storage.store import Store, read_study
from nas.study.records import Remeasurement
from tests.nas.analysis.builders import new_store, remeasured, small_study
from tests.nas.study.builders import measurement

READERS = """
import sys
from pathlib import Path
from nas.remeasure.__main__ import main as remeasure
from nas.select.__main__ import main as select
from nas.storage.store import Store, read_study
from reports.__main__ import main as report
run, out = sys.argv[1:]
assert select([run]) == 0
assert report([run, "--out", f"{out}/report.html"]) == 0
assert remeasure([run, "--device", "cpu", "--threads", "1", "--name", "r"]) == 0
assert len(read_study(Path(run)).trials) == 6
"""
# Mounts belong to the shell that `unshare` starts, and end with it.
READ_ONLY = 'mount -t tmpfs tmpfs "$1" && cp -r "$2" "$1/run" && mount -o remount,ro "$1" && shift 2 && "$@"'
FULL = (
    'mount -t tmpfs -o size=8m tmpfs "$1" && cp -r "$2" "$1/run" && '
    '{ dd if=/dev/zero of="$1/filled" bs=4k 2>/dev/null; shift 2; "$@"; }'
)


def on_disk(script: str, disk: Path, run: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with a study on a disk of its own; skip where this user may mount none."""
    disk.mkdir()
    if os.getuid() or shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("mounting a disk needs root and unshare")
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(disk), str(run), sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished study that was measured again, with nothing open."""
    folder, study = tmp_path / "made", small_study()
    settings = RemeasureSettings(folder, device="cpu", threads=1, name="r")
    plan = plan_remeasuring(study, settings)
    again = {trial.number: measurement(2.0) for trial in plan.trials}
    with new_store(folder, study) as store:
        store.save_remeasurement(
            Remeasurement("r", "2026-01-01", "c", plan.environment, plan.identity, measurement(1.0), again)
        )
    assert sorted(path.name for path in folder.glob("study.db*")) == ["study.db"]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", [READ_ONLY, FULL], ids=["read-only", "full"])
def test_commands_that_only_read_need_no_disk_to_write(tmp_path: Path, run: Path, script: str) -> None:
    done = on_disk(script, tmp_path / "disk", run, ["-c", READERS, str(tmp_path / "disk" / "run"), str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_commands_that_write_refuse_a_read_only_study_at_once(tmp_path: Path, run: Path) -> None:
    words = ["-m", "nas", "remeasure", str(tmp_path / "disk" / "run"), "--device", "cpu", "--threads", "1"]
    done = on_disk(READ_ONLY, tmp_path / "disk", run, [*words, "--name", "another"])
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/disk/run cannot be written")
    assert done.stderr.count("\n") == 1


def test_the_transactions_of_a_killed_search_are_not_left_out(tmp_path: Path) -> None:
    """They are in SQLite's log, which a read-only disk lets nobody merge; it is read if its index is there too."""
    new_store(tmp_path / "run", small_study())  # stays open, as that of a killed process
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "run", killed)
    (killed / "study.db-shm").unlink()
    assert (killed / "study.db-wal").stat().st_size
    count = "import sys; from pathlib import Path; from nas.storage.store import read_study; " \
        "print(len(read_study(Path(sys.argv[1])).trials))"  # fmt: skip
    whole = on_disk(READ_ONLY, tmp_path / "whole", tmp_path / "run", ["-c", count, str(tmp_path / "whole" / "run")])
    assert whole.stdout == "6\n", whole.stderr
    cut = on_disk(READ_ONLY, tmp_path / "cut", killed, ["-c", count, str(tmp_path / "cut" / "run")])
    assert "study.db-wal; copy its folder to a disk that can be written" in cut.stderr.splitlines()[-1]
    assert cut.stdout == ""
    assert len(read_study(killed).trials) == 6


def test_a_folder_of_another_user_is_read(tmp_path: Path, run: Path) -> None:
    if not os.getuid():
        pytest.skip("root writes into any folder; the read-only disk is tested instead")
    run.chmod(0o555)
    try:
        assert len(read_study(run).trials) == 6
        with pytest.raises(StoreError, match="cannot be written"):
            Store.open(run)
    finally:
        run.chmod(0o755)


def test_a_reader_sees_what_a_writer_adds(run: Path) -> None:
    with Store.open(run) as writer, Store.open(run, read_only=True) as reader:
        writer.save_remeasurement(remeasured({}, name="later"))
        assert {r.name for r in reader.remeasurements()} == {"r", "later"}
    assert not list(run.glob("study.db-*"))
