"""Searches with foundation models as teachers, as a user runs them: real networks, random weights in local files.

No hub can be reached, so that all that a search needs is in the files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from nas.storage.store import read_study
from nas.study.records import StudyRecord, TrialState
from nas.teachers.timm_networks import layout, parse
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.machine, pytest.mark.ray, pytest.mark.slow, pytest.mark.exhaustive]  # minutes each

CLIP = "vit_base_patch32_clip_224.laion2b"
CLIP_MODEL = "ViT-B-32"  # of open_clip, with the text tower
KINDS = {
    "clip": CLIP,
    "dinov2": "vit_small_patch14_dinov2.lvd142m@112",
    "dinov2 with registers": "vit_small_patch14_reg4_dinov2.lvd142m@112",
    "sam": "samvit_base_patch16.sa1b@256/4",
    "siglip": "vit_base_patch32_siglip_256.v2_webli",
    "eupe": "vit_small_patch16_dinov3_qkvb.eupe_lvd1689m@128",
    "dinov3": "vit_small_patch16_dinov3.lvd1689m@128",
}
MIXED = ["lite0", KINDS["dinov2 with registers"], "xfeat", CLIP]
SMALL = ["--train-images", "32", "--val-images", "16", "--batch-size", "16", "--rung-steps", "2,4", "--budget", "2"]
QUICK = [
    "--no-race",
    "--baselines",
    "none",
    "--scale",
    "none",
    "--workers",
    "1",
    "--measure-seconds",
    "0.2",
    "--device",
    "cpu",
]
FIXED = ["--sampler", "random", "--distill", "precision=fp32"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Return a file for each network; that of CLIP holds both towers."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    for teacher in KINDS.values():
        network = parse(teacher).network
        torch.manual_seed(0)
        model = _clip() if network == CLIP else timm.create_model(network)
        files[network] = folder / f"{network}.safetensors"
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, files[network])
    yield files
    shutil.rmtree(folder)


def _clip() -> torch.nn.Module:
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is an optional extra")
    return open_clip.create_model(CLIP_MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the searches, whose cache they share."""
    return tmp_path_factory.mktemp("searches")


def run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    process = start(words, folder)
    out, errors = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(words, process.returncode, out, errors)


def start(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command on a machine whose hub cannot be reached."""
    hub = {"HF_HOME": str(folder / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}  # the port that discards
    return subprocess.Popen(
        [sys.executable, "-m", "nas", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **hub},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def search_words(teachers: Sequence[str], weights: dict[str, Path], run_dir: Path, folder: Path) -> list[str]:
    files = [f"{name.partition('@')[0]}={weights[parse(name).network]}" for name in teachers if name in KINDS.values()]
    flags = [word for file in files for word in ("--teacher-weights", file)]
    where = ["--run", str(run_dir), "--cache", str(folder / "cache")]
    return ["search", "--teachers", ",".join(teachers), *flags, *SMALL, *QUICK, *FIXED, *where]


def check_study(run_dir: Path, teachers: Sequence[str]) -> StudyRecord:
    """Check that a search came to its end with all of its teachers."""
    study = read_study(run_dir)
    assert list(study.info.teachers) == list(teachers)
    assert sum(trial.counts for trial in study.trials) == 2
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert complete
    for trial in complete:
        heads = trial.rungs[-1].teachers
        assert set(heads) == set(teachers)
        for teacher in teachers:
            summary = teacher not in KINDS.values() or layout(parse(teacher)).summary != "none"
            assert set(heads[teacher]) == ({"spatial", "summary"} if summary else {"spatial"})
    page = (run_dir / "report.html").read_text()
    assert all(teacher in page for teacher in teachers)
    return study


def check_messages(errors: str) -> None:
    """Check that the hub was left alone, and that no line was shown twice."""
    assert "Traceback" not in errors
    assert "thrown while requesting" not in errors
    lines = errors.splitlines()
    assert not [line for line in lines if line.startswith(("INFO:", "WARNING:"))]
    assert len([line for line in lines if line.startswith("teacher cache: about")]) <= 1
    assert sum(line == "starting the workers" for line in lines) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_with_one_foundation_model(kind: str, weights: dict[str, Path], folder: Path) -> None:
    run_dir = folder / kind.replace(" ", "-")
    result = run(search_words([KINDS[kind]], weights, run_dir, folder), folder)
    assert result.returncode == 0, result.stderr
    check_messages(result.stderr)
    study = check_study(run_dir, [KINDS[kind]])
    assert "timing the teachers: 1/1" in result.stderr
    if kind == "siglip":
        assert f"no zero-shot accuracy through {KINDS[kind]}: {weights[KINDS[kind]]} has no text tower" in result.stderr
    metrics = [trial.rungs[-1].metrics for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert all((f"zero_shot/{CLIP}" in each) == (kind == "clip") for each in metrics)


def test_an_interrupted_search_with_built_in_and_foundation_models_resumes_and_is_exported(
    weights: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """--resume, select and export take the files of weights from the run folder."""
    run_dir = folder / "mixed"
    dry = run([*search_words(MIXED, weights, run_dir, folder), "--dry-run"], folder)
    assert dry.returncode == 0, dry.stdout
    assert dry.stdout.count("its weights are here") == len(MIXED)

    process = start(search_words(MIXED, weights, run_dir, folder), folder)
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if " complete" in line or " early-stopped" in line:
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, "".join(seen) + rest
    assert f"--resume {run_dir}" in rest
    first = read_study(run_dir).trials[0]

    resumed = run(["search", "--resume", str(run_dir), "--workers", "1"], folder)
    assert resumed.returncode == 0, resumed.stderr
    check_messages(resumed.stderr)
    assert "timing the teachers" not in resumed.stderr
    assert check_study(run_dir, MIXED).trials[0] == first

    chosen = run(["select", str(run_dir), "--json"], folder)
    assert chosen.returncode == 0, chosen.stderr
    arch_id = json.loads(chosen.stdout)["best"]["arch_id"]
    exported = run(["export", str(run_dir), "--format", "timm", "--out", str(tmp_path / "model")], folder)
    assert exported.returncode == 0, exported.stderr
    card = (tmp_path / "model" / "README.md").read_text()
    assert all(teacher in card for teacher in MIXED)
    assert arch_id in card
    assert load_file(tmp_path / "model" / "model.safetensors")
