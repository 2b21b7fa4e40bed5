"""A test that hangs is ended, with pytest-xdist too: it fails, its fixtures end its processes, the other tests run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SLOW_LIMIT_S, pytest_collection_modifyitems
from tests.nas.backend.processes import gone

HANGING = """
import subprocess
from pathlib import Path
import pytest

@pytest.fixture
def child():
    with subprocess.Popen(["sleep", "3600"]) as process:
        Path("pid").write_text(str(process.pid))
        yield process
        process.kill()

def test_that_hangs(child):
    child.wait()

def test_that_ends():
    pass
"""


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_hanging_test_fails_alone(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_it.py").write_text(HANGING)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", processes, "-o", "timeout=2", "test_it.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "test_that_hangs" in done.stdout
    assert "Timeout" in done.stdout
    assert gone(int((tmp_path / "pid").read_text()))


def test_every_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert float(request.config.getini("timeout")) > 0
    names, file = ("test", "slow"), request.node.parent
    test, slow = (pytest.Function.from_parent(file, name=name, callobj=lambda: None) for name in names)
    slow.add_marker(pytest.mark.slow)
    pytest_collection_modifyitems([slow, test])
    assert test.get_closest_marker("timeout") is None, "it has that of the settings"
    limit = slow.get_closest_marker("timeout")
    assert limit is not None
    assert limit.args == (SLOW_LIMIT_S,)
