"""The tests of a checkout are run by a real pytest, and each has a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.doctor.gpu_tests import CHECKOUT, GpuTestsError, run_gpu_tests, why_no_tests

PROJECT = '[tool.pytest.ini_options]\nmarkers = ["gpu", "slow"]\naddopts = "-m \'not slow\'"\n'
TESTS = """
import pytest

@pytest.mark.gpu
def test_passes(): pass

@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager + fp32"])
def test_fails(runtime): assert 1 == 2, "wrong\\noutput"

@pytest.mark.gpu
def test_skips(): pytest.skip("needs two GPUs")

def test_without_a_gpu(): raise AssertionError
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "tests" / "test_gpu.py").write_text(TESTS)
    return tmp_path


def test_results_and_progress(checkout: Path) -> None:
    """A module that cannot be imported is a failed test."""
    (checkout / "tests" / "test_other.py").write_text("import no_such_package")
    steps: list[tuple[str, int, int]] = []
    cases = run_gpu_tests(lambda *step: steps.append(step), checkout)
    reasons = {case.name.rpartition("::")[2]: (case.outcome, case.reason) for case in cases}
    assert reasons["test_passes"] == ("passed", "")
    assert reasons["test_skips"] == ("skipped", "needs two GPUs")
    assert reasons["test_fails[eager + fp32]"][0] == "failed"
    assert "wrong output" in reasons["test_fails[eager + fp32]"][1]
    assert sorted(outcome for outcome, _ in reasons.values()) == ["failed", "failed", "passed", "skipped"]
    assert steps


def test_a_broken_configuration_is_one_line(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--no-such-option'\n")
    with pytest.raises(GpuTestsError, match="exit code 4"):
        run_gpu_tests(lambda *_: None, checkout)


def test_why_there_are_no_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_tests() is None
    assert (CHECKOUT / "tests" / "nas" / "doctor").is_dir()
    assert "checkout" in str(why_no_tests(tmp_path))
    monkeypatch.setattr("nas.doctor.gpu_tests.find_spec", lambda name: None)
    assert "make develop" in str(why_no_tests())
