"""Run the tests of a checkout that are marked `gpu`, in a pytest process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nas
from nas.cli import OperationFailed

MARKER = "gpu"
CHECKOUT = Path(next(iter(nas.__path__))).parent
MAX_REASON = 300  # characters
_COLLECTED = re.compile(r"collected (\d+) items?(?: / (\d+) deselected)?")
_FINISHED = re.compile(r"^\S+::.* (?:PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")

Progress = Callable[[str, int, int], None]  # (stage, done, total)


class GpuTestsError(RuntimeError, OperationFailed):
    """The tests could not be run; the message has pytest's last line."""


@dataclass(frozen=True)
class CaseResult:
    """One test: "passed", "failed" or "skipped", with a reason of one line unless it passed."""

    name: str
    outcome: str
    seconds: float
    reason: str = ""


def why_no_tests(root: Path = CHECKOUT) -> str | None:
    """Return why there are no tests to run; None where there are."""
    if not (root / "tests").is_dir() or not (root / "pyproject.toml").is_file():
        return "no tests: they come with a checkout, not with the installed package"
    if find_spec("pytest") is None:
        return "no tests: pytest is not installed; make develop"
    return None


def run_gpu_tests(progress: Progress, root: Path = CHECKOUT) -> tuple[CaseResult, ...]:
    """Run the tests, and return one result for each; a test that fails is a result.

    Args:
        progress: Receives the number of finished tests.
        root: The checkout.

    Raises:
        GpuTestsError: pytest could not run them.
    """
    with tempfile.TemporaryDirectory(prefix="nas-doctor-") as folder:
        report = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-m", MARKER, "--color=no", f"--junitxml={report}"]
        # A module that lacks a developers' package is a failed test, and no reason to leave the others out.
        command += ["--continue-on-collection-errors", "-p", "no:cacheprovider", "tests"]
        with _running(command, root) as process:
            last = _follow(process, progress)
        if process.returncode not in (0, 1, 5) or not report.is_file():  # 1: tests failed, 5: there is none
            raise GpuTestsError(f"pytest ended with exit code {process.returncode}: {last}")
        return tuple(_results(report))


@contextmanager
def _running(command: list[str], root: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that does not outlive the body."""
    with subprocess.Popen(
        command,
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
        errors="replace",
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise


def _follow(process: subprocess.Popen[str], progress: Progress) -> str:
    """Report the progress from pytest's lines, and return the last line."""
    done, total, last = 0, 0, ""
    assert process.stdout is not None
    for line in process.stdout:
        last = line.strip() or last
        if found := _COLLECTED.search(line):
            total = int(found[1]) - int(found[2] or 0)
        elif total and _FINISHED.match(line):
            done += 1
            progress("GPU tests", done, total)
    process.wait()
    return last


def _results(report: Path) -> Iterator[CaseResult]:
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        outcome, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                reason = " ".join((child.get("message") or child.text or "").split())[:MAX_REASON]
        yield CaseResult(name, outcome, float(case.get("time", 0)), reason)
