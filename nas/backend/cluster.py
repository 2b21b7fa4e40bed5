"""The nodes of a Ray cluster that somebody else runs: which of them take trials, how many, and whether the head lives.

A node gets no trial before a task on it has tried the study's runtime on a tiny network, and compared what the node
sees with what the driver sees: the run folder, the teachers' targets, the code, and the study's kind of device. A node
that differs, or on which the runtime does not work, is left out, and its reason is shown. One on which the check itself
failed is asked again from time to time.
So no measurement of a mixed cluster comes from another kind of device: trials are placed by the ids of the accepted
nodes, whatever labels Ray has for a device. Nodes that join later are checked in the same way.

When the head of Ray is gone, Ray ends the driver a minute later with a message of its own; when the raylet of the
driver's machine is gone, Ray's calls may wait forever. `ray_watchdog` ends the driver earlier, with one line. The main
thread may hang in a call of Ray by then, where no exception reaches it, so the process ends as if it were killed: every
finished trial is in the store.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import socket
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.backend.worker_spec import WorkerSpec
from nas.cli import FAILED, OperationFailed, one_line
from nas.command_log import Announce
from nas.numbers import clock, plural
from nas.terminal import show_cursor, write_line

_REFRESH_EVERY_S = 2.0
_ASK_AGAIN_S = 600.0  # after an error on a node: a stale file handle or a full folder may pass
_ANSWER_TIMEOUT_S = 240.0  # after which a start waits for a node only where no other one takes trials
_SAY_AGAIN_S, _GIVE_UP_S = 300.0, 1800.0  # while no node does: many that import torch from one disk may take minutes
_WATCH_EVERY_S = 2.0
_HEAD_TIMEOUT_S = 40.0  # Ray tolerates a head that comes back within a minute
_RAYLET_REFUSALS = 2  # checks in a row: nothing starts a raylet again
_LOG = logging.getLogger(__name__)

Texts = Mapping[str, Any]  # teacher -> text embeddings of the class names, as `embedded_texts` returns them


class DeviceMismatchError(ValueError):
    """A study that was measured on another kind of device than the present one; the message is one line."""


class ClusterError(ValueError, OperationFailed):
    """A cluster that cannot be joined, or has no node that can take a trial; the message is one line."""


class NodeSlots:
    """The accepted nodes of a cluster, as the `WorkerSlots` of a study; refreshed from time to time.

    Args:
        spec: What a worker needs; its checkpoint folder takes the probe files of the nodes.
        device_kind: The study's kind of device, see `nas.measure.environment.device_kind`; None for the driver's.
        max_workers: Trials at a time; None for as many as the nodes can take.
        announce: Shows a line to the user, as on a node that is left out.
    """

    def __init__(self, spec: WorkerSpec, device_kind: str | None, max_workers: int | None, announce: Announce) -> None:
        from nas.cache.targets import load_targets
        from nas.distill.evaluation.zero_shot import embedded_texts

        self._spec, self._max_workers, self._announce = spec, max_workers, announce
        self._token = uuid.uuid4().hex
        try:
            _probe_file(Path(spec.checkpoint_dir), self._token).write_text(self._token)
            self._expected = node_facts(spec, self._token) | ({"device": device_kind} if device_kind else {})
            self._texts = embedded_texts(load_targets(Path(spec.targets_dir), checked=True))
        except BaseException:
            self._remove_probe_files()
            raise
        self._asked: dict[str, tuple[Any, float]] = {}  # node id -> reference to its facts, time of the question
        self._accepted: tuple[str, ...] = ()  # also nodes that are gone: Tune ends idle workers when the ids change
        self._refused: dict[str, str] = {}  # node id -> reason; one that was asked and has not answered may be accepted
        self._failed_s: dict[str, float] = {}  # time of the answer of refused nodes on which the check itself failed
        self._addresses: dict[str, str] = {}  # of the living nodes, by their ids
        self._capacities: dict[str, int] = {}  # trials at a time of each accepted living node
        self._left_out: dict[str, str] = {}  # announced
        self._refreshed_s = -_REFRESH_EVERY_S

    def __enter__(self) -> Self:
        """Wait until every present node is accepted, refused or late, and one is accepted.

        Raises:
            ClusterError: All nodes are refused, there is none, or none has answered within half an hour.
        """
        try:
            self._wait_for_answers()
        except BaseException:  # Ctrl-C too: without an entry there is no exit
            self._remove_probe_files()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove_probe_files()

    def count(
        self,
        left_out: Mapping[str, str] = MappingProxyType({}),
        still_running: Mapping[str, int] = MappingProxyType({}),
    ) -> int:
        """Return how many trials can run at a time at present, and announce the nodes that are newly left out.

        Args:
            left_out: Beginnings of the ids of nodes that get no trial now, and why, see `nas.study.failing_nodes`.
            still_running: Trials that run on each of these nodes: they take no slot of the others.
        """
        self._refresh_if_due()
        for node_id, reason in left_out.items():
            if self._left_out.get(node_id) != reason:
                address = next((a for n, a in self._addresses.items() if n.startswith(node_id)), node_id)
                self._announce(f"node {address} is left out {reason}")
        self._left_out = dict(left_out)
        ids = self.node_ids(left_out)
        capacity = sum(self._capacities.get(node_id, 0) for node_id in ids)
        capacity += sum(n for name, n in still_running.items() if not any(node_id.startswith(name) for node_id in ids))
        return capacity if self._max_workers is None else min(self._max_workers, capacity)

    def node_ids(self, left_out: Collection[str] = (), avoided: str | None = None) -> tuple[str, ...]:
        """Return the ids of the accepted nodes for a trial, without those left out, and best not the avoided one.

        Where no other node can take a trial, the avoided one does; where they are all left out, all do.
        """
        for without in ({*left_out, avoided} - {None}, left_out):
            ids = tuple(n for n in self._accepted if not n.startswith(tuple(filter(None, without))))
            if any(self._capacities.get(n) for n in ids):
                return ids
        return self._accepted

    def any_alive(self, node_ids: tuple[str, ...]) -> bool:
        """Return whether one of these nodes is in the cluster."""
        self._refresh_if_due()
        return not self._addresses.keys().isdisjoint(node_ids)

    def _wait_for_answers(self) -> None:
        self._refresh()
        began_s, said_s = time.monotonic(), -math.inf
        while self._asked.keys() - self._refused.keys() or (self._asked and not any(self._capacities.values())):
            now = time.monotonic()
            if now - began_s > _GIVE_UP_S:
                break
            if not self._asked.keys() - self._refused.keys() and now - said_s > _SAY_AGAIN_S:
                said_s = now
                waiting = f"waiting for {plural(len(self._asked), 'node')} to answer, for {clock(_GIVE_UP_S)} at most"
                self._announce(f"no node takes trials yet ({self._reasons()}); {waiting}")
            time.sleep(0.1)
            self._refresh()
        if not any(self._capacities.values()):
            raise ClusterError(f"no node of the cluster can take a trial: {self._reasons()}")

    def _reasons(self) -> str:
        """Say why each refused node takes no trials."""
        named = (f"{self._addresses.get(node_id, node_id)}: {reason}" for node_id, reason in self._refused.items())
        return "; ".join(named) or "it has no CPUs or GPUs"

    def _remove_probe_files(self) -> None:
        folder = Path(self._spec.checkpoint_dir)
        for path in folder.glob(f"{_probe_file(folder, self._token).name}*"):
            path.unlink(missing_ok=True)

    def _refresh_if_due(self) -> None:
        if time.monotonic() - self._refreshed_s > _REFRESH_EVERY_S:
            self._refresh()

    def _refresh(self) -> None:
        """Ask new nodes for their facts, and judge those that have answered."""
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for node_id, node in alive.items():
            is_new = node_id not in self._asked and node_id not in self._accepted and node_id not in self._refused
            may_pass = time.monotonic() - self._failed_s.get(node_id, math.inf) > _ASK_AGAIN_S
            if (is_new or may_pass) and self._spec.capacity_of(node["Resources"]):
                self._asked[node_id] = _ask(node_id, self._spec, self._token, self._texts), time.monotonic()
                self._failed_s.pop(node_id, None)
        for node_id in list(self._asked):
            self._judge(node_id, alive)
        capacities = {n: self._spec.capacity_of(alive[n]["Resources"]) for n in self._accepted if n in alive}
        if any(self._capacities.values()) and not any(capacities.values()):
            self._announce("all nodes that take trials have left the cluster; waiting for others to join it")
        self._addresses = {node_id: node["NodeManagerAddress"] for node_id, node in alive.items()}
        self._capacities, self._refreshed_s = capacities, time.monotonic()

    def _judge(self, node_id: str, alive: Mapping[str, Any]) -> None:
        """Accept or refuse a node that has answered, and refuse one whose answer is late until it comes."""
        if node_id not in alive:
            del self._asked[node_id]
            return
        (answer, asked_s), address = self._asked[node_id], alive[node_id]["NodeManagerAddress"]
        if not ray.wait([answer], timeout=0)[0]:
            if node_id not in self._refused and time.monotonic() - asked_s > _ANSWER_TIMEOUT_S:
                self._refused[node_id] = f"no answer within {_ANSWER_TIMEOUT_S:g} s"
                self._announce(f"node {address} is left out until it answers: {self._refused[node_id]}")
            return
        del self._asked[node_id]
        before = self._refused.pop(node_id, None)
        probe_file = _probe_file(Path(self._spec.checkpoint_dir), self._token, node_id)
        reason, failed = _find_difference(self._expected, answer, probe_file)
        if reason is None:
            self._accepted = (*self._accepted, node_id)
            say: Announce = _LOG.info if before is None else self._announce
            say(f"node {address} takes trials")
            return
        self._refused[node_id] = reason
        if failed:
            self._failed_s[node_id] = time.monotonic()
        if reason != before:
            self._announce(f"node {address} is left out: {reason}")


def compared_versions(runtime: str) -> str:
    """Return the versions that all nodes must have for a runtime, as text."""
    from nas.measure.environment import versions
    from nas.measure.runtime_spec import Arm

    found = {"python": platform.python_version(), "numpy": metadata.version("numpy"), **versions(Arm.parse(runtime))}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def node_facts(spec: WorkerSpec, token: str, node_id: str = "") -> dict[str, str]:
    """Return what this node sees of everything that has to be the same on all nodes, if measurements work on it.

    Args:
        spec: What a worker needs.
        token: Content of the driver's probe file.
        node_id: The node, which leaves a probe file of its own; "" for the driver, which measures nothing.

    Raises:
        ConfigError: The study's runtime does not work on the node.
        DeviceError: A GPU of the node takes one process, but a second one measures.
    """
    from nas.cache.targets import load_targets
    from nas.measure.environment import check_compute_mode, code_digest, device_kind
    from nas.measure.runtime_check import check_runtime
    from nas.study.config import SearchConfig

    folder, config = Path(spec.checkpoint_dir), json.loads(spec.config)
    if node_id:
        check_compute_mode(config["device"])
        check_runtime(SearchConfig.from_dict(config), lambda *stage: None, resume=True)
    driver_token = _probe_file(folder, token).read_text()
    if node_id:
        _probe_file(folder, token, node_id).write_text(token)
    return {
        "run folder": driver_token,
        "code": code_digest(),
        "versions": compared_versions(config["runtime"]),
        # A node may have a copy of the cache, which nobody has checked.
        "teachers' outputs": load_targets(Path(spec.targets_dir), checked=not node_id).fingerprint,
        "device": device_kind(config["device"]),
    }


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _remote_node_facts(spec: WorkerSpec, token: str, node_id: str, texts: Texts) -> dict[str, str]:
    """Return the facts of this node, after class names' embeddings were added that its copy of the cache lacks."""
    from nas.cache.targets import load_targets
    from nas.distill.evaluation.zero_shot import add_texts

    facts = node_facts(spec, token, node_id)
    add_texts(load_targets(Path(spec.targets_dir), checked=True), texts)
    return facts


def _ask(node_id: str, spec: WorkerSpec, token: str, texts: Texts) -> Any:
    """Ask a node for its facts; return Ray's reference to the answer."""
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return _remote_node_facts.options(scheduling_strategy=strategy).remote(spec, token, node_id, texts)


def _find_difference(expected: Mapping[str, str], answer: Any, probe_file: Path) -> tuple[str | None, bool]:
    """Return why a node that has answered takes no trials, None where it does, and whether the check itself failed."""
    try:
        facts = ray.get(answer)
    except Exception as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        return f"{type(cause).__name__}: {one_line(cause)[:300]}", True
    for fact, value in expected.items():
        if facts[fact] != value:
            return f"{fact}: {facts[fact]}, but the study has {value}", False
    if not probe_file.exists():
        unseen = "the search does not see the file that the node wrote there"
        return f"the folder {probe_file.parent} is not shared: {unseen}", False
    probe_file.unlink()
    return None, False


def _probe_file(folder: Path, token: str, node_id: str = "") -> Path:
    """Return a hidden file, by which the driver and a node check that they share a folder."""
    return folder / f".node-{token}{node_id}"


@contextmanager
def ray_watchdog(head: str, raylet: str, advice: str) -> Iterator[None]:
    """End the process with one line if the head of Ray, or the raylet of this machine, stops listening in the body.

    Args:
        head: HOST:PORT of the head.
        raylet: Path of the socket of the raylet through which this process talks to Ray.
        advice: How the user resumes, for the line.
    """
    over = threading.Event()
    threading.Thread(target=_watch_ray, args=(head, raylet, advice, over), daemon=True, name="ray").start()
    try:
        yield
    finally:
        over.set()


def _watch_ray(head: str, raylet: str, advice: str, over: threading.Event) -> None:
    host, _, port = head.rpartition(":")
    answered_s, refused = time.monotonic(), 0
    while not over.wait(_WATCH_EVERY_S):
        head_answers = False
        with suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=_WATCH_EVERY_S).close()
            answered_s, head_answers = time.monotonic(), True
        refused = refused + 1 if _refuses(raylet) else 0
        # A raylet ends when its head does.
        if time.monotonic() - answered_s > _HEAD_TIMEOUT_S or (refused >= _RAYLET_REFUSALS and not head_answers):
            _end(f"error: the head of Ray at {head} is gone; {advice}")
        if refused >= _RAYLET_REFUSALS and not over.is_set():
            _end(f"error: the raylet, Ray's process on this machine, is gone; {advice}")


def _refuses(path: str) -> bool:
    """Return whether nobody listens to a Unix socket; a process that is stopped still does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_WATCH_EVERY_S)
        try:
            connection.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False


def _end(line: str) -> NoReturn:
    _LOG.error("%s", line)
    show_cursor()
    write_line(line, sys.stderr)
    os._exit(FAILED)
