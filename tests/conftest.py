"""What holds for every test: one thread a process, and which tests share a process of pytest-xdist.

`pytest -n 2` runs two pytest processes. The tests of a group run one after the other in one of them: those of one file,
so that its fixtures are made once; those of a folder with a conftest.py, for the same reason; and those marked
`machine`, which start Ray or keep all cores busy, so that they do not disturb each other. Groups start in the order in
which the tests are collected, `machine` first, because it takes longest.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Read by the libraries when they are loaded, and inherited by every process that a test starts.
os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}

pytest_plugins = ["tests.nas.storage.postgres"]
settings.load_profile("ci")  # the same examples in every run; --hypothesis-profile=default draws others

MACHINE = "machine"
OUTSIDE = {"browser": "browser", "postgres": "postgres", "ray": ""}  # marker: the fixture that sets it
MAX_SECOND_TRIES = 3
SLOW_LIMIT_S = 1800.0  # the limit of the others is in pyproject.toml
TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Restore what Ctrl-C does, which an interrupted command changes until its process ends."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the group "machine" in front; slow tests get more time, and those of real outside parts a second try."""
    for item in items:
        for marker, fixture in OUTSIDE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.flaky(reruns=1))
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))
    items.sort(key=lambda item: group(item.nodeid) != MACHINE)


first_tries: list[pytest.TestReport] = []  # that failed, of tests that were tried again


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what failed before a second try."""
    if report.outcome == "rerun":  # type: ignore[comparison-overlap]
        first_tries.append(report)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a run fail in which too many tests needed a second try."""
    if len(first_tries) > MAX_SECOND_TRIES and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why tests were tried again, and how many."""
    for report in first_tries:
        terminalreporter.section(f"first try of {report.nodeid}")
        terminalreporter.line(report.longreprtext)
        for name, text in report.sections:
            terminalreporter.section(name, sep="-")
            terminalreporter.line(text)
    terminalreporter.line(f"second tries: {len(first_tries)} (at most {MAX_SECOND_TRIES})")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler that knows our groups; pytest-xdist's own `loadgroup` groups nothing with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


def group(nodeid: str) -> str:
    """Return the name of a test's group."""
    file, _, test = nodeid.partition("::")
    group_of_file, marked = _groups_of_file(file)
    return MACHINE if test.partition("[")[0] in marked else group_of_file


@cache
def _groups_of_file(file: str) -> tuple[str, list[str]]:
    """Return the group of a file, and the names of its tests that are marked `machine` one by one."""
    path = TESTS.parent / file
    text = path.read_text()
    if re.search(r"^pytestmark = (\[[^\]]*|.*)pytest\.mark\.machine\b", text, re.MULTILINE):
        return MACHINE, []
    folders = [folder for folder in path.parents if TESTS in folder.parents and (folder / "conftest.py").exists()]
    marked = re.findall(r"^@pytest\.mark\.machine\n.*?^def (\w+)", text, re.MULTILINE | re.DOTALL)
    return str((folders or [path])[-1].relative_to(TESTS)), marked


@pytest.fixture(autouse=True, scope="session")
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this process its own temporary folder, in which the devices' locks lie: nobody else's tests hold them."""
    tmp_path_factory.getbasetemp()  # is made first: pytest keeps its folders of the last runs
    with (
        tempfile.TemporaryDirectory(prefix="nt-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        Path(folder).chmod(0o711)  # PostgreSQL's server runs as another user where the tests run as root
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def _torch_as_at_its_start() -> Iterator[None]:
    """Give every test the same random numbers, and undo what its code did to torch's threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _same_latest_study() -> Iterator[None]:
    """Give the current folder its link to the latest study back, which the searches of tests replace."""
    link = Path.cwd() / "runs" / "latest"
    target = link.readlink() if link.is_symlink() else None
    yield
    if target is not None:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    elif link.is_symlink():
        link.unlink()
