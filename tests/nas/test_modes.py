"""Every flag has an effect, or is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nas.arguments import parser
from nas.modes import MODES, check_flags, flag
from nas.search import main

BENCH = ["--bench", "nasbench201", "--bench-latency", "FILE.csv:ms"]
SETTINGS = ["--steps 5,9", "--device cpu", "--max-latency-ms 5", "--space full", "--teachers lite0"]


def refused(mode: list[str], flags: list[str]) -> Iterator[tuple[list[str], str]]:
    for words in flags:
        yield [*mode, *words.split()], f"error: {words.split()[0]}: does not go with {mode[0]}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        *refused(BENCH, ["--database postgresql://u:s3cret@h/n", "--address auto", "--time-limit 5", "--extend 5"]),
        *refused(BENCH, [*SETTINGS, "--resume DIR", "--gpus 4"]),
        *refused(["--plan"], ["--extend 5", "--database URL", "--address auto", "--time-limit 5", "--run DIR"]),
        *refused(["--plan"], ["--resume DIR", "--seeds 3", "--bench nasbench201"]),
        *refused(["--resume", "DIR"], ["--run OTHER", "--json", "--gpus 4", "--seeds 3"]),
        (["--plan", "--workers", "0"], "error: --workers: 0: must be 1 or more"),
        (["--plan", "--workers", "-1"], "error: --workers: -1: must be 1 or more"),
        (["--plan", "--assume-tflops", "9", "--workers", "2"], "error: --workers: does not go with --assume-tflops"),
        ([*BENCH, "--workers", "0"], "error: --workers: 0: must be 1 or more"),
        (["--extend", "5"], "error: --extend: only with --resume"),
        (["--json"], "error: --json: only with --plan or --bench"),
        (["--assume-measure-seconds", "3"], "error: --assume-measure-seconds: only with --plan"),
    ],
)
def test_what_would_be_ignored_is_refused(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(line)
    assert "s3cret" not in said


def test_every_flag_goes_with_something_and_is_called_by_its_name() -> None:
    options = {action.dest: action.option_strings for action in parser()._actions if action.dest != "help"}
    assert set(options) == frozenset().union(*MODES.values())
    assert all(flag(name) in spelt for name, spelt in options.items())


def test_a_way_to_call_takes_its_own_flags() -> None:
    for taken in MODES.values():
        check_flags(dict.fromkeys(taken - {"workers", "assume_tflops"}, 1))
