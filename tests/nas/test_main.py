"""``backbone-nas``: its commands, its help, and what the help does not import."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from nas.__main__ import COMMANDS, main
from nas.cli import EXIT_CODES

SLOW_TO_IMPORT = ("torch", "timm", "optuna", "ray", "pandas", "numpy", "scipy", "matplotlib", "sqlalchemy")


def test_no_help_imports_what_takes_seconds() -> None:
    """In one process, so that an import of any command is seen."""
    code = f"""
import contextlib, io, sys
from nas.__main__ import COMMANDS, main
for words in ([], *([command.name] for command in COMMANDS)):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert not (found := set({SLOW_TO_IMPORT}) & set(sys.modules)), (words, found)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_help_ends_with_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """A single % in a help text is enough to break it."""
    for command in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([command.name, "--help"])
        shown = capsys.readouterr().out
        assert f"\nexamples:\n  backbone-nas {command.name}" in shown
        assert shown.endswith(EXIT_CODES)


def test_help_names_every_command_in_the_order_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n  {command.name} ") for command in COMMANDS]
    assert places == sorted(places)
    assert main([]) == 2
    assert capsys.readouterr().err == shown


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"backbone-nas {metadata.version('backbone-nas')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serch"], "did you mean search?"),
        (["--halp"], "'--halp'"),
        (["select", "--max-latensy-ms", "3"], "did you mean --max-latency-ms?"),
        (["select", "--max-lat", "3"], "--max-lat"),  # no flag is abbreviated
    ],
)
def test_a_misspelled_word_is_one_line_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words)
    except SystemExit as exit:
        code = int(exit.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_the_console_script_is_this_function() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"backbone-nas": f"{main.__module__}:main"}
