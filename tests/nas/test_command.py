"""What the commands share: ``--help``, repeatable ``NAME=FILE`` options."""

import importlib
import signal
from pathlib import Path

import pytest

from nas.arguments import parser
from nas.command import interrupt_on_signals


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
    "nas.rerank",
    "nas.finals.__main__",
    "nas.query",
    "nas.export",
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


def test_what_the_caller_ignores_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        interrupt_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
