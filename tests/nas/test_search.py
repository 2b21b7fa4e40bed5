"""The command as a person uses it: real teachers, a real Ray, a real study, a real report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nas.records import Study, TrialState
from nas.store import read_study

SMALL = ["--steps", "4,12", "--train-images", "256", "--val-images", "64", "--workers", "1"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(arguments: Sequence[str], cache: Path) -> list[str]:
    return [sys.executable, "-m", "nas.search", *arguments, "--cache", str(cache)]


def search(arguments: Sequence[str], cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(arguments, cache), capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with a budget of 8."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = search(["--budget", "8", *SMALL, "--run", str(run)], cache)
    assert result.returncode == 0, result.stderr
    assert str(run / "report.html") in result.stdout
    return run


def first_losses(study: Study) -> dict[str, dict[str, float]]:
    return {t.arch_id: t.rungs[0].losses for t in study.trials if t.rungs}


def test_budget_of_eight_evaluates_eight_and_three_baselines(whole: Path) -> None:
    study = read_study(whole)
    counted = [t for t in study.trials if t.counts]
    assert len(counted) == len({t.arch_id for t in counted}) == 8
    baselines = [t for t in study.trials if t.origin != "sampler"]
    assert [t.state for t in baselines] == [TrialState.COMPLETE] * 3
    assert all(t.measurement and t.measurement.throughput_img_s > 0 and t.macs and t.params for t in counted)
    complete = [t for t in study.trials if t.state is TrialState.COMPLETE]
    assert all(set(t.rungs[-1].metrics) == {"knn", "miou"} for t in complete)
    assert all((whole / "weights" / f"{t.arch_id}.safetensors").is_file() for t in complete)
    assert study.info.ledger["measure"] > 0


def test_report_of_the_real_search_shows_its_numbers(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    for trial in read_study(whole).trials:
        assert trial.arch_id in page


def test_interrupted_search_resumes_with_the_same_architectures_and_losses(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(["--budget", "8", *SMALL, "--run", str(run)], cache), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " complete " in line or " stopped " in line:
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert f"--resume {run}" in errors
    finished = {t.number: t for t in read_study(run).trials if t.state is not TrialState.RUNNING}
    assert finished
    result = search(["--resume", str(run), "--workers", "1"], cache)
    assert result.returncode == 0, result.stderr
    study = read_study(run)
    assert {n: t for n, t in enumerate(study.trials) if n in finished} == finished
    assert [t.arch_id for t in study.trials] == [t.arch_id for t in read_study(whole).trials]
    assert first_losses(study) == first_losses(read_study(whole))
    assert len(study.info.sessions) == 2


def test_hard_limits_are_checked_before_training(cache: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    limited = ["--budget", "3", "--max-params", "6e5", *SMALL, "--run", str(run)]
    result = search(limited, cache)
    assert result.returncode == 0, result.stderr
    study = read_study(run)
    infeasible = [t for t in study.trials if t.state is TrialState.INFEASIBLE]
    assert infeasible
    assert all(not t.rungs and "max-params" in (t.reason or "") for t in infeasible)
    assert all(t.params and t.params <= 6e5 for t in study.trials if t.counts)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "0"], "--budget"),
        (["--budget", "-5"], "--budget"),
        (["--sampler", "magic"], "evolution"),
        (["--space", "giant"], "micro"),
        (["--teachers", "nobody"], "lite0"),
        (["--data", "imagefolder:/no/such/folder"], "/no/such/folder"),
        (["--data", "pictures"], "imagefolder"),
        (["--steps", "30,10"], "rising"),
        (["--image-px", "50"], "multiple of 32"),
        (["--device", "cuda"], "cuda"),
        (["--device", "tpu"], "cpu"),
        (["--max-params", "-1"], "--max-params"),
        (["--resume", "/no/such/run"], "/no/such/run"),
        (["--run", "/proc/nowhere/run"], "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], words: str, cache: Path, whole: Path, tmp_path: Path
) -> None:
    small = [] if "--resume" in arguments else ["--train-images", "256", "--val-images", "64"]
    run = [] if {"--resume", "--run"} & set(arguments) else ["--run", str(tmp_path / "run")]
    result = search([*arguments, *small, *run], cache)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1


def test_resume_with_other_settings_is_refused_with_the_difference(whole: Path, cache: Path) -> None:
    result = search(["--resume", str(whole), "--seed", "3"], cache)
    assert result.returncode == 2
    assert "seed: 0 -> 3" in result.stderr


def test_existing_study_is_not_overwritten(whole: Path, cache: Path) -> None:
    result = search(["--run", str(whole)], cache)
    assert result.returncode == 2
    assert "--resume" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_one_line_and_keeps_what_was_finished(cache: Path, whole: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not allow a mount")
    try:
        result = search(["--budget", "8", *SMALL, "--run", str(disk / "run")], cache)
        assert result.returncode == 2, result.stderr
        assert "Traceback" not in result.stderr
        assert read_study(disk / "run").trials
    finally:
        subprocess.run(["umount", str(disk)], check=False)
