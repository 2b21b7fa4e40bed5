"""What the commands share: ``--help``, exit codes, signals, and repeatable ``NAME=FILE`` options."""

import errno
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nas.cli import exit_code
from nas.data.dataset import DataError, DataUnavailable
from nas.search.__main__ import _after_interruption
from nas.search.__main__ import main as search
from nas.search.arguments import parser
from nas.search.settings import SearchCommand
from nas.search.study_opening import write_config
from nas.storage.errors import DatabaseUnavailable, StoreError, translate_errors
from nas.study.config import SearchConfig
from nas.study.teacher_names import TeacherError
from nas.teachers.base import TeacherUnavailable


def test_named_files_are_collected() -> None:
    files = ["--teacher-weights", "a.x@224=one.safetensors", "--teacher-weights", "b=~/two=2.safetensors"]
    words = ["--teachers", "a.x@224,b", *files]
    arguments = vars(parser().parse_args(words))
    assert arguments["teachers"] == "a.x@224,b"
    assert arguments["teacher_weights"] == {
        "a.x@224": Path("one.safetensors"),
        "b": Path("~/two=2.safetensors").expanduser(),
    }
    assert "teacher" not in vars(parser().parse_args([]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher-weights", "a"], "'a': must be NAME=FILE"),
        (["--teacher-weights", "a=f", "--teacher-weights", "a=g"], "a: a file was given twice"),
        (["--objectives", "score,"], "--objectives: 'score,': must be separated by commas"),
        (["--rung-steps", "1,b"], "--rung-steps: 'b': must be a valid integer"),
        (["--max-hours", "two"], "--max-hours: 'two': must be a valid number"),
    ],
)
def test_other_forms_are_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_signals_end_a_command_as_ctrl_c_does_and_get_their_handlers_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        ours = signal.getsignal(signal.SIGTERM)
        assert exit_code(lambda: signal.raise_signal(signal.SIGTERM), interrupted="all is well") == 130
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "interrupted; all is well\n"


def test_ctrl_c_again_while_a_command_ends_shows_no_traceback() -> None:
    code = (
        "import atexit, sys; from nas.cli import exit_code\n"
        "def wait(word):\n    print(word, flush=True)\n    return input()\n"
        "atexit.register(wait, 'exit')\n"
        "sys.exit(exit_code(lambda: len(wait('work')), lambda: wait('line')))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs the tests by "&"
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for answer in ("", "all is well\n", ""):
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            process.stdin.write(answer)
            process.stdin.flush()
        _, errors = process.communicate()
    assert (process.returncode, errors) == (-signal.SIGINT, "interrupted; all is well\n")  # 130 in a shell


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert exit_code(lambda: signal.raise_signal(signal.SIGHUP) or 7) == 7
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_of_a_program_can_run_a_command() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(exit_code(lambda: 3)))
    thread.start()
    thread.join()
    assert codes == [3]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError, 2),
        (FileNotFoundError, 2),
        (StoreError, 2),
        (DataError, 2),
        (TeacherError, 2),
        (OSError, 1),
        (MemoryError, 1),
        (DatabaseUnavailable, 1),
        (DataUnavailable, 1),
        (TeacherUnavailable, 1),
    ],
)
def test_an_error_is_one_line_with_a_mark_where_it_was_cut(
    error: type[Exception], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error("a\nb " + 600 * "c" + " d")

    assert exit_code(fail) == code
    line = capsys.readouterr().err
    assert line.startswith("error: a b ccc")
    assert line.endswith("c d\n")
    assert "c…c" in line
    assert len(line) == len("error: \n") + 500


def test_a_full_disk_is_a_failure_and_a_missing_file_is_wrong_use(tmp_path: Path) -> None:
    def fill() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "study.db")

    assert exit_code(fill) == 1
    assert exit_code(lambda: len((tmp_path / "no").read_text())) == 2


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (sqlite3.OperationalError("database or disk is full"), 1),
        (sqlite3.OperationalError("disk I/O error"), 1),
        (OSError(errno.EIO, "Input/output error"), 1),
        (sqlite3.DatabaseError("file is not a database"), 2),
        (KeyError("info"), 2),
    ],
)
def test_an_unwritable_study_is_a_failure_and_an_invalid_one_is_wrong_use(cause: Exception, code: int) -> None:
    def work() -> int:
        with translate_errors("the study cannot be written"):
            raise cause

    assert exit_code(work) == code


def test_exhausted_memory_is_one_line_and_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> int:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr("nas.search.__main__._main", fail)
    assert search(["--run", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: [enforce fail")


def test_an_interrupted_search_is_resumed_or_before_its_study_exists_typed_again(tmp_path: Path) -> None:
    command = SearchCommand(SearchConfig(), tmp_path, cache="elsewhere", workers=3, max_hours=24)
    assert "--resume" not in _after_interruption([command])
    assert "type the same command again" in _after_interruption([command])
    (tmp_path / "study.db").touch()
    write_config(command, command.config.to_dict())  # which keeps the cache
    *_, last = _after_interruption([command]).splitlines()
    assert last == f"resume with: backbone-nas search --resume {tmp_path} --workers 3 --max-hours 24"


@pytest.mark.parametrize("error", [NotImplementedError, RecursionError, TypeError])
def test_a_bug_is_not_reported_as_wrong_use(error: type[Exception]) -> None:
    def fail() -> int:
        raise error("ours")

    with pytest.raises(error):
        exit_code(fail)
