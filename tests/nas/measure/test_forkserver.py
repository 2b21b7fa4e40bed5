"""A process of its own: what crashes or hangs in it is a verdict, and the next measurement is undisturbed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe, connection
from pathlib import Path

import pytest

from nas.measure import MeasurementError, Setting, forkserver
from nas.measure.device_lock import awaited, training
from nas.measure.forkserver import ForkServer, unlimited
from nas.measure.service import MeasurementService
from tests.waiting import PATIENCE_S, until

# Functions that a fresh process finds: this module is imported there by name.


def add(a: int, b: int) -> tuple[int, int]:
    return a + b, os.getpid()


def crash(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


def hang() -> None:
    while True:
        time.sleep(1)


def refuse() -> None:
    raise ValueError("no such thing")


class Unpicklable(Exception):
    """Pickles, but does not come back: its arguments are not what its parent was given."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__("made of two")


def raise_unpicklable() -> None:
    raise Unpicklable(1, 2)


def large() -> bytes:
    return bytes(10**7)


def spawn_note(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    hang()


@pytest.fixture(scope="module")
def server():
    with ForkServer() as made:
        yield made


def test_every_call_has_a_process_of_its_own(server):
    (first, a), (second, b) = (server.run(add, 1, n, limit_s=PATIENCE_S) for n in (1, 2))
    assert (first, second) == (2, 3)
    assert len({a, b, os.getpid()}) == 3
    assert len(server.run(large, limit_s=PATIENCE_S)) == 10**7


def test_a_crash_is_a_verdict_and_the_next_call_works(server):
    with pytest.raises(MeasurementError, match="ended by SIGSEGV") as caught:
        server.run(crash, signal.SIGSEGV, limit_s=PATIENCE_S)
    assert caught.value.verdict == "crash"
    with pytest.raises(MeasurementError, match="exit code 3"):
        server.run(leave, 3, limit_s=PATIENCE_S)
    assert server.run(add, 1, 1, limit_s=PATIENCE_S)[0] == 2


def test_a_hang_is_ended_after_its_limit(server):
    with pytest.raises(MeasurementError, match=r"no result after 0\.3 s") as caught:
        server.run(hang, limit_s=0.3)
    assert caught.value.verdict == "hang"
    assert server.run(add, 1, 1, limit_s=PATIENCE_S)[0] == 2


def test_a_wait_for_the_device_is_no_hang(monkeypatch):
    limits_s = []

    def wait(connections, limit_s):
        limits_s.append(limit_s)
        return connection.wait(connections, limit_s)

    (requests, _), (answers, answer) = Pipe(), Pipe(duplex=False)
    monkeypatch.setattr(forkserver, "wait", wait)
    monkeypatch.setattr(forkserver, "_end", lambda child: None)
    monkeypatch.setattr(forkserver, "_answers", answer)
    with unlimited():
        pass
    answer.send(("done", 1))
    assert pickle.loads(forkserver._await(0, requests, answers, PATIENCE_S)) == ("done", 1)
    assert limits_s == [PATIENCE_S, None, PATIENCE_S], "it begins again after the wait"


def test_errors_come_back_as_they_are_or_in_words(server, monkeypatch):
    with pytest.raises(ValueError, match="no such thing"):
        server.run(refuse, limit_s=PATIENCE_S)
    with pytest.raises(RuntimeError, match="Unpicklable: made of two"):
        server.run(raise_unpicklable, limit_s=PATIENCE_S)
    monkeypatch.setattr(add, "__module__", "__main__")  # the caller's, which the server has not
    monkeypatch.setattr(sys.modules["__main__"], "add", add, raising=False)
    with pytest.raises(RuntimeError, match="AttributeError"):
        server.run(add, 1, 1, limit_s=PATIENCE_S)


def test_a_server_that_was_killed_is_a_crash():
    with ForkServer() as made:
        made._server.kill()
        made._server.wait()
        with pytest.raises(MeasurementError, match="process") as caught:
            made.run(add, 1, 1, limit_s=PATIENCE_S)
        assert caught.value.verdict == "crash"


def test_nothing_is_left_when_the_caller_dies(tmp_path):
    note = tmp_path / "pid"
    program = (
        "from nas.measure.forkserver import ForkServer\nfrom tests.nas.measure.test_forkserver import spawn_note\n"
        f"ForkServer().run(spawn_note, {str(note)!r}, limit_s=1e4)"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    until(lambda: note.exists() and note.read_text())
    caller.kill()
    caller.wait()
    until(lambda: not _alive(int(note.read_text())))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_search_prepares_while_others_train_and_times_alone(tmp_path):
    setting = Setting("cpu", batch=2, resolution=64, budget_s=0.4)
    with MeasurementService(threads=1) as service, ThreadPoolExecutor(1) as pool:
        with training(tmp_path):
            pair = "eradio_femto", "eradio_femto", setting
            answer = pool.submit(service.measure, *pair, name_of_reference="itself", lock_dir=tmp_path)
            until(lambda: awaited(tmp_path))
            assert not answer.done()
            released_s = time.monotonic()
        with training(tmp_path):
            assert time.monotonic() - released_s > 0.2, "the device was held while the pair was timed"
        answer.result(PATIENCE_S)


@pytest.mark.slow
def test_architectures_are_measured_by_name_and_by_spec():
    from search_space import PRESETS

    setting = Setting("cpu", batch=2, resolution=64, budget_s=0.2)
    with MeasurementService(threads=1) as service:
        spec = PRESETS["eradio_femto"].to_dict()
        found = service.measure(spec, "eradio_femto", setting, name_of_reference="eradio_femto")
        assert found.record.reference == "eradio_femto"
        assert found.record.arm.endswith(" 1 thread")
        assert len(found.samples["candidate_s"]) * 2 == found.record.samples
        with pytest.raises(ValueError, match="no preset 'nothing'"):
            service.measure("nothing", "eradio_femto", setting, name_of_reference="eradio_femto")
        assert service._server is not None
        service._server._server.kill()
        service._server._server.wait()
        assert service.measure(spec, spec, setting, name_of_reference="itself").record.samples > 0, "it has a new one"
