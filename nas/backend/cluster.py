"""The nodes of a Ray cluster that others keep: which of them can take trials, and how many.

A node gets no trial before a task on it has seen what the driver sees: the run folder, the same targets, the same code,
and the study's kind of device. One that sees something else is named with its reason and left out. So in a mixed
cluster nothing is measured on another kind of device: trials are placed by the ids of the nodes that passed, whatever
Ray has in the way of labels for a device. Nodes that join later are looked at in the same way.

Says in one line that Ray's head is gone. Ray itself ends the process a minute later, with words of its own.

By then the main thread may hang in a call of Ray's, where no exception reaches it. So the process is ended from here,
as if it were killed: all that was finished is in the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.backend.worker_spec import WorkerSpec
from nas.cli import FAILED, OperationFailed

_EVERY_S = 2.0  # between looks at who is there
_ANSWER_S = 120.0  # a node that takes longer to import torch is no help
_PACKAGES = ("backbone-nas", "torch", "timm", "numpy")

Say = Callable[[str], None]


class NodesError(ValueError):
    """A study and a device that do not go together; the message is one line."""


class ClusterError(NodesError, OperationFailed):
    """A cluster that cannot be joined, or has no node that can take a trial; the message is one line."""


class Nodes:
    """A cluster's nodes, looked at from time to time; what changes is said by `say`.

    Args:
        places: as of the trials; its checkpoint folder takes the files of the checks.
        kind: the study's kind of device, see `nas.measure.environment.device_kind`; None: the driver's.
        most: trials at a time; None: as many as the nodes can take.
    """

    def __init__(self, places: WorkerSpec, kind: str | None, most: int | None, say: Say) -> None:
        self._places, self._most, self._say = places, most, say
        self._token = uuid.uuid4().hex
        folder = Path(places.checkpoint_dir)
        _file(folder, self._token).write_text(self._token)
        self._wanted = seen(places, self._token) | ({"device": kind} if kind else {})
        self._waiting: dict[str, tuple[Any, float]] = {}  # node id -> what it sees, to come; since when
        self._good: tuple[str, ...] = ()  # also those that are gone: a list that changes ends idle workers
        self._refused: dict[str, str] = {}
        self._alive: frozenset[str] = frozenset()
        self._room, self._looked = 0, -_EVERY_S

    def __enter__(self) -> Self:
        """Waits until every node that is there now was looked at. NodesError where none is left."""
        self._look()
        while self._waiting:
            time.sleep(0.1)
            self._look()
        if not self._room:
            reasons = "; ".join(f"{where}: {reason}" for where, reason in self._refused.items())
            self._forget_files()
            raise ClusterError(f"no node of the cluster can take a trial: {reasons or 'it has no CPUs or GPUs'}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._forget_files()

    def workers(self) -> int:
        """How many trials can run at a time at present."""
        self._look_again()
        return self._room if self._most is None else min(self._most, self._room)

    def node_ids(self) -> tuple[str, ...]:
        """Of the nodes that take trials."""
        return self._good

    def holds(self, node_ids: tuple[str, ...]) -> bool:
        """Whether one of these nodes is alive."""
        self._look_again()
        return not self._alive.isdisjoint(node_ids)

    def _forget_files(self) -> None:
        folder = Path(self._places.checkpoint_dir)
        for path in folder.glob(f"{_file(folder, self._token).name}*"):
            path.unlink(missing_ok=True)

    def _look_again(self) -> None:
        if time.monotonic() - self._looked > _EVERY_S:
            self._look()

    def _look(self) -> None:
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for node_id, node in alive.items():
            known = node_id in self._waiting or node_id in self._good or node_id in self._refused
            if not known and self._places.trials_on(node["Resources"]):
                self._waiting[node_id] = _ask(node_id, self._places, self._token), time.monotonic()
        for node_id in list(self._waiting):
            self._judge(node_id, alive)
        self._room = sum(self._places.trials_on(alive[n]["Resources"]) for n in self._good if n in alive)
        self._alive, self._looked = frozenset(alive), time.monotonic()

    def _judge(self, node_id: str, alive: Mapping[str, Any]) -> None:
        answer, since = self._waiting[node_id]
        late = time.monotonic() - since > _ANSWER_S
        if node_id in alive and not late and not ray.wait([answer], timeout=0)[0]:
            return
        del self._waiting[node_id]
        if node_id not in alive:
            return
        reason = _difference(self._wanted, answer, _file(Path(self._places.checkpoint_dir), self._token, node_id))
        if reason is None:
            self._good = (*self._good, node_id)
            return
        self._refused[node_id] = reason
        self._say(f"node {alive[node_id]['NodeManagerAddress']} is left out: {reason}")


def seen(places: WorkerSpec, token: str, node_id: str = "") -> dict[str, str]:
    """What this node sees of all that has to be the same everywhere."""
    from nas.cache.targets import load_targets
    from nas.measure.environment import device_kind

    folder = Path(places.checkpoint_dir)
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}
    theirs = _file(folder, token).read_text()
    if node_id:
        _file(folder, token, node_id).write_text(token)
    return {
        "run folder": theirs,
        "code": _code(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "teachers' outputs": load_targets(Path(places.targets_dir)).fingerprint,
        "device": device_kind(json.loads(places.config)["device"]),
    }


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _seen(places: WorkerSpec, token: str, node_id: str) -> dict[str, str]:
    return seen(places, token, node_id)


def _ask(node_id: str, places: WorkerSpec, token: str) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return _seen.options(scheduling_strategy=strategy).remote(places, token, node_id)


def _difference(wanted: Mapping[str, str], answer: Any, its_file: Path) -> str | None:
    """Why a node cannot take part, or None."""
    try:
        found = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {_ANSWER_S:g} s"
    except Exception as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    for what, ours in wanted.items():
        if found[what] != ours:
            return f"{what}: {found[what]}, but the study has {ours}"
    if not its_file.exists():
        return f"what it writes into {its_file.parent} is not seen here: the folder is not shared"
    its_file.unlink()
    return None


def _file(folder: Path, token: str, node_id: str = "") -> Path:
    """What a node writes for the driver to see, or the driver for the nodes; hidden, so that nobody takes it away."""
    return folder / f".node-{token}{node_id}"


def _code() -> str:
    """A digest of this project's source files."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for package in ("search_space", "backbones", "nas"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(os.fsencode(path.relative_to(root)) + path.read_bytes())
    return digest.hexdigest()[:12]


_HEAD_EVERY_S = 2.0
_PATIENCE_S = 40.0  # a head that comes back within a minute is no harm to Ray
_SHOW_CURSOR = "\x1b[?25h"  # which a live panel hides


@contextmanager
def watched_head(address: str, advice: str) -> Iterator[None]:
    """While the body runs, the process ends with one line where nobody listens at HOST:PORT any more."""
    over = threading.Event()
    threading.Thread(target=_watch, args=(address, advice, over), daemon=True, name="head").start()
    try:
        yield
    finally:
        over.set()


def _watch(address: str, advice: str, over: threading.Event) -> None:
    host, _, port = address.rpartition(":")
    seen = time.monotonic()
    while not over.wait(_HEAD_EVERY_S):
        with suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=_HEAD_EVERY_S).close()
            seen = time.monotonic()
        if time.monotonic() - seen > _PATIENCE_S:
            shown = _SHOW_CURSOR if sys.stderr.isatty() else ""
            print(f"{shown}error: the head of Ray at {address} is gone; {advice}", file=sys.stderr, flush=True)
            os._exit(FAILED)
