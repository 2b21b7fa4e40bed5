"""``--resume``, ``--extend`` and ``--storage`` as a person uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from experiments.benchmarks.postgres import PASSWORD
from nas.samplers import make_sampler
from nas.search.__main__ import main
from nas.storage.location import holds_study
from nas.storage.store import Store, read_study
from nas.study.config import DistillConfig
from nas.study.records import TrialState
from search_space import SPACES
from tests.exits import exit_of
from tests.nas.storage.postgres import running_server
from tests.nas.study.builders import OBJECTIVES, search_config, study_info
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.machine

SMALL = ["--rung-steps", "6,12", "--train-images", "256", "--val-images", "64", "--workers", "1", "--teachers", "xfeat"]
SMALL += ["--no-race", "--baselines", "eradio_femto", "--scale", "none", "--measure-seconds", "0.3"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A study that was begun."""
    info = study_info(search_config(distill=DistillConfig(precision="fp32", rung_steps=(10, 30))))
    info = replace(info, space={k: list(v) for k, v in SPACES["micro"].choices().items()})
    Store.create(tmp_path / "run", info, make_sampler(search_config(sampler="random"), SPACES["micro"], OBJECTIVES))
    return tmp_path / "run"


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run a command that is refused, and return its error, the only line but those of progress and on --storage."""
    assert exit_of(main, arguments) == code
    progress = ("device: ", "starting the workers")
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith(progress)]
    assert ["--storage" in line for line in lines[:-1]] in ([], [True])
    assert lines[-1].startswith("error: ")
    return lines[-1]


def test_other_settings_are_refused_with_the_difference(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["--resume", str(run), "--budget", "20", "--sampler", "tpe", "--rung-steps", "5,9"], capsys)
    assert "budget: 12 -> 20; sampler: evolution -> tpe; rung_steps: [10, 30] -> [5, 9]" in line
    assert "--extend" in line


def test_other_versions_are_refused_with_the_difference(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(run).update_info(lambda info: replace(info, environment={"torch": "0.4"}))
    assert f"version of torch: 0.4 -> {torch.__version__}" in refused(["--resume", str(run)], capsys)


def test_a_refused_command_changes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an old study, whose budget it was to raise, nor does it leave a new one behind."""
    targets = SimpleNamespace(train=[0] * 256, val=[0] * 64, path=tmp_path, build_seconds=0.0, data_fingerprint="f")
    targets.teachers, targets.num_classes = {"lite0": SimpleNamespace(fingerprint="f")}, None
    monkeypatch.setattr("nas.cache.open_study_targets", lambda *words, **settings: targets)
    monkeypatch.setattr("nas.distill.evaluation.zero_shot.embed_class_names", lambda *words, **settings: None)
    monkeypatch.setattr("nas.distill.evaluation.reference_scores.teacher_facts", lambda *words: {})
    before = Store.open(run).info
    nobody = ["--address", "127.0.0.1:1"]
    assert "--address" in refused(["--resume", str(run), "--extend", "50", *nobody], capsys, code=1)
    assert Store.open(run).info == before
    new = ["--run", str(tmp_path / "new"), "--train-images", "256", "--rung-steps", "10,30"]
    assert "--address" in refused([*new, "--distill", "precision=fp32", *nobody], capsys, code=1)
    assert not holds_study(tmp_path / "new")

    z80 = {"device": "cpu", "cpu": "Z80", "cpus": 1}
    Store.open(run).update_info(lambda info: replace(info, environment={**z80, "code": "abc"}))
    assert main(["--resume", str(run)]) == 2
    assert "warning: the program's code has changed since the study began (abc -> " in capsys.readouterr().err
    Store.open(run).update_info(lambda info: replace(info, environment=z80))
    before = Store.open(run).info
    assert "Z80" in refused(["--resume", str(run), "--extend", "50"], capsys)
    monkeypatch.setattr("nas.backend.ray_tune.open_cluster", lambda *words, **settings: nullcontext())
    with FileLock(run / ".search.lock"):
        assert "another command works in" in refused(["--resume", str(run), "--extend", "50"], capsys)
    assert Store.open(run).info == before


@pytest.mark.parametrize(
    ("arguments", "keyword", "code"),
    [
        (["--extend", "5"], "--extend: ", 2),
        (["--resume", "RUN", "--extend", "0"], "--extend: 0: ", 2),
        (["--resume", "RUN", "--storage", "postgresql://u:s3cret@h/n"], "postgresql://u@h/n", 2),
        (["--run", "NEW", "--storage", "s3cret"], "postgresql://", 2),
        (["--run", "NEW", "--storage", "postgresql://u:s3cret@127.0.0.1:1/n"], "127.0.0.1", 1),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    keyword: str,
    code: int,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", "")  # put back after the command took one for itself
    places = {"RUN": str(run), "NEW": str(tmp_path / "new")}
    line = refused([places.get(word, word) for word in arguments], capsys, code)
    assert keyword in line
    assert "s3cret" not in line


def test_a_password_in_the_url_is_used_by_the_whole_command(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server() as server:
        sampler = make_sampler(search_config(sampler="random"), SPACES["micro"], OBJECTIVES)
        Store.create(tmp_path / "taken", Store.open(run).info, sampler, server.url)
        monkeypatch.setenv("PGPASSWORD", "wrong")
        again = ["--run", str(tmp_path / "elsewhere" / "taken"), "--storage"]
        assert "authentication" in refused([*again, server.url], capsys, code=1)
        assert "'taken'" in refused([*again, server.url.replace("nas@", f"nas:{PASSWORD}@")], capsys)
        assert len(read_study(tmp_path / "taken").trials) == 0, "and what comes after it reads the study"


def command(arguments: Sequence[str], cache: Path) -> list[str]:
    return [sys.executable, "-m", "nas.search", *arguments, "--cache", str(cache)]


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_search_in_postgresql_is_resumed_and_extended(tmp_path: Path) -> None:
    """A second command beside the first is refused; so are other teachers at last."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    resume = ["--resume", str(run), "--workers", "1"]
    with running_server() as server:
        secret = server.url.replace("nas@", f"nas:{PASSWORD}@")
        begin = ["--budget", "5", *SMALL, "--run", str(run), "--storage", secret]
        bare = {name: value for name, value in os.environ.items() if name != "PGPASSWORD"}
        first = subprocess.Popen(command(begin, cache), stderr=subprocess.PIPE, text=True, env=bare)
        assert first.stderr is not None
        lines = []
        while not any(" complete" in line for line in lines[-1:]):
            lines.append(first.stderr.readline())
            assert lines[-1], "".join(lines)
        beside = subprocess.run(command(resume, cache), capture_output=True, text=True, timeout=PATIENCE_S)
        assert beside.returncode == 2
        assert "another command works in" in beside.stderr
        while sum(" complete" in line or " early-stopped" in line for line in lines) < 3:
            lines.append(first.stderr.readline())
        first.kill()
        second = subprocess.run(command(resume, cache), capture_output=True, text=True, timeout=PATIENCE_S)
        assert second.returncode == 0, second.stderr
        study = read_study(run)
        assert sum(t.counts for t in study.trials) == 5
        assert all(t.state in (TrialState.COMPLETE, TrialState.STOPPED) for t in study.trials)
        assert Counter(t.baseline for t in study.trials if t.baseline).most_common()[0][1] == 1

        third = subprocess.run(
            command([*resume, "--extend", "1"], cache), capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert third.returncode == 0, third.stderr
        again = read_study(run)
        assert again.trials[: len(study.trials)] == study.trials
        assert sum(t.counts for t in again.trials) == again.info.config["budget"] == 6
        assert [session["budget"] for session in again.info.sessions] == [5, 5, 6]
        assert "--storage" in "".join(lines)
        assert PASSWORD not in json.dumps(again.info.to_dict()) + (run / "study.json").read_text() + "".join(lines)
        assert PASSWORD not in (run / "report.html").read_text()

        Store.open(run).update_info(lambda info: replace(info, teachers={"xfeat": "another"}))
        other = subprocess.run(command(resume, cache), capture_output=True, text=True, timeout=PATIENCE_S)
        assert other.returncode == 2
        assert "xfeat: another -> " in other.stderr
        log = (run / "logs" / "search.log").read_text()
        assert log.count("Traceback (most recent call last)") == 2
        assert PASSWORD not in log
        assert not list((run / "checkpoints").iterdir())
