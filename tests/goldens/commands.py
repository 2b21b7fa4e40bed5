"""The settings that the lines of command_lines.txt make, and the answers to those of mistakes.txt."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.__main__ import COMMANDS, main
from reports.__main__ import ReportOptions
from tests.goldens.plain import flat, plain
from tests.nas.analysis.builders import new_store, small_study

FOLDER = Path(__file__).parent
SETTINGS_FILE = """\
budget = 77

[distill]
rung_steps = [20, 60]
learning_rate = 0.002

[limits]
max_params = 1e6

[run]
workers = 3
"""
OF_THE_MACHINE = ("teacher_precision", "text", "command")  # bf16 where the CPU has it; the line itself


def lines(name: str) -> list[list[str]]:
    """Return the command lines of a file as words."""
    return [shlex.split(line) for line in (FOLDER / name).read_text().splitlines()]


def make_files(folder: Path) -> None:
    """Make what the lines name in the current folder `folder`."""
    for name in ("runs/photos", "runs/other", "PHOTOS", "cache"):
        (folder / name).mkdir(parents=True)
    new_store(folder / "runs" / "mine", small_study()).close()
    (folder / "settings.toml").write_text(SETTINGS_FILE)
    (folder / "wrong.toml").write_text("budget = 'many'\n")
    (folder / "lite0.safetensors").touch()


def settings_of(words: list[str]) -> Any:
    """Return the settings object of a command line."""
    name, *options = words
    package = next(command.package for command in COMMANDS if command.name == name)
    if name == "report":
        return ReportOptions(**vars(_parser(package).parse_args(options)))
    if name == "compare":
        return vars(_parser(package).parse_args(options))
    module = f"{package}.__main__" if name == "select" else f"{package}.arguments"
    return import_module(module).parse(options)


def _parser(package: str) -> Any:
    return import_module(f"{package}.__main__").parser()


def command_lines(folder: Path) -> dict[str, dict[str, Any]]:
    """Return, by line, the settings that differ from those of the first line of the same command, by dotted name."""
    make_files(folder)
    first: dict[str, dict[str, Any]] = {}
    found = {}
    for words in lines("command_lines.txt"):
        settings = dict(_named(flat(plain(settings_of(words)))))
        before = first.get(words[0])
        first.setdefault(words[0], settings)
        found[shlex.join(words)] = settings if before is None else changes(before, settings)
    return found


def _named(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if name.rpartition(".")[2] not in OF_THE_MACHINE:
            yield name, _anywhere(value) if isinstance(value, str) else value


def _anywhere(text: str) -> str:
    """Return a text without the current folder, and without the time and the number of a new study's name."""
    text = text.replace(f"{Path.cwd()}/", "")
    return re.sub(r"^(runs/)[-0-9]{17}(-.+?)(-\d+)?$", r"\1NOW\2", text)


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of `after` that differ, and null for those that are gone."""
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return changed | {name: None for name in before if name not in after}


def mistakes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return, by line, the exit code, the number of errors on stderr, and the setting that the error names."""
    make_files(folder)
    return {shlex.join(words): answer(words) for words in lines("mistakes.txt")}


def answer(words: list[str]) -> dict[str, Any]:
    """Return how the program answers a command line."""
    with redirect_stderr(io.StringIO()) as errors, redirect_stdout(io.StringIO()):
        try:
            code: Any = main(words)
        except SystemExit as stopped:
            code = stopped.code
    said = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
    about = said[0].removeprefix("error: ").partition(":")[0] if said else " "
    return {"exit": code, "errors": len(said), "about": None if " " in about else about}
