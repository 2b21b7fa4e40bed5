"""What the commands share: ``--help``, repeatable ``NAME=FILE`` options."""

import importlib
import signal
import threading
from pathlib import Path

import pytest

from nas.arguments import parser
from nas.command import exit_code


def test_named_files_are_gathered() -> None:
    given = ["--teachers", "a.x@224,b", "--teacher", "a.x@224=one.safetensors", "--teacher", "b=~/two=2.safetensors"]
    arguments = vars(parser().parse_args(given))
    assert arguments["teachers"] == "a.x@224,b"
    assert arguments["teacher"] == {
        "a.x@224": Path("one.safetensors"),
        "b": Path("~/two=2.safetensors").expanduser(),
    }
    assert "teacher" not in vars(parser().parse_args([]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--teacher", "a"], "'a': must be NAME=FILE"),
        (["--teacher", "=f"], "must be NAME=FILE"),
        (["--teacher", "a="], "must be NAME=FILE"),
        (["--teacher", "a=f", "--teacher", "a=g"], "a: a file was given twice"),
    ],
)
def test_other_forms_are_refused_in_one_line(given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(given)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


COMMANDS = (
    "nas.search",
    "nas.profile",
    "nas.retrain.__main__",
    "nas.remeasure.__main__",
    "nas.select.__main__",
    "nas.export.__main__",
    "nas.cache.__main__",
    "reports.__main__",
    "reports.compare.__main__",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A single % in a help text is enough to break it."""
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(name).main(["--help"])
    assert caught.value.code == 0
    assert "\nexamples:\n  python -m " in capsys.readouterr().out


def test_signals_end_a_command_as_ctrl_c_does_and_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        ours = signal.getsignal(signal.SIGTERM)
        assert exit_code(lambda: signal.raise_signal(signal.SIGTERM), interrupted="all is well") == 130
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "interrupted; all is well\n"


def test_what_the_caller_ignores_stays_ignored() -> None:
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


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError, MemoryError])
def test_an_error_is_one_line_that_says_where_it_was_cut(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error("a\nb " + 600 * "c")

    assert exit_code(fail) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: a b ccc")
    assert told.endswith("c…\n")
    assert len(told) == len("error: \n") + 500


@pytest.mark.parametrize("error", [NotImplementedError, RecursionError, TypeError])
def test_a_fault_of_ours_is_not_called_bad_input(error: type[Exception]) -> None:
    def fail() -> int:
        raise error("ours")

    with pytest.raises(error):
        exit_code(fail)
