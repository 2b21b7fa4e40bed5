"""Start Ray on this machine, or join a cluster that somebody else runs.

A Ray of our own is for this user and this machine alone: its folder has mode 0700, its processes know each other by a
token, and it neither listens nor connects beyond the loopback interface. Left to itself, Ray opens its folder to all
users, asks the metadata servers of three clouds where it runs, and connects to a public resolver to learn its address.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import services, utils
from ray._private.node import Node
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationMode,
    AuthenticationTokenLoader,
    Config,
    get_authentication_mode,
)

from nas.backend import WORKER_ENVIRONMENT
from nas.backend.cluster import ClusterError
from nas.cli import one_line
from nas.command_log import Announce
from nas.measure.allocator import MALLOC_SETTINGS
from nas.scratch import environment, guarded, kill_children, scratch_folder

_START_TIMEOUT_S = 30  # Ray's own, which it lets nobody change
_CONNECT_TIMEOUT_S = 10.0
_START_TRIES = 2  # on a busy machine, the second start finds Ray's files in memory
_OBJECT_STORE_BYTES = 128 * 2**20  # specs and records are small; targets are memory-mapped files
_LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on all systems: without a cluster, an agent takes the loopback address
}


@contextmanager
def local_ray(num_cpus: int, num_gpus: int | None = None, announce: Announce = lambda line: None) -> Iterator[str]:
    """Start Ray on the loopback interface of this machine; yield a scratch folder.

    Args:
        num_cpus: CPUs that Ray counts, of which a trial takes one and each of its ranks another.
        num_gpus: GPUs that Ray counts; None for those that it finds, which are none in a container without NVML.
        announce: Shows a line to the user, as on a start that is tried again.

    Raises:
        ClusterError: Ray does not start, `_START_TRIES` times.
    """
    with ExitStack() as stack:
        for tries_left in reversed(range(_START_TRIES)):
            try:
                scratch = stack.enter_context(_started_ray(num_cpus, num_gpus))
            except _SlowStart:
                if not tries_left:
                    raise
                announce(f"Ray's processes did not start within {_START_TIMEOUT_S} s; starting them again")
            else:
                yield scratch
                return


@contextmanager
def _started_ray(num_cpus: int, num_gpus: int | None) -> Iterator[str]:
    """Start Ray for the body once; where the start fails or is interrupted, none of its processes stays."""
    # The paths of Ray's sockets must have fewer than 107 characters: a run folder may be too deep in a home.
    # Ray's agents outlive a killed driver by the minute in which they try to tell its head, so a guard ends them.
    with scratch_folder("nas-ray-") as scratch, guarded(scratch), _token_authentication(), _without_api_server():
        try:
            _start_ray(
                scratch,
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env={"env_vars": MALLOC_SETTINGS},
                _node_ip_address="127.0.0.1",
                _temp_dir=str(scratch / "ray"),  # Ray gives it mode 0777, within a folder that nobody else can enter
            )
            yield str(scratch)
        finally:
            ray.shutdown()


@contextmanager
def joined_ray(address: str, folder: Path, announce: Announce = lambda line: None) -> Iterator[str]:
    """Join a running cluster; yield a scratch folder that all nodes see.

    Args:
        address: "auto" or HOST:PORT.
        folder: Takes the scratch folder; all nodes see it.
        announce: Shows a line to the user.

    Raises:
        ClusterError: The cluster cannot be joined.
    """
    # The folder may be on a disk of several machines, and only a process of this one can be seen to be dead.
    with scratch_folder(f".ray-{socket.gethostname()}-", folder) as scratch:
        try:
            _connect(address)  # Ray tries for minutes
            _init_ray(address=address, runtime_env={"env_vars": MALLOC_SETTINGS | WORKER_ENVIRONMENT})
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = one_line(error)[:300]
            hint = ""
            if not _has_token() and type(error) in (ConnectionError, RuntimeError):  # it answers, but not to Ray
                hint = "; if its nodes have RAY_AUTH_MODE=token, this command needs it and their token too"
            raise ClusterError(f"--address: cannot join a Ray cluster at {address!r}: {reason}{hint}") from error
        try:
            if not _has_token():
                announce(
                    f"the Ray cluster at {address} runs any code that reaches its ports: keep it on a private "
                    "network, or start its nodes and this command with RAY_AUTH_MODE=token"
                )
            yield str(scratch)
        finally:
            ray.shutdown()


def check_answers(address: str) -> None:
    """Raise ClusterError where nothing answers at the address of a cluster; "auto" is not checked.

    Args:
        address: "auto" or HOST:PORT.
    """
    try:
        _connect(address)
    except OSError as error:
        raise ClusterError(f"--address: cannot join a Ray cluster at {address!r}: {error}") from error


def _connect(address: str) -> None:
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def cluster_resources(address: str, folder: Path) -> tuple[int, float, float]:
    """Join a running cluster, and return the number of its living nodes, their CPUs and their GPUs.

    Args:
        address: "auto" or HOST:PORT.
        folder: Folder for temporary files.

    Raises:
        ClusterError: The cluster cannot be joined.
    """
    with joined_ray(address, folder):
        living = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return len(living), *(sum(resources.get(kind, 0.0) for resources in living) for kind in ("CPU", "GPU"))


def head_address() -> str:
    """Return HOST:PORT of the head of the Ray that this process has started or joined."""
    return str(ray.get_runtime_context().gcs_address)


def raylet_socket() -> str:
    """Return the path of the socket of the raylet through which this process talks to Ray."""
    return str(ray._private.worker.global_worker.node.raylet_socket_name)


class _SlowStart(ClusterError):
    """Processes of Ray that did not start in time."""


def _start_ray(scratch: Path, **settings: Any) -> None:
    """Start Ray; raise `_SlowStart` in place of the plain Exception of Ray about processes that did not start in time.

    Until all of them have started, `ray.shutdown` knows none of them: what an error or Ctrl-C leaves of those that
    belong to the scratch folder is killed.
    """
    try:
        _init_ray(**settings)
    except BaseException as error:
        kill_children(scratch)
        if "timed out during startup" not in str(error):
            raise
        raise _SlowStart(
            f"Ray's processes did not start within {_START_TIMEOUT_S} s, {_START_TRIES} times, because the machine has "
            "too much other work; run the command again, with --resume RUN if the search had begun"
        ) from error


def _init_ray(**settings: Any) -> None:
    was_initialized = ray.is_initialized()
    # Ray replaces a loopback address by the machine's own and would listen to the network.
    services.resolve_ip_for_localhost = lambda host: host
    # Ray's handler of SIGTERM would exit without a message and with another code, already while Ray starts.
    utils.set_sigterm_handler = lambda handler: None
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            signal.alarm(0)  # set if SIGTERM came after Ray's C++ part had taken it, see below
        if not was_initialized:
            ray.shutdown()  # else the next start in this process, as in a notebook, would be refused
        raise
    finally:
        # Ray's C++ part takes SIGTERM too: it prints a stack, has an alarm abort the process 3 s later, in which a
        # search may not have closed, and calls the handler that it found. Setting Python's handler again removes it.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


@contextmanager
def _token_authentication() -> Iterator[None]:
    """Let this process and those that it starts accept only messages with a token that they alone have.

    The token is in their environment, which other users cannot read; Ray's own file of it would be readable for all.
    """
    with ExitStack() as stack:
        stack.callback(_reload_authentication)
        stack.enter_context(environment(_LOCAL_ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}))
        _reload_authentication()
        yield


def _has_token() -> bool:
    """Return whether this process shows a token to the processes of a Ray, and asks them for it."""
    return bool(get_authentication_mode() is AuthenticationMode.TOKEN)


def _reload_authentication() -> None:
    """Let Ray read its settings of authentication again, which it keeps from the first session of a process."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _without_api_server() -> Iterator[None]:
    """Start no API server of Ray in the body: without a dashboard it serves nothing, and calls metadata servers."""
    start = Node.start_api_server
    Node.start_api_server = lambda *arguments, **settings: None
    try:
        yield
    finally:
        Node.start_api_server = start
