"""A cache that does not fit on its disk is refused before it is built."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.__main__ import main

# 256 + 64 images of 64 px take 3.9 MB; raw features of xfeat, on a grid of 4 x 4, take 1 MB while they are compressed.
SMALL = ["--teachers", "xfeat", "--train-images", "256", "--val-images", "64"]
IMAGES_DO_NOT_FIT, TEACHER_DOES_NOT_FIT = "1m", "4500k"


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of the size that the test names."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system of a limited size can be mounted here: it takes root and CAP_SYS_ADMIN")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("small_disk", [IMAGES_DO_NOT_FIT, TEACHER_DOES_NOT_FIT], indirect=True)
def test_a_search_whose_cache_does_not_fit_says_so(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["search", "--device", "cpu", *SMALL, "--cache", str(small_disk), "--run", str(tmp_path / "run")])
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert code == 2
    assert "--cache: needs" in error
    assert f"{str(small_disk)!r} has" in error
    assert "--train-images" in error
    assert not list(small_disk.rglob("*.npy")), "nothing was built"


@pytest.mark.parametrize("small_disk", [IMAGES_DO_NOT_FIT], indirect=True)
def test_a_disk_that_others_fill_during_the_build_is_a_failure_and_no_wrong_use(
    small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.cache.estimate._check_room", lambda root, cost: None)  # there was room at the beginning
    code = main(["cache", "build", *SMALL, "--cache", str(small_disk)])
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert code == 1
