"""The command as a user runs it: real teachers, a real Ray, a real study, a real report."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from nas.search.__main__ import main
from nas.storage.store import read_study
from nas.study.config import faster_precision
from nas.study.loop import OUT_OF_TIME
from nas.study.records import StudyRecord, TrialState
from tests.nas.backend.sockets import is_loopback, listening_addresses
from tests.reports.browser import needs_chromium, open_page
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.machine, pytest.mark.ray]

ROOT = Path(__file__).parents[3]

# The proposals of known-cost and the precision "auto" depend on measured times, which differ from run to run.
REPEATABLE = ["--sampler", "evolution", "--distill", "precision=fp32"]
IMAGES = ["--train-images", "256", "--val-images", "64"]
TRUSTING = """# The command, but other work on this machine disturbs no timing.
from nas.study import timing_doubts
timing_doubts.timing_doubt = lambda measurement: None
from nas.search.__main__ import main
raise SystemExit(main())
"""
FEW = ["--reference", "eradio_femto", "--baselines", "eradio_femto", "--scale", "timm:mobilenetv3_small_050"]
SMALL = ["--no-race", "--rung-steps", "6,12", *IMAGES, *FEW, "--workers", "1", "--measure-seconds", "0.3"]
RACE = ["--race-steps", "24", "--fresh-images", "256", "--target", "-1.5"]  # so low that a candidate reaches it


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(arguments: Sequence[str], cache: Path, *program: str) -> list[str]:
    return [sys.executable, *(program or ("-m", "nas.search")), *arguments, "--cache", str(cache)]


def search(arguments: Sequence[str], cache: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """Run a search in a folder of its own, which gets the link runs/latest."""
    folder, path = cache.parent, os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        command(arguments, cache, *program), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        cwd=folder, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished study with a budget of 4, which ended with a race."""
    run = tmp_path_factory.mktemp("whole") / "run"
    words = ["--budget", "4", *REPEATABLE, *SMALL[1:], *RACE, "--run", str(run)]
    result = search(words, cache, "-c", TRUSTING)
    assert result.returncode == 0, result.stderr
    assert str(run / "report.html") in result.stdout
    assert f"Trial {read_study(run).info.race.winner} after 24 steps on 256 images: score" in result.stderr
    return run


def losses(study: StudyRecord) -> dict[str, list[dict[str, float]]]:
    """Return the losses of every rung that a trial reached, by architecture."""
    return {t.arch_id: [r.losses for r in t.rungs] for t in study.trials if t.rungs}


def test_a_budget_of_four_evaluates_four_and_the_baselines(whole: Path) -> None:
    study = read_study(whole)
    counted = [t for t in study.trials if t.counts]
    assert len(counted) == len({t.arch_id for t in counted}) == 4
    baselines = [t for t in study.trials if t.baseline]
    assert [(t.state, t.baseline) for t in baselines] == [(TrialState.COMPLETE, "eradio_femto")]
    assert all(t.measurement and t.measurement.throughput_img_s > 0 and t.macs and t.params for t in counted)
    complete = [t for t in study.trials if t.state is TrialState.COMPLETE]
    asked = {"glyph_retrieval", "figure_iou", "edge_ap", *(f"retrieval/{teacher}" for teacher in study.info.teachers)}
    assert all(set(t.rungs[-1].metrics) == asked for t in complete)
    kept = {f"{t.arch_id}{which}.safetensors" for t in complete for which in ("", ".heads")}
    assert {path.name for path in (whole / "weights").iterdir()} == kept
    assert study.info.time_spent["measure"] > 0


def test_a_search_ends_with_its_race(whole: Path) -> None:
    study = read_study(whole)
    assert study.info.race
    assert (study.info.race.decided, study.info.race.target_score, study.info.race.steps) == (True, -1.5, 24)
    assert study.info.race.winner in {training.number for training in study.races}


@pytest.mark.slow
def test_a_race_that_is_decided_is_not_run_again(whole: Path, cache: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    again = search(["--resume", str(run), *RACE], cache)
    assert again.returncode == 0, again.stderr
    assert read_study(run).races == read_study(whole).races


def test_a_comparison_network_is_measured_against_the_reference(whole: Path) -> None:
    (network,) = read_study(whole).scale
    assert (network.scale, network.state, network.rungs) == (FEW[-1], TrialState.MEASURED, ())
    assert network.measurement
    assert network.measurement.reference == "eradio_femto"
    assert network.params
    assert network.macs


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_reference_of_timm_changes_throughputs_and_no_score(whole: Path, cache: Path, tmp_path: Path) -> None:
    reference, too_large = "timm:mobilenetv3_small_050", "timm:levit_128"
    run = tmp_path / "run"
    networks = ["--reference", reference, "--scale", too_large]
    result = search(["--budget", "1", *REPEATABLE, *SMALL, *networks, "--run", str(run)], cache)
    assert result.returncode == 0, result.stderr
    assert any(too_large in line and "64 px" in line for line in result.stderr.splitlines())
    study = read_study(run)
    assert [(t.scale, t.state) for t in study.scale] == [
        (reference, TrialState.MEASURED),
        (too_large, TrialState.INFEASIBLE),
    ]
    assert {t.measurement.reference for t in (*study.trials, study.scale[0]) if t.measurement} == {reference}
    before = losses(read_study(whole))
    assert losses(study) == {arch_id: before[arch_id] for arch_id in losses(study)}
    again = subprocess.run(
        command(["--resume", str(run), "--extend", "1"], cache),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "comparison network" not in again.stderr
    assert read_study(run).scale == study.scale


def test_the_log_of_the_real_search_has_its_command_and_every_trial_s_outcome(whole: Path) -> None:
    first, *lines = (whole / "logs" / "search.log").read_text().splitlines()
    assert f"--run {whole}" in first
    outcomes = [line for line in lines if " nas.search.progress: " in line]
    for trial in read_study(whole).trials:
        assert any(f"#{trial.number} {trial.arch_id}" in line and trial.state.value in line for line in outcomes)
    assert not [line for line in lines if " ERROR " in line]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_search_out_of_time_ends_as_usual_and_says_how_to_resume(cache: Path, tmp_path: Path) -> None:
    """It also times the precisions, and chooses the device."""
    run = tmp_path / "run"
    hours = 20 / 3600  # too short for 200 candidates, and on a slow machine for one
    result = search(["--budget", "200", *SMALL, "--run", str(run), "--max-hours", str(hours)], cache)
    assert result.returncode == 0, result.stderr
    assert f"--resume {run}" in result.stderr
    study = read_study(run)
    assert str(run / "report.html") in result.stdout or not study.trials
    assert sum(trial.counts for trial in study.trials) < 200
    assert study.info.sessions[-1]["ending"] == OUT_OF_TIME
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert f"device: {device} (" in result.stderr
    assert study.info.config["device"] == device
    times = study.info.precision_ms
    assert study.info.config["distill"]["precision"] == faster_precision(times)
    assert (
        f"training precision: {faster_precision(times)} ({times[faster_precision(times)]:,.1f} ms a step"
        in result.stderr
    )


@needs_chromium
def test_report_of_the_real_search_opens_in_a_browser_without_errors(whole: Path, tmp_path: Path) -> None:
    document, errors = open_page(whole / "report.html", tmp_path)
    assert errors == []
    page = (whole / "report.html").read_text()
    assert all(trial.arch_id in page for trial in read_study(whole).trials)
    assert "4 architectures were evaluated" in document
    assert document.count("<svg") >= 3, "the charts were not drawn"


def start(arguments: Sequence[str], cache: Path) -> subprocess.Popen[str]:
    """Start the command, with a checkpoint every few steps."""
    return subprocess.Popen(
        command(arguments, cache),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BACKBONE_NAS_CHECKPOINT_S": "0"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs the tests by "&"
    )


def until_a_trial_ends(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if " complete" in line or " early-stopped" in line:
            return


def until_a_checkpoint(run: Path, since: float = 0.0) -> Path:
    """Wait for a checkpoint written after `since`, seconds since the epoch, and return it."""
    checkpoints: list[Path] = []

    def written() -> list[Path]:
        for path in (run / "checkpoints").glob("*.pt"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime > since:
                    checkpoints.append(path)
        return checkpoints

    until(written, every_s=0.01)
    return checkpoints[0]


def end(process: subprocess.Popen[str], ending: signal.Signals, run: Path) -> None:
    """Interrupt the command, which shows how to resume."""
    process.send_signal(ending)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert f"--resume {run}" in errors


@pytest.mark.slow
def test_search_interrupted_twice_resumes_with_the_same_architectures_and_losses(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    """By Ctrl-C after a trial, and by SIGTERM in the middle of a rung, which continues from its checkpoint."""
    run = tmp_path / "run"
    resume = ["--resume", str(run), "--workers", "1"]
    before = listening_addresses()
    process = start(["--budget", "4", *REPEATABLE, *SMALL, "--run", str(run)], cache)
    until_a_trial_ends(process)
    opened = listening_addresses() - before
    assert opened, "Ray listens somewhere"
    assert all(is_loopback(address) for address in opened)
    end(process, signal.SIGINT, run)
    finished = {t.number: t for t in read_study(run).trials if t.state is not TrialState.RUNNING}
    assert finished

    process = start(resume, cache)
    until_a_checkpoint(run, since=time.time())
    end(process, signal.SIGTERM, run)
    (checkpoint,) = (run / "checkpoints").glob("*.pt")
    saved = torch.load(checkpoint, weights_only=True)
    saved["content"]["busy_s"] += 1000.0  # distinguishes a training that continues from one that starts again
    torch.save(saved, checkpoint)
    stale = checkpoint.with_suffix(".1.tmp")
    stale.touch()

    result = search(resume, cache)
    assert result.returncode == 0, result.stderr
    study = read_study(run)
    assert {n: t for n, t in enumerate(study.trials) if n in finished} == finished
    assert [t.arch_id for t in study.trials] == [t.arch_id for t in read_study(whole).trials]
    (cut_off,) = (t for t in study.trials if t.arch_id == checkpoint.stem)
    assert sum(rung.seconds for rung in cut_off.rungs) > 1000
    assert not list((run / "checkpoints").iterdir())
    # The last rung of a trial also depends on its measured speed; its losses do not.
    other = losses(read_study(whole))
    assert losses(study).keys() == other.keys()
    for arch_id, mine in losses(study).items():
        common = min(len(mine), len(other[arch_id]))
        assert mine[:common] == other[arch_id][:common]
    assert len(study.info.sessions) == 3


def test_an_interruption_before_the_study_says_to_type_the_command_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.search.session.search", interrupted)
    assert main(["--device", "cpu", "--run", str(tmp_path / "run")]) == 130
    shown = capsys.readouterr().err
    assert "type the same command again" in shown
    assert "training" not in shown
    assert "no study to resume" in shown
    assert "--resume" not in shown
    assert main(["--resume", str(tmp_path / "run")]) == 2
    assert "again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "0"], "--budget"),
        (["--sampler", "magic"], "evolution"),
        (["--teachers", "nobody"], "lite0"),
        (["--data", "imagefolder:/no/such/folder"], "/no/such/folder"),
        (["--rung-steps", "30,10"], "rising"),
        (["--img-size", "50"], "multiple of 32"),
        pytest.param(
            ["--device", "cuda"], "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
        ),
        (["--colour", "red"], "--colour"),
        (["--val-images", "1"], "--val-images"),
        (["--until-converged", "--sampler", "evolution"], "--until-converged: needs --sampler known-cost"),
        (["--max-params", "5"], "far below what the architectures of the space laptop need"),
        (["--resume", "/no/such/run"], "/no/such/run"),
        (["--run", "/proc/nowhere/run"], "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str],
    words: str,
    cache: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_size = {"--resume", "--val-images"} & set(arguments)
    small = [] if own_size else ["--train-images", "256", "--val-images", "64"]
    run = [] if {"--resume", "--run"} & set(arguments) else ["--run", str(tmp_path / "run")]
    try:
        code = main([*arguments, *small, *run, "--cache", str(cache)])
    except SystemExit as stop:  # as argparse ends the program
        code = stop.code
    errors = capsys.readouterr().err
    assert code == 2
    assert words in errors
    assert len([line for line in errors.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.parametrize(
    ("flags", "words"), [(["--resume", "RUN", "--seed", "3"], "seed: 0 -> 3"), (["--run", "RUN"], "--resume")]
)
def test_a_study_is_resumed_with_its_settings_and_not_overwritten(
    flags: list[str], words: str, whole: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_study(whole)
    assert main([*(str(whole) if flag == "RUN" else flag for flag in flags), "--cache", str(cache)]) == 2
    assert words in capsys.readouterr().err
    assert read_study(whole) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_the_finished_trials(cache: Path, whole: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not allow a mount")
    try:
        result = search(["--budget", "8", *SMALL, "--run", str(disk / "run")], cache)
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert "full" in result.stderr or "No space left" in result.stderr
        assert any(t.state is TrialState.COMPLETE for t in read_study(disk / "run").trials)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
