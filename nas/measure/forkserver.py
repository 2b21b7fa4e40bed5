"""Run each measurement in a process of its own: one that hangs, crashes or breaks its CUDA context ends alone.

    with ForkServer() as server:
        result = server.run(function, argument, limit_s=60)

A small server process imports the slow modules and forks for every call, so that a fresh process takes milliseconds. It
computes nothing itself: neither OpenMP nor CUDA survives a fork once it is initialized.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from nas.measure.measurement_error import MeasurementError

Result = TypeVar("Result")
PR_SET_PDEATHSIG = 1  # prctl(2)
_PAUSE, _GO_ON = b"pause", b"go on"  # what a call sends before its answer, to stop the clock of its limit
_answers: Connection | None = None  # in the process of a call: takes its answer


@contextmanager
def unlimited() -> Iterator[None]:
    """Stop the clock of the limit of the call that this process runs; after the body it begins again."""
    if _answers is not None:
        _answers.send_bytes(_PAUSE)
    yield
    if _answers is not None:
        _answers.send_bytes(_GO_ON)


class ForkServer:
    """Run functions of importable modules in fresh processes, one at a time.

    Arguments, results and errors are pickled; pickles only come from this project's own processes.

    Args:
        modules: Modules that the server imports once, before the first fork.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        ours, theirs = Pipe()
        with theirs:
            # In a session of its own, Ctrl-C does not reach it; the caller closes the pipe.
            self._server = subprocess.Popen(
                [sys.executable, "-m", "nas.measure.forkserver", str(theirs.fileno()), *modules],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._pipe = ours

    def run(self, function: Callable[..., Result], *arguments: Any, limit_s: float) -> Result:
        """Call `function(*arguments)` in a fresh process and return its result.

        Raises:
            MeasurementError: The process crashes or takes longer than `limit_s`.
            Exception: Whatever the function raises.
        """
        try:
            self._pipe.send((function, arguments, limit_s))
            kind, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise MeasurementError(
                "crash", f"the process that starts measurements has ended ({type(error).__name__})"
            ) from None
        except BaseException:  # Ctrl-C: the next call must not read the answer to this one
            self.close()
            raise
        if kind == "done":
            result: Result = value
            return result
        raise value

    @property
    def alive(self) -> bool:
        """Whether the server can take calls."""
        return not self._pipe.closed and self._server.poll() is None

    def close(self) -> None:
        """End the server and what it runs."""
        self._pipe.close()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def serve(requests: Connection) -> None:
    """Answer requests until the other end is closed."""
    while True:
        try:
            function, arguments, limit_s = requests.recv()
        except (EOFError, OSError):
            return
        except Exception as error:  # for example of a module that cannot be imported here
            requests.send(("raised", RuntimeError(f"{type(error).__name__}: {error}")))
            continue
        answers, answer = Pipe(duplex=False)
        child = os.fork()
        if not child:
            requests.close()
            answers.close()
            _work(function, arguments, answer)
        answer.close()
        with answers:
            reply = _await(child, requests, answers, limit_s)
        if reply is None:
            return
        with suppress(BrokenPipeError):  # the next recv ends the server
            requests.send_bytes(reply) if isinstance(reply, bytes) else requests.send(reply)


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], answer: Connection) -> None:
    """Run a function in the forked child, send its result, and exit."""
    global _answers
    code, _answers = 1, answer
    with suppress(OSError, AttributeError):  # Linux only; otherwise it would outlive the server
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        try:
            answer.send(("done", function(*arguments)))
        except Exception as error:
            _send_error(answer, error)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # no destructors: a broken CUDA context would hang in them


def _send_error(answer: Connection, error: Exception) -> None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # errors of some libraries cannot be pickled
        error = RuntimeError(f"{type(error).__name__}: {error}")
    answer.send(("raised", error))


def _await(
    child: int, requests: Connection, answers: Connection, limit_s: float
) -> bytes | tuple[str, MeasurementError] | None:
    """Return the child's answer or a MeasurementError; None where the caller has closed the pipe. End the child."""
    left_s: float | None = limit_s
    try:
        while answers in (ready := wait([requests, answers], left_s)):
            reply = answers.recv_bytes()
            if reply not in (_PAUSE, _GO_ON):
                return reply
            left_s = None if reply == _PAUSE else limit_s
    except EOFError:
        return "raised", MeasurementError("crash", _exit_reason(os.waitpid(child, 0)[1]))
    finally:
        _end(child)
    return None if ready else ("raised", MeasurementError("hang", f"no result after {limit_s:g} s"))


def _end(child: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):  # it has ended by itself
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _exit_reason(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"the process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"the process ended with exit code {os.waitstatus_to_exitcode(status)}"


if __name__ == "__main__":
    import importlib

    for name in sys.argv[2:]:
        importlib.import_module(name)
    # Not this module's `serve`: its classes would be pickled as those of __main__.
    importlib.import_module("nas.measure.forkserver").serve(Connection(int(sys.argv[1])))
