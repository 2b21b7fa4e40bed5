"""What holds for every test: one thread a process, and which tests share a process of pytest-xdist.

`make test` runs several pytest processes, one a core. The tests of a group run one after the other in one of them:
those of one file, so that its fixtures are made once; those of a folder with a conftest.py, for the same reason; and
those of the group "machine", which measure times or keep all cores busy, so that they do not disturb each other.
Groups start in the order in which the tests are collected, "machine" first, because it takes longest.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read by the libraries when they are loaded, and inherited by every process that a test starts.
os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
# What torch.compile made is kept from run to run, though temporary folders are not.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/backbone-nas-tests-inductor-{os.getuid()}")

MACHINE = "machine"
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its group, and put the group "machine" in front."""
    groups: dict[pytest.Item, str] = {}
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        groups[item] = str(marker.args[0]) if marker else _shared_fixtures(item.path)
        if marker is None:
            item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: groups[item] != MACHINE)


@pytest.fixture(autouse=True, scope="session")
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this process its own temporary folder, in which the devices' locks lie: nobody else's tests hold them."""
    tmp_path_factory.getbasetemp()  # is made first: pytest keeps its folders of the last runs
    with (
        tempfile.TemporaryDirectory(prefix="nt-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """Undo what a test's code did to torch's threads."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _shared_fixtures(file: Path) -> str:
    """Return the file, or the outermost folder below `tests` with a conftest.py that it lies in."""
    folders = [folder for folder in file.parents if TESTS in folder.parents and (folder / "conftest.py").exists()]
    return str((folders or [file])[-1].relative_to(TESTS))
