"""A study on a real Ray cluster of several nodes on this machine: where trials run, and the cost of a killed node."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.backend import cluster
from nas.backend.cluster import ClusterError, NodeSlots, compared_versions
from nas.backend.ray_session import local_ray
from nas.backend.worker_spec import WorkerSpec
from nas.cache import open_targets
from nas.cache.entry import CacheError
from nas.cache.shards import ArrayWriter
from nas.cache.targets import Targets, read_cache_set
from nas.distill.evaluation.zero_shot import texts_path
from nas.measure.runtime_spec import Arm
from nas.storage.store import read_study
from nas.study.failures import Failure
from nas.study.records import TrialState
from nas.teachers import TeacherError
from tests.nas.backend.journal import begun_again, journal, nodes_of
from tests.nas.backend.processes import descendants
from tests.nas.backend.ray_nodes import ROOT, RayNodes, environment
from tests.nas.measure.networks import needs_onnxruntime
from tests.nas.study.builders import search_config
from tests.waiting import PATIENCE_S
from tests.waiting import until as until_true

pytestmark = pytest.mark.machine


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    root = tmp_path_factory.mktemp("cache")
    try:
        return open_targets("builtin", "xfeat", root=root, train_images=24, val_images=8, image_px=64, grid=4, seed=0)
    except TeacherError as error:
        pytest.skip(f"no teacher weights: {error}")


@needs_onnxruntime
def test_nodes_compare_the_library_of_the_runtime_that_is_timed() -> None:
    (name,) = Arm.parse("onnxruntime").traits.packages[:1]
    assert f"{name} {metadata.version(name)}" in compared_versions("onnxruntime").split(", ")
    assert "onnxruntime" not in compared_versions("eager")
    assert f"numpy {metadata.version('numpy')}" in compared_versions("eager").split(", ")


def driver(run: Path, targets: Targets, address: str | None, **settings: Any) -> subprocess.Popen[str]:
    run.mkdir(exist_ok=True)
    plain = {"run": str(run), "targets": str(targets.path), "address": address, "made_up": False, **settings}
    command = [sys.executable, "-m", "tests.nas.backend.cluster_driver", json.dumps(plain)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=ROOT
    )


def under_way_on(node: subprocess.Popen[bytes], run: Path) -> str | None:
    """Return an architecture that trains on a node and has a checkpoint."""
    workers = descendants(node.pid)
    over = {arch_id for arch_id, _, _, _, what in journal(run) if what != "begins"}
    for arch_id, _, _, worker, _ in journal(run):
        saved = run / "checkpoint_dir" / f"{arch_id}.pt"
        if int(worker) in workers and arch_id not in over and saved.exists():
            return arch_id
    return None


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_node_costs_no_trial_and_its_trials_continue_elsewhere(tmp_path: Path, targets: Targets) -> None:
    run = tmp_path / "run"
    with RayNodes() as nodes:
        second = nodes.add(STAND_STILL="1")
        process = driver(run, targets, nodes.address, budget=3, steps=[6, 12])
        until(lambda: under_way_on(second, run) is not None, process)
        cut_off = under_way_on(second, run)
        nodes.kill(second)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    trials = {trial.arch_id: trial for trial in read_study(run).trials}
    assert sum(trial.counts for trial in trials.values()) == 3
    assert not [trial.reason for trial in trials.values() if trial.state is TrialState.FAILED]
    lost = trials[cut_off or ""]
    assert (lost.tries, lost.failure) == (2, Failure.LOST_WORKER)
    assert sum(rung.seconds for rung in lost.rungs) > 1000, "it started again"
    assert len(nodes_of(run)) == 2, "work spreads over both nodes"
    assert begun_again(run) == []
    assert not list((run / "checkpoint_dir").iterdir())


def with_mounts(commands: str) -> list[str]:
    """Return a command that runs the command after it in a mount namespace with these mounts."""
    return ["unshare", "-m", "sh", "-c", f'{commands} && exec "$@"', "sh"]


@pytest.mark.slow
@pytest.mark.ray
def test_nodes_that_differ_from_the_driver_get_no_trials(tmp_path: Path, targets: Targets) -> None:
    """Half the CPUs (another kind of device), other code, another folder under the path of the run folder."""
    run, other = tmp_path / "run", tmp_path / "other"
    (run / "checkpoint_dir").mkdir(parents=True)
    shutil.copytree(ROOT / "nas", other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "study" / "halving.py").open("a") as file:
        file.write("\n# changed\n")
    expected = []
    with RayNodes() as nodes:
        if len(os.sched_getaffinity(0)) > 1:
            nodes.add(before=["taskset", "-c", str(min(os.sched_getaffinity(0)))])
            expected.append("device: ")
        for mounts, reason in (
            (f"mount --bind {other} {ROOT / 'nas'}", "code: "),
            (f"mount -t tmpfs tmpfs {run}", "FileNotFoundError: "),
        ):
            if not subprocess.run([*with_mounts(mounts), "true"], check=False, capture_output=True).returncode:
                nodes.add(before=with_mounts(mounts))
                expected.append(reason)
        if not expected:
            pytest.skip("one CPU, and no right to mount: no node can be made to differ")
        process = driver(run, targets, nodes.address, budget=2, steps=[10], made_up=True)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        reasons = [line.partition(" is left out: ")[2] for line in output.splitlines() if " is left out: " in line]
        assert len(reasons) == len(expected), output
        assert all(any(shown.startswith(reason) for shown in reasons) for reason in expected), output
        assert len(nodes_of(run)) == 1


@pytest.mark.ray
def test_a_node_that_answers_late_takes_trials_from_then_on(
    tmp_path: Path, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many nodes that import torch from one disk at once may need more time than a start waits."""
    monkeypatch.setattr(cluster, "_ANSWER_TIMEOUT_S", 0.0)
    lines: list[str] = []
    with local_ray(1), NodeSlots(spec_of(tmp_path, targets.path), None, None, lines.append) as slots:
        assert slots.count() == 1, "a search begins once a late node answers"
        (node_id,) = slots.node_ids()
        late, waiting, accepted = lines
        left_out = {node_id[:8]: "because of its disk"}
        assert slots.count(left_out) == slots.count(left_out) == 1
        assert slots.node_ids(left_out) == (node_id,), "there is no other node"
        assert [line.partition(" is ")[2] for line in lines[3:]] == ["left out because of its disk"], "said once"
    assert "no answer within 0 s" in waiting
    assert "left out" in late
    assert accepted.endswith("takes trials")


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_whose_copy_of_the_cache_lacks_the_class_names_gets_their_embeddings(
    tmp_path: Path, targets: Targets
) -> None:
    """They are written when the search starts, after the copy was made; else its trials would lack a metric."""
    path = texts_path(targets, "xfeat")
    assert path is not None
    with ArrayWriter(path, np.float32, (4,)) as writer:
        writer.append(np.eye(len(targets.class_names or ()), 4))
    written = path.read_bytes()
    with local_ray(1):
        slots = NodeSlots(spec_of(tmp_path, targets.path), None, None, print)
        path.unlink()
        until_true(lambda: slots.count() == 1)
    assert path.read_bytes() == written
    path.unlink()


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_gives_up_where_no_node_answers(
    tmp_path: Path, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_TIMEOUT_S", 0.0)
    monkeypatch.setattr(cluster, "_GIVE_UP_S", 0.0)
    with local_ray(1):
        slots = NodeSlots(spec_of(tmp_path, targets.path), None, None, print)
        with pytest.raises(ClusterError, match=r"can take a trial: [\d.]+: no answer within 0 s"), slots:
            pytest.fail("it opened")


def test_a_node_with_an_incomplete_copy_of_the_cache_is_refused(tmp_path: Path, targets: Targets) -> None:
    shutil.copytree(targets.path.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / targets.path.name
    spec = spec_of(tmp_path, copy)
    (tmp_path / ".node-token").write_text("token")
    assert cluster.node_facts(spec, "token", "a")["teachers' outputs"] == targets.fingerprint
    next(read_cache_set(copy).teachers["xfeat"].folder.glob("*spatial.npy")).unlink()
    with pytest.raises(CacheError, match="missing"):
        cluster.node_facts(spec, "token", "a")


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_on_which_the_check_failed_is_asked_again(
    tmp_path: Path, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ASK_AGAIN_S", 0.0)
    lines: list[str] = []
    with local_ray(1):
        slots = NodeSlots(spec_of(tmp_path, targets.path), None, None, lines.append)
        (probe,) = tmp_path.glob(".node-*")
        away = probe.with_name("away")
        probe.rename(away)
        until_true(lambda: bool(slots.count() == 0 and lines))
        assert slots.count() == slots.count() == 0
        away.rename(probe)
        until_true(lambda: slots.count() == 1)
    failed, accepted = lines
    assert " is left out: FileNotFoundError: " in failed
    assert accepted.endswith("takes trials")


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_without_a_compiler_gets_no_trials(
    tmp_path: Path, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    lines: list[str] = []
    with local_ray(1):
        slots = NodeSlots(spec_of(tmp_path, targets.path, "compiled"), None, None, lines.append)
        with pytest.raises(ClusterError, match="compiled does not work here"), slots:
            pytest.fail("it takes trials")
    (line,) = lines
    assert re.match(r"node [\d.]+ is left out: .*compiled does not work here: .*no-compiler", line)
    assert line.endswith("; install compilers and Python's headers: apt install gcc g++ python3-dev")


def test_a_trial_avoids_a_node_as_far_as_others_take_it(tmp_path: Path, targets: Targets) -> None:
    """But the node on which it failed is better than one on which everything fails."""
    slots = NodeSlots(spec_of(tmp_path, targets.path), None, None, print)
    slots._accepted, slots._capacities = ("a1", "b1", "c1"), {"a1": 1, "b1": 1, "c1": 1}
    assert slots.node_ids() == ("a1", "b1", "c1")
    assert slots.node_ids({"a": ""}, "b") == ("c1",)
    slots._capacities = {"a1": 1, "b1": 1}  # c1 has left the cluster
    assert slots.node_ids({"a": ""}, "b") == ("b1", "c1")
    assert slots.node_ids({"a": "", "b": ""}, "b") == ("a1", "b1", "c1")


def test_trials_on_a_node_that_is_left_out_take_no_slot_of_the_others(tmp_path: Path, targets: Targets) -> None:
    slots = NodeSlots(spec_of(tmp_path, targets.path), None, None, print)
    slots._accepted, slots._capacities = ("a1", "b1"), {"a1": 4, "b1": 4}
    slots._refreshed_s = math.inf  # there is no Ray to ask
    assert slots.count() == 8
    assert slots.count({"a": ""}) == 4
    assert slots.count({"a": ""}, {"a": 3}) == 7
    assert slots.count({"a": "", "b": ""}, {"a": 3}) == 8, "all take trials again"
    slots._max_workers = 5
    assert slots.count({"a": ""}, {"a": 3}) == 5


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_that_fails_on_a_node_runs_again_on_another(tmp_path: Path, targets: Targets) -> None:
    run = tmp_path / "run"
    with RayNodes(AWAIT_NODES="2") as nodes:
        nodes.add(STALE_HANDLE="1")
        process = driver(run, targets, nodes.address, budget=4, steps=[10], made_up=True)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    trials = read_study(run).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    failed = {trial.arch_id for trial in trials if trial.failure is Failure.ERROR}
    assert failed
    assert {trial.tries for trial in trials if trial.arch_id in failed} == {2}
    for arch_id in failed:
        first, second = (node for arch, _, node, _, what in journal(run) if arch == arch_id and what == "begins")
        assert first != second


def spec_of(folder: Path, targets: Path, runtime: str = "eager") -> WorkerSpec:
    folders = dict.fromkeys(("samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir"), str(folder))
    config = json.dumps(search_config(teachers="xfeat", runtime=runtime).to_dict())
    return WorkerSpec(config, str(targets), **folders, train_threads=1, measure_threads=1)


def test_slots_that_do_not_open_leave_no_probe_file(
    tmp_path: Path, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CacheError, match="gone"):
        NodeSlots(spec_of(tmp_path, tmp_path / "gone"), None, None, print)
    assert not list(tmp_path.glob(".node-*"))

    def interrupted() -> None:
        assert list(tmp_path.glob(".node-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr("ray.nodes", interrupted)
    with pytest.raises(KeyboardInterrupt), NodeSlots(spec_of(tmp_path, targets.path), None, None, print):
        pytest.fail("it opened")
    assert not list(tmp_path.glob(".node-*"))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.ray
def test_a_cluster_without_suitable_nodes_is_refused_and_so_is_one_that_is_gone(
    tmp_path: Path, targets: Targets
) -> None:
    with RayNodes(cpus=0) as nodes:
        process = driver(tmp_path / "a", targets, nodes.address, budget=1, steps=[10], made_up=True)
        assert process.wait(timeout=PATIENCE_S) == 1
        assert "no node" in process.stdout.read()  # type: ignore[union-attr]
    process = driver(tmp_path / "b", targets, nodes.address, budget=1, steps=[10], made_up=True)
    assert process.wait(timeout=PATIENCE_S) == 1
    assert "--address" in process.stdout.read()  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.ray
def test_a_node_that_joins_later_gets_work(tmp_path: Path, targets: Targets) -> None:
    run = tmp_path / "run"
    with RayNodes() as nodes:
        process = driver(run, targets, nodes.address, budget=2000, steps=[10], made_up=True)
        until(lambda: journal(run) != [], process)
        nodes.add()
        until(lambda: len(nodes_of(run)) == 2, process)
        at_once = len(journal(run))
        until(lambda: len(journal(run)) > at_once + 20, process)
        assert len({node for _, _, node, _, what in journal(run)[at_once:] if what == "begins"}) == 2, "both continue"
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.ray
def test_a_head_that_is_killed_ends_the_driver_with_one_line(tmp_path: Path, targets: Targets) -> None:
    run = tmp_path / "run"
    with RayNodes() as nodes:
        process = driver(run, targets, nodes.address, budget=2000, steps=[10], made_up=True)
        until(lambda: journal(run) != [], process)
        for child in descendants(nodes.nodes[0].pid):
            if b"gcs_server" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
                os.kill(child, signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert any(
        line.startswith("error: ") and nodes.address in line and "--resume" in line for line in output.splitlines()
    )


@pytest.mark.slow
@pytest.mark.ray
def test_a_raylet_that_is_killed_ends_the_driver_with_one_line(tmp_path: Path, targets: Targets) -> None:
    """Ray's calls may wait forever then: nothing starts a raylet again."""
    run = tmp_path / "run"
    process = driver(run, targets, None, budget=2000, steps=[10], made_up=True)
    until(lambda: journal(run) != [], process)
    for child in descendants(process.pid):
        if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/raylet"):
            os.kill(child, signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert any(line.startswith("error: ") and "raylet" in line and "--resume" in line for line in output.splitlines())


@pytest.mark.slow
@pytest.mark.ray
def test_the_command_searches_on_a_cluster_and_resumes_there(tmp_path: Path) -> None:
    run, small = tmp_path / "run", ["--no-race", "--rung-steps", "6,12", "--train-images", "256", "--val-images", "64"]
    small += ["--teachers", "xfeat", "--baselines", "none", "--scale", "none", "--measure-seconds", "0.3"]

    def search(*options: str) -> None:
        command = [sys.executable, "-m", "nas.search", *options, "--cache", str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr

    with RayNodes() as nodes:
        nodes.add()
        search("--budget", "4", *small, "--run", str(run), "--address", nodes.address)
        search("--resume", str(run), "--extend", "2", "--address", nodes.address)
    study = read_study(run)
    assert sum(trial.counts for trial in study.trials) == 6
    assert not [trial.reason for trial in study.trials if trial.state is TrialState.FAILED]
    assert len(study.info.sessions) == 2
    assert all(trial.arch_id in (run / "report.html").read_text() for trial in study.trials)


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a condition while a driver runs."""
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
