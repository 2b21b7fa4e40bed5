"""The log of a command: its lines, where they go, and what they never show."""

from __future__ import annotations

import argparse
import logging
import os
import re
import resource
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.cli import OneLineParser, exit_code
from nas.command_log import announce, log_to

LOG = logging.getLogger("nas.somewhere")
SECRET_URLS = "postgresql://nas:s3cret@host/db https://user:s3cret@host/a.tar?signature=s3cret"


def run(work: Callable[[argparse.Namespace], int], *words: str) -> int:
    return exit_code(lambda: work(OneLineParser(prog="x").parse_args(words)))


def lines(run_dir: Path, name: str = "search") -> list[str]:
    return (run_dir / "logs" / f"{name}.log").read_text().splitlines()


def test_a_line_has_the_time_in_utc_the_level_and_the_logger(tmp_path: Path) -> None:
    def work(options: argparse.Namespace) -> int:
        log_to(tmp_path, "search", "python -m nas.search")
        LOG.warning("%d trials", 3)
        return 0

    assert run(work) == 0
    command, line = lines(tmp_path)
    assert command.endswith(" python -m nas.search")
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert rest == "WARNING nas.somewhere: 3 trials"


def test_the_log_has_the_traceback_of_the_error_and_the_console_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options: argparse.Namespace) -> int:
        log_to(tmp_path, "search", "command")
        raise ValueError(f"cannot reach {SECRET_URLS}")

    assert run(work) == 2
    text = "\n".join(lines(tmp_path))
    assert "Traceback (most recent call last):" in text
    assert "in work" in text
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_line_shows_a_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(options: argparse.Namespace) -> int:
        log_to(tmp_path, "search", f"python -m nas.search --data {SECRET_URLS}")
        LOG.info("opened %s", SECRET_URLS)
        try:
            raise OSError(SECRET_URLS)
        except OSError as error:
            raise KeyError(SECRET_URLS) from error

    with pytest.raises(KeyError):
        run(work, "--verbose")
    shown = "\n".join(lines(tmp_path)) + capsys.readouterr().err
    assert shown.count("Traceback") == 4
    assert shown.count("host/a.tar") >= 8
    assert "s3cret" not in shown


def test_verbose_shows_the_lines_of_the_log_on_stderr_and_an_announcement_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options: argparse.Namespace) -> int:
        log_to(tmp_path, "search", "command")
        LOG.info("quiet")
        announce("aloud", LOG)
        assert vars(options) == {}
        return 0

    assert run(work, "--verbose") == 0
    assert capsys.readouterr().err.splitlines() == lines(tmp_path)
    assert run(work) == 0
    assert capsys.readouterr().err.splitlines() == ["aloud"]
    assert [line.rsplit(" ", 1)[1] for line in lines(tmp_path)] == 2 * ["command", "quiet", "aloud"]


def test_a_warning_of_python_is_shown_and_logged(tmp_path: Path) -> None:
    def work(options: argparse.Namespace) -> int:
        log_to(tmp_path, "search", "command")
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
        return 0

    with pytest.warns(UserWarning, match="mind the gap"):
        assert run(work) == 0
    assert lines(tmp_path)[-1].endswith("UserWarning: mind the gap")


def test_a_command_leaves_nothing_attached(tmp_path: Path) -> None:
    package, shown = logging.getLogger("nas"), warnings.showwarning
    before = list(package.handlers), package.level
    files = set(Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").is_dir() else set()
    assert run(lambda options: log_to(tmp_path, "search", "command") or 0, "--verbose") == 0  # type: ignore[func-returns-value]
    assert (list(package.handlers), package.level) == before
    assert warnings.showwarning is shown
    assert not files or len(files) == len(set(Path("/proc/self/fd").iterdir()))
    LOG.info("later")
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_costs_the_lines_and_not_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, allowed[1]))
    try:
        assert run(lambda options: log_to(tmp_path, "search", "command") or 0) == 0  # type: ignore[func-returns-value]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert (lines(tmp_path), capsys.readouterr().err) == ([], "")


@pytest.mark.parametrize("link", ["logs", "logs/search.log"])
def test_no_line_goes_through_a_link(tmp_path: Path, link: str) -> None:
    there = tmp_path / "there" / "search.log"
    there.parent.mkdir()
    there.write_text("mine")
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(there if link.endswith(".log") else there.parent)
    assert run(lambda options: log_to(tmp_path, "search", "command") or 0) == 0  # type: ignore[func-returns-value]
    assert there.read_text() == "mine"


def test_a_fifo_in_place_of_a_log_delays_no_command(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    os.mkfifo(tmp_path / "logs" / "search.log")
    reader = os.open(tmp_path / "logs" / "search.log", os.O_RDONLY | os.O_NONBLOCK)
    assert run(lambda options: log_to(tmp_path, "search", "command") or 0) == 0  # type: ignore[func-returns-value]
    assert os.read(reader, 1) == b""
    os.close(reader)
