"""Workers that misbehave on a real local Ray: stopped, hanging, killed, sending nonsense. No training, so no torch."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.tune.error import TuneError

from nas.backend import cluster as cluster_module
from nas.backend import ray_tune
from nas.backend.cluster import DeviceMismatchError
from nas.backend.ray_tune import LocalSlots, LoopScheduler, LoopSearcher, RayCluster, open_cluster, run_study
from nas.backend.watchdog import TrialWatchdog
from nas.backend.worker_spec import WorkerSpec
from nas.files import atomic_path
from nas.samplers import make_sampler
from nas.storage.errors import SamplerError
from nas.storage.store import Store
from nas.study.failures import Failure
from nas.study.loop import StudyLoop
from nas.study.records import RungResult, TrialRecord, TrialState
from search_space import SPACES
from tests.nas.study.builders import OBJECTIVES, measurement, search_config, study_info
from tests.nas.study.searches import BrokenSampler, new_store
from tests.waiting import until

pytestmark = pytest.mark.machine

RAY = pytest.mark.ray
Found = tuple[dict[int, TrialRecord], Path]


class Watchdog(TrialWatchdog):
    """Its clock runs for a trial once its worker hangs; a healthy one may be as slow as the machine."""

    folder = Path()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for trial in self._running.values():
            if not (self.folder / str(trial.number)).exists():
                trial.phase_start_s = self._now()
        super().on_step_end(iteration, trials, **info)
        for trial in filter(lambda trial: trial.hang, self._running.values()):
            (self.folder / str(trial.number)).unlink(missing_ok=True)


def rung_in(process: int) -> RungResult:
    return RungResult(0, 10, 0.5, {"lite0": {"spatial": 0.5}}, {}, {"process": process}, 1.0)


def misbehaving(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    """Yield the records of a trial by its number; the metric "process" is the id of the worker process."""
    match record.number, record.tries:
        case 0, 1:
            (Path(spec.samples_dir) / "0").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        case 2, _:
            yield replace(record, measurement=measurement(1.0))
            yield replace(record, rungs=(replace(rung_in(0), metrics={"knn": lambda: None}),))  # type: ignore[dict-item]
        case 3, 1:
            (Path(spec.samples_dir) / "spoiled").write_text(str(os.getpid()))
            yield replace(record, state=TrialState.FAILED, failure=Failure.MEMORY_SHARED, reason="no memory")
            return
        case 4, _:
            os.kill(os.getpid(), signal.SIGKILL)
        case 5, _:
            raise ValueError("unexpected")
    record = replace(record, measurement=record.measurement or measurement(1.0))
    yield record
    yield replace(record, rungs=(rung_in(os.getpid()),), state=TrialState.COMPLETE)


def hanging_in_c(record: TrialRecord, spec: WorkerSpec) -> Iterator[TrialRecord]:
    if record.tries == 1:
        (Path(spec.samples_dir) / str(record.number)).touch()
        re.match(r"(a+)+$", "a" * 60 + "b")  # years, with the lock of the interpreter
    yield replace(record, measurement=measurement(1.0))
    yield replace(record, measurement=measurement(1.0), rungs=(rung_in(os.getpid()),), state=TrialState.COMPLETE)


def worker_spec(folder: Path, config: str) -> WorkerSpec:
    names = ("samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")
    for name in names:
        (folder / name).mkdir()
    folders = {name: str(folder / name) for name in names}
    return WorkerSpec(config=config, targets_dir="", train_threads=1, measure_threads=1, **folders)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return run_in(tmp_path_factory.mktemp("misbehaving"), misbehaving, budget=6)


def run_in(folder: Path, phases: Callable[[TrialRecord, WorkerSpec], Iterator[TrialRecord]], budget: int) -> Found:
    """Run a study of two workers; return its trials by number, and its folder."""
    config = search_config(budget=budget, baselines=(), sampler="random", distill=search_config().distill)
    store = Store.create(folder / "run", study_info(config), make_sampler(config, SPACES["micro"], OBJECTIVES))
    spec = worker_spec(folder, json.dumps(config.to_dict()))
    with pytest.MonkeyPatch.context() as patch, open_cluster(spec, 2) as cluster:
        patch.setattr(ray_tune, "TrialWatchdog", Watchdog)
        patch.setattr(Watchdog, "folder", Path(spec.samples_dir))
        run_study(StudyLoop(store), cluster, trial_timeout_s=1.0, phases=phases)
    return {trial.number: trial for trial in store.trials()}, folder


@RAY
def test_a_worker_that_hangs_is_killed_and_its_trial_runs_again(study: Found) -> None:
    trial = study[0][0]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.COMPLETE, 2, Failure.HANG)


@pytest.mark.slow
@RAY
def test_a_worker_that_hangs_in_c_is_killed_too(tmp_path: Path) -> None:
    trials, _ = run_in(tmp_path, hanging_in_c, budget=1)
    assert (trials[0].state, trials[0].tries, trials[0].failure) == (TrialState.COMPLETE, 2, Failure.HANG)


@RAY
def test_a_result_that_cannot_be_sent_is_a_record_and_is_not_tried_again(study: Found) -> None:
    trial = study[0][2]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.FAILED, 1, Failure.UNPICKLABLE)
    assert "function" in (trial.reason or "")


@RAY
def test_a_process_that_ran_out_of_memory_is_not_used_again(study: Found) -> None:
    trials, folder = study
    trial, spoiled = trials[3], int((folder / "samples_dir" / "spoiled").read_text())
    assert (trial.state, trial.tries, trial.failure) == (TrialState.COMPLETE, 2, Failure.MEMORY_SHARED)
    assert trial.rungs[-1].metrics["process"] != spoiled
    assert spoiled not in {t.rungs[-1].metrics["process"] for t in trials.values() if t.number > 3 and t.rungs}


@RAY
def test_a_trial_that_kills_its_worker_twice_has_failed(study: Found) -> None:
    trial = study[0][4]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.FAILED, 2, Failure.LOST_WORKER)
    assert trial.reason


@RAY
def test_an_uncaught_error_of_a_stage_is_the_reason_of_the_trial(study: Found) -> None:
    trial = study[0][5]
    assert (trial.state, trial.tries, trial.failure) == (TrialState.FAILED, 2, Failure.ERROR)
    assert "unexpected" in (trial.reason or "")


@RAY
def test_later_trials_run_and_no_worker_outlives_the_study(study: Found) -> None:
    trials, _ = study
    assert sum(trial.counts for trial in trials.values()) == 6
    last = [trial.rungs[-1].metrics["process"] for trial in trials.values() if trial.number > 5]
    assert last, "more trials than misbehave"
    assert all(
        t.worker and t.worker.endswith(f":{t.rungs[-1].metrics['process']:.0f}") for t in trials.values() if t.rungs
    )
    for process in {trial.rungs[-1].metrics["process"] for trial in trials.values() if trial.rungs}:
        assert not stays_alive(int(process)), "a worker outlived its study"


def stays_alive(process: int) -> bool:
    """Return whether a process does not end."""
    with suppress(TimeoutError):
        until(lambda: not Path(f"/proc/{process}/cmdline").exists())
        return False
    return True


def test_an_error_of_the_sampler_is_kept_from_tune_s_wrapping(tmp_path: Path) -> None:
    config = search_config(budget=2, baselines=(), sampler="random")
    new_store(tmp_path / "run", config).close()
    errors: list[Exception] = []
    spec = worker_spec(tmp_path, json.dumps(config.to_dict()))
    with Store.open(tmp_path / "run", BrokenSampler()) as store:
        searcher = LoopSearcher(StudyLoop(store), lambda record: spec, LocalSlots(1), misbehaving, errors)
        with pytest.raises(SamplerError, match="no idea"):
            searcher.suggest("t")
    assert [type(error) for error in errors] == [SamplerError]


@RAY
def test_a_study_of_another_kind_of_device_is_refused(tmp_path: Path) -> None:
    spec = worker_spec(tmp_path, json.dumps(search_config().to_dict()))
    with (
        pytest.raises(DeviceMismatchError, match="Z80, 1 CPUs"),
        open_cluster(spec, 1, study_device="Z80, 1 CPUs"),
    ):
        pass


def test_the_stale_files_of_a_killed_session_are_removed_and_no_others(tmp_path: Path) -> None:
    config = search_config(budget=1, baselines=(), sampler="random")
    store = Store.create(tmp_path / "run", study_info(config), make_sampler(config, SPACES["micro"], OBJECTIVES))
    loop = StudyLoop(store)
    under_way = loop.next_trial()
    assert under_way is not None
    kept = {f"{under_way.arch_id}.pt", ".node-of-another"}
    (tmp_path / "checkpoints").mkdir()
    for name in (*kept, "over.pt"):
        (tmp_path / "checkpoints" / name).touch()
    killed = atomic_path(tmp_path / "checkpoints" / f"{under_way.arch_id}.pt")
    killed.__enter__().touch()
    ray_tune._remove_stale_checkpoints(loop, tmp_path / "checkpoints")
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == kept


class TwoNodes:
    """Slots on two nodes that are both alive or both gone."""

    alive, slots = True, 1

    def count(self, left_out: Mapping[str, str], still_running: Mapping[str, int]) -> int:
        return self.slots + sum(still_running.values())

    def node_ids(self, left_out: Collection[str], avoided: str | None) -> tuple[str, ...]:
        return ("a", "b")

    def any_alive(self, node_ids: tuple[str, ...]) -> bool:
        return self.alive


def test_a_trial_whose_nodes_are_all_gone_before_it_begins_is_released(tmp_path: Path) -> None:
    config = search_config(budget=1, baselines=(), sampler="random")
    store = Store.create(tmp_path / "run", study_info(config), make_sampler(config, SPACES["micro"], OBJECTIVES))
    loop, slots, spec = StudyLoop(store), TwoNodes(), worker_spec(tmp_path, json.dumps(config.to_dict()))
    scheduler = LoopScheduler(loop, lambda record: spec, slots, lambda trial: (Failure.LOST_WORKER, ""), [])
    given = LoopSearcher(loop, lambda record: spec, slots, misbehaving, []).suggest("t")
    trial = SimpleNamespace(trial_id="t", config=given, status="PENDING")
    trial.temporary_state = SimpleNamespace(ray_actor=None)
    controller = SimpleNamespace(stop_trial=lambda stopped: scheduler.on_trial_remove(None, stopped))
    scheduler.on_trial_add(controller, trial)
    scheduler.choose_trial_to_run(controller)
    assert loop.running == 1
    slots.alive = False
    scheduler.choose_trial_to_run(controller)
    again = loop.next_trial()
    assert again is not None
    assert json.loads(given["record"])["number"] == again.number
    assert again.tries == 1
    trial.status = "TERMINATED"
    scheduler.choose_trial_to_run(controller)
    assert loop.running == 1, "released once"


@pytest.mark.parametrize("error", [TuneError("a\nb"), ray.exceptions.RaySystemError("a\nb")])
def test_an_error_of_ray_is_one_line_that_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*words: object) -> None:
        raise error

    monkeypatch.setattr(ray_tune, "_run", fails)
    cluster = RayCluster(worker_spec(tmp_path, "{}"), TwoNodes(), "127.0.0.1:1", "")
    loop = SimpleNamespace(clean_up=lambda delete_all_but: None)
    with pytest.raises(ValueError, match=f"^Ray: .*a b.*--resume {tmp_path}$"):
        run_study(loop, cluster)  # type: ignore[arg-type]


def test_a_dead_head_or_raylet_ends_the_process_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(monotonic=lambda: clock.now_s, now_s=0.0, end_s=math.inf, is_set=lambda: False)

    def wait(seconds: float) -> bool:
        clock.now_s += seconds
        return clock.now_s > clock.end_s

    clock.wait = wait
    monkeypatch.setattr(cluster_module, "time", clock)
    monkeypatch.setattr(cluster_module.os, "_exit", sys.exit)
    raylet = str(tmp_path / "raylet")
    with socket.create_server(("127.0.0.1", 0)) as head, socket.socket(socket.AF_UNIX) as local:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        local.bind(raylet)
        local.listen()
        clock.end_s = 100.0
        cluster_module._watch_ray(address, raylet, "resume", clock)
        clock.end_s = math.inf
        local.close()
        with pytest.raises(SystemExit, match="1"):
            cluster_module._watch_ray(address, raylet, "resume", clock)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: the raylet, Ray's process on this machine, is gone; resume"
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(f"{raylet}2")
        local.listen()
        with pytest.raises(SystemExit, match="1"):
            cluster_module._watch_ray(address, f"{raylet}2", "resume", clock)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: the head of Ray at {address} is gone; resume"
