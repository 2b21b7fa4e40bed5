"""Sessions: two searches never work on one new folder, and an interruption ends one at once."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from nas.backend import ray_tune
from nas.backend.worker_spec import WorkerSpec
from nas.measure.devices import DeviceError
from nas.search import session, settings
from nas.search.__main__ import main
from nas.search.config_file import with_recorded
from nas.search.settings import command_of
from nas.storage.errors import StoreError
from nas.storage.location import holds_study
from nas.storage.store import Store
from nas.study.loop import StudyLoop
from tests.nas.doctor import gpus
from tests.nas.storage.postgres import running_server
from tests.nas.study.builders import measurement, search_config, study_info
from tests.nas.study.searches import new_store, reopen, started

SMALL = ["--no-race", "--train-images", "256", "--val-images", "64", "--rung-steps", "6,12", "--device", "cpu"]


class OneSecond(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> OneSecond:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_searches_that_start_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "datetime", OneSecond)
    runs = [command_of({"device": "cpu"}, "").run for _ in range(3)]
    assert len(set(runs)) == 3
    assert all(run.is_dir() and run.name.startswith("2026-01-02-030405-") for run in runs)


def test_a_folder_in_which_another_search_starts_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas.cache.open_study_targets", lambda *words, **more: pytest.fail("it ran teachers"))
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".search.lock"):
        assert main(["--run", str(run), *SMALL]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "--run" in line
    assert str(run) in line


def test_a_study_whose_creation_was_cut_off_has_the_flags_of_its_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Store.create

    def cut_off(*arguments: Any) -> None:
        create(*arguments).close()
        raise KeyboardInterrupt  # stands for a kill at once after the study was written

    monkeypatch.setattr(Store, "create", cut_off)
    monkeypatch.setattr(session, "open_targets", lambda *words: (None, {}))
    monkeypatch.setattr(session, "describe_study", lambda command, *words: study_info(command.config))
    monkeypatch.setattr(session, "_run", lambda command, targets, existing, begin, *words: begin())
    run, cache = tmp_path / "run", tmp_path / "cache"
    cache.mkdir()
    words = ["--run", str(run), *SMALL, "--cache", str(cache), "--trial-timeout", "77", "--distill", "precision=fp32"]
    assert main(words) == 130
    assert holds_study(run)
    assert with_recorded(run, {}) == {"cache": str(cache), "trial_timeout": 77}


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_search_on_two_kinds_of_gpu_is_refused_before_its_teachers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """A resumed study is of one kind, which is compared when its workers start."""
    names = ("NVIDIA RTX 4090", "NVIDIA T400")
    monkeypatch.setattr("nas.measure.environment.device_type", lambda name: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda number: (9 - number, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: names[getattr(device, "index", device)])
    monkeypatch.delattr(session, "open_targets")
    command = command_of({"device": "cpu", "run": str(tmp_path / "run")}, "")
    command = replace(command, config=replace(command.config, device="cuda"), resume=resume)
    error, words = (NameError, "open_targets") if resume else (DeviceError, "several kinds")
    with pytest.raises(error, match=words):
        session._search(command, Console(quiet=True), 0.0)


@pytest.mark.parametrize("resume", [False, True])
def test_a_search_on_gpus_for_one_process_each_is_refused_before_its_teachers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    gpus.install_exclusive(monkeypatch)
    monkeypatch.setattr(session, "with_measure_batch", lambda command, *_: command)
    monkeypatch.delattr(session, "open_targets")
    command = command_of({"device": "cpu", "run": str(tmp_path / "run")}, "")
    command = replace(command, config=replace(command.config, device="cuda"), resume=resume)
    with pytest.raises(DeviceError, match="compute mode EXCLUSIVE_PROCESS"):
        session._search(command, Console(quiet=True), 0.0)
    with pytest.raises(NameError, match="open_targets"):  # the nodes of a cluster measure, and each is asked
        session._search(replace(command, address="10.0.0.1:6379"), Console(quiet=True), 0.0)


def test_a_cluster_that_does_not_answer_is_refused_before_the_teachers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(session, "open_targets")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nothing listens at this port
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert main(["--run", str(tmp_path / "run"), "--address", address, *SMALL]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: --address: cannot join a Ray cluster at '{address}': ")


def test_workers_start_on_a_card_without_what_teachers_left_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver runs teachers and times precisions on the card, and its memory would last as long as the search."""
    log: list[str] = []

    @contextmanager
    def open_cluster(*facts: Any, **more: Any) -> Iterator[None]:
        log.append("start")
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("torch.cuda.empty_cache", lambda: log.append("empty"))
    monkeypatch.setattr("nas.backend.ray_tune.open_cluster", open_cluster)
    command = command_of({"device": "cpu", "workers": 1, "run": str(tmp_path / "run")}, "")
    command = replace(command, config=replace(command.config, device="cuda"))
    targets: Any = SimpleNamespace(path=tmp_path, build_seconds=0.0)
    never: Any = lambda *facts: pytest.fail("no cluster")  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        session._run(command, targets, None, never, never, Console(quiet=True), lambda line: None, 0.0)
    assert log == ["empty", "start"]


def test_an_interruption_while_the_database_is_away_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends as interrupted, within the time that Slurm leaves it, and the study continues."""
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if "the database is unavailable" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr("nas.backend.ray_tune.open_cluster", lambda *facts, **more: nullcontext())
    command = command_of({"device": "cpu", "workers": 1, "run": str(tmp_path / "run")}, "")
    targets: Any = SimpleNamespace(path=tmp_path, build_seconds=0.0)
    config = search_config(baselines=(), sampler="random")
    with running_server() as server, new_store(command.run, config, server.url) as store:

        def run_study(loop: StudyLoop, *facts: Any, **more: Any) -> None:
            record = started(loop)
            server.kill()
            loop.report(replace(record, measurement=measurement(1.0)))

        monkeypatch.setattr("nas.backend.ray_tune.run_study", run_study)
        with pytest.raises(KeyboardInterrupt):
            session._run(command, targets, None, lambda: store, StudyLoop, Console(quiet=True), interrupt, 0.0)
        server.start()
        assert len([line for line in lines if "the database is unavailable" in line]) == 1, "it did not wait again"
        assert "the end of this session could not be stored" in lines[-1]
        assert started(StudyLoop(reopen(command.run))).number == 0


@pytest.mark.parametrize(
    ("words", "cpus", "threads", "session_s", "converges", "timeout_s"),
    [
        (["--workers", "2"], 9, (4, 8), math.inf, False, None),
        (["--workers", "2", "--max-hours", "2", "--until-converged"], 1, (1, 1), 7200.0, True, None),
        (["--workers", "3", "--trial-timeout", "77"], 9, (3, 8), math.inf, False, 77.0),
    ],
)
def test_a_session_gets_the_limits_of_its_command_and_its_workers_share_the_cpus(
    words: list[str],
    cpus: int,
    threads: tuple[int, int],
    session_s: float,
    converges: bool,
    timeout_s: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    specs: list[WorkerSpec] = []
    loops: list[tuple[float, bool, Any]] = []

    def begun(loop: StudyLoop, cluster: object, *, trial_timeout_s: float | None) -> None:
        loops.append((loop.left_s, loop._until_converged, trial_timeout_s))
        raise StoreError("that is all")

    targets = SimpleNamespace(path=tmp_path, build_seconds=0.0)
    monkeypatch.setattr(session, "open_targets", lambda *words: (targets, {}))
    monkeypatch.setattr(session, "describe_study", lambda command, *words: study_info(command.config))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cpus))
    monkeypatch.setattr(ray_tune, "open_cluster", lambda spec, *more, **facts: specs.append(spec) or nullcontext())
    monkeypatch.setattr(ray_tune, "run_study", begun)
    began_s = time.monotonic()
    assert main(["--run", str(tmp_path / "run"), *SMALL, "--distill", "precision=fp32", *words]) == 2
    ((left_s, *limits),) = loops
    assert session_s - (time.monotonic() - began_s) <= left_s <= session_s
    assert limits == [converges, timeout_s]
    assert [(spec.train_threads, spec.measure_threads) for spec in specs] == [threads]


@pytest.mark.parametrize(
    ("words", "workers", "threads", "announced"),
    [([], 2, 4, True), (["--workers", "8"], 8, 1, False), (["--address", "auto"], None, 1, False)],
)
def test_a_search_on_little_memory_starts_fewer_workers_and_says_so(
    words: list[str],
    workers: int | None,
    threads: int,
    announced: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started_with: list[tuple[int | None, int]] = []
    targets = SimpleNamespace(path=tmp_path, build_seconds=0.0)

    def open_cluster(spec: WorkerSpec, workers: int | None, **facts: Any) -> Any:
        started_with.append((workers, spec.train_threads))
        raise StoreError("that is all")

    monkeypatch.setattr(session, "open_targets", lambda *words: (targets, {}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.setattr("nas.local_workers.memory_bytes", lambda: 4_000_000_000)
    monkeypatch.setattr(ray_tune, "open_cluster", open_cluster)
    given = ["--run", str(tmp_path / "run"), *SMALL, "--distill", "precision=fp32", *words]
    assert main(given) == 2
    assert started_with == [(workers, threads)]
    assert ("the memory, 4.0 GB, suffices for 2 at a time" in " ".join(capsys.readouterr().err.split())) is announced
