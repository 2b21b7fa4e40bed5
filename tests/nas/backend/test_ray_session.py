"""The Ray that a search starts is for its user alone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import worker
from ray._private.node import Node
from ray._raylet import AuthenticationMode, get_authentication_mode

from nas.backend.ray_session import head_address, joined_ray, local_ray
from nas.backend.watchdog import TrialWatchdog
from nas.cli import interrupted_by_signals
from nas.study.failures import Failure
from tests.nas.backend.ray_nodes import RayNodes, environment
from tests.waiting import until

pytestmark = pytest.mark.machine

_ASK = "import sys; from ray._raylet import GcsClient; print(GcsClient(sys.argv[1]).internal_kv_keys(b'', None, 9))"


@pytest.fixture(scope="module")
def sessions() -> list[tuple[str, subprocess.CompletedProcess[str], Path, int, AuthenticationMode]]:
    """Start Ray twice; return the token of each session, a stranger's question, its folder, its mode and Ray's mode."""
    found = []
    for _ in range(2):
        with local_ray(1) as scratch:
            assert ray.get(ray.remote(lambda: 1).remote()) == 1
            words = [sys.executable, "-c", _ASK, head_address()]
            asked = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False, timeout=600)
            mode = stat.S_IMODE(Path(scratch).stat().st_mode)
            found.append((os.environ["RAY_AUTH_TOKEN"], asked, Path(scratch), mode, get_authentication_mode()))
    return found


Sessions = list[tuple[str, "subprocess.CompletedProcess[str]", Path, int, AuthenticationMode]]


@pytest.mark.ray
def test_nobody_without_the_token_of_a_session_is_answered(sessions: Sessions) -> None:
    for token, asked, _, _, mode in sessions:
        assert mode is AuthenticationMode.TOKEN
        assert len(token) == 64
        assert asked.returncode
        assert "nauthenticated" in asked.stderr, asked.stderr
    assert sessions[0][0] != sessions[1][0]
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.ray
def test_nobody_else_enters_the_folder_of_a_session_and_it_is_removed(sessions: Sessions) -> None:
    assert [mode for _, _, _, mode, _ in sessions] == [0o700] * 2
    assert not any(folder.exists() for _, _, folder, _, _ in sessions)


@pytest.mark.slow
@pytest.mark.ray
def test_a_ray_that_does_not_start_in_time_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Node.start_raylet
    raylets: list[subprocess.Popen[bytes]] = []

    def first_is_stopped(node: Node, *arguments: Any, **settings: Any) -> None:
        start(node, *arguments, **settings)
        raylets.append(node.all_processes["raylet"][0].process)
        if len(raylets) == 1:
            raylets[0].send_signal(signal.SIGSTOP)

    monkeypatch.setattr(Node, "start_raylet", first_is_stopped)
    lines: list[str] = []
    with local_ray(1, announce=lines.append):
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        assert raylets[0].poll() == -signal.SIGKILL
    assert lines == ["Ray's processes did not start within 30 s; starting them again"]


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_while_ray_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Node.start_raylet
    processes: list[subprocess.Popen[bytes]] = []

    def interrupted(node: Node, *arguments: Any, **settings: Any) -> None:
        start(node, *arguments, **settings)
        processes.extend(info.process for infos in node.all_processes.values() for info in infos)
        raise KeyboardInterrupt

    monkeypatch.setattr(Node, "start_raylet", interrupted)
    with pytest.raises(KeyboardInterrupt), local_ray(1):
        pytest.fail("it started")
    assert len(processes) > 1
    until(lambda: all(process.poll() is not None for process in processes))


@pytest.mark.ray
def test_ctrl_c_while_a_cluster_is_joined_leaves_the_process_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with RayNodes() as nodes:
        connect = worker.connect  # type: ignore[attr-defined]

        def interrupted(*arguments: Any, **settings: Any) -> None:
            connect(*arguments, **settings)
            raise KeyboardInterrupt

        monkeypatch.setattr(worker, "connect", interrupted)
        with pytest.raises(KeyboardInterrupt), joined_ray(nodes.address, tmp_path):
            pytest.fail("it joined")
        assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.ray
def test_sigterm_while_ray_starts_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler would end the process with another exit code and without a line."""
    start = Node.start_raylet

    def terminated(node: Node, *arguments: Any, **settings: Any) -> None:
        start(node, *arguments, **settings)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Node, "start_raylet", terminated)
    with interrupted_by_signals(), pytest.raises(KeyboardInterrupt), local_ray(1):
        pytest.fail("it started")


@pytest.mark.parametrize("late", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.ray
def test_sigterm_leaves_time_to_close(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], late: bool
) -> None:
    """Ray's C++ handler would print a stack, and abort the process 3 s later.

    Args:
        late: Whether the signal comes when Ray has started, or just before that, when its handler is set already.
    """
    connect = worker.connect  # type: ignore[attr-defined]

    def terminated(*arguments: Any, **settings: Any) -> None:
        connect(*arguments, **settings)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(worker, "connect", connect if late else terminated)
    with interrupted_by_signals(), pytest.raises(KeyboardInterrupt), local_ray(1):
        signal.raise_signal(signal.SIGTERM)
    assert not 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 3
    assert not late or "SIGTERM" not in capfd.readouterr().err


class _Pickled:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self._path,)  # type: ignore[return-value]


@pytest.fixture
def loss(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A lost trial with the two files that Tune writes on an error, of which the pickle is hostile."""
    import pickle

    (tmp_path / "error.pkl").write_bytes(pickle.dumps(_Pickled(tmp_path / "ran")))
    files = {"error_file": str(tmp_path / "error.txt"), "pickled_error_file": str(tmp_path / "error.pkl")}
    yield SimpleNamespace(trial_id="t", **files)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "failure", "reason"),
    [
        (
            "\x1b[36mray::ArchTrainable.train()\x1b[39m (pid=1)\n"
            '  File "a.py", line 1, in f\n    g()\nValueError: at 3:\n  two lines',
            Failure.ERROR,
            "ValueError: at 3: two lines",
        ),
        (
            "The actor died.\n\tclass_name: ArchTrainable\nThe actor is dead because its worker process has died. "
            "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker died by SIGKILL. More advice.",
            Failure.LOST_WORKER,
            "the worker process died: its worker process has died",
        ),
    ],
)
def test_the_reason_of_a_loss_is_read_and_not_unpickled(
    loss: SimpleNamespace, text: str, failure: Failure, reason: str
) -> None:
    Path(loss.error_file).write_text(f"Failure # 1 (occurred at 2026-11-26)\n{text}\n")
    assert TrialWatchdog(None).explain_loss(loss) == (failure, reason)


def test_workers_of_a_command_under_uv_run_have_its_environment() -> None:
    """By default, Ray would let each of them install this project anew, with another torch."""
    code = "import nas.backend; from ray._private import ray_constants as c; print(c.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    unset = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
    done = subprocess.run([sys.executable, "-c", code], env=unset, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
