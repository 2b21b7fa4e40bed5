"""Ray Tune runs the trials of a `StudyLoop`, on a Ray of this machine or on a cluster that is there already.

Workers keep their process, with its memory-mapped teachers, from trial to trial. Everything worth keeping is in the
study's store before Tune hears of it, so Tune's own files are scratch.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private import services
from ray.tune.error import TuneError

from nas.command import OperationFailed
from nas.measure.environment import device_kind
from nas.places import checkpoint_path
from nas.running import OF_WORKERS
from nas.running.bridge import Asker, Gate, Room
from nas.running.head import watched_head
from nas.running.nodes import ClusterError, Nodes, NodesError, Say
from nas.running.places import Places
from nas.running.watch import Watch
from nas.running.worker import ArchTrainable, Stages, arch_stages
from nas.store import StoreError
from nas.study import StudyLoop

# glibc gives large buffers back to the kernel and faults them in again at every training step, unless told not to.
_WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
_OBJECT_STORE_BYTES = 128 * 2**20  # specs and records are small; targets are memory-mapped files


class RayError(ValueError, OperationFailed):
    """Ray came to its end before the study did; the message is one line."""


@dataclass(frozen=True)
class Site:
    """A Ray that is there, with nodes that can take trials."""

    places: Places
    room: Room
    head: str  # HOST:PORT


@contextmanager
def open_site(
    places: Places, workers: int | None, *, address: str | None = None, kind: str | None = None, say: Say = print
) -> Iterator[Site]:
    """Where a study can run; what would refuse it does so here, before anything is written into the study.

    Args:
        places: of the workers.
        workers: trials at a time; on a cluster, None is as many as its nodes can take, also when some come or go.
        address: of a running Ray cluster, "auto" or HOST:PORT; None starts one on this machine, for itself.
        kind: of device that the study was measured on, see `nas.measure.environment.device_kind`; None: this machine's.
        say: shows a line to people.

    Raises:
        NodesError: the cluster is not there, none of its nodes can take a trial, or the study's device is another.
    """
    if address is None:
        _refuse_another_device(kind, json.loads(places.config)["device"])
        with _own_ray(places, workers or 1) as scratch:
            yield Site(replace(places, scratch=scratch), _Fixed(workers or 1), _head())
        return
    with (
        _joined(address, Path(places.checkpoint_dir).parent) as scratch,
        Nodes(places, kind, workers, say) as nodes,
    ):
        yield Site(replace(places, scratch=scratch), nodes, _head())


def run_study(loop: StudyLoop, site: Site, *, time_limit_s: float | None = None, stages: Stages = arch_stages) -> None:
    """Runs the loop to its end; KeyboardInterrupt passes through.

    Args:
        loop: decides.
        site: where trials run.
        time_limit_s: after which a stage of a trial (measuring, a rung) hangs; None: by what earlier trials took.
        stages: makes a trial's records in the worker.

    Raises:
        RayError: Ray is gone, as when a cluster's head died.
    """
    checkpoints = Path(site.places.checkpoint_dir)
    advice = f"nothing stored is lost; go on with --resume {checkpoints.parent}"
    try:
        with watched_head(site.head, advice):
            _sweep(loop, checkpoints)
            _run(loop, site, time_limit_s, stages)
            _sweep(loop, checkpoints)  # workers of a killed driver live on for a moment, and write
    except (ray.exceptions.RayError, TuneError) as error:
        raise RayError(f"Ray: {' '.join(str(error).split())[:300]}; {advice}") from error


@dataclass(frozen=True)
class _Fixed:
    """The room of a machine that only this study uses."""

    number: int

    def workers(self) -> int:
        return self.number

    def node_ids(self) -> tuple[str, ...]:
        return ()

    def holds(self, node_ids: tuple[str, ...]) -> bool:
        return True


@contextmanager
def _own_ray(places: Places, workers: int) -> Iterator[str]:
    """A Ray on this machine that listens to nobody else; yields a scratch folder."""
    # The socket paths of Ray must stay under 107 characters, which a run folder deep in a home would break.
    with tempfile.TemporaryDirectory(prefix="nas-ray-") as scratch:
        try:
            _init(
                address="local",
                num_cpus=workers * (1 if places.ranks == 1 else 1 + places.ranks),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env={"env_vars": _WORKER_ENVIRONMENT},
                _node_ip_address="127.0.0.1",
                _temp_dir=scratch,
            )
            yield scratch
        finally:
            ray.shutdown()


@contextmanager
def _joined(address: str, run_dir: Path) -> Iterator[str]:
    """A cluster that others keep; yields a scratch folder that all nodes see."""
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=run_dir) as scratch:
        try:
            if address != "auto":
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()  # Ray tries for minutes
            _init(address=address, runtime_env={"env_vars": _WORKER_ENVIRONMENT | OF_WORKERS})
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"--address: cannot join a Ray cluster at {address!r}: {error}") from error
        try:
            yield scratch
        finally:
            ray.shutdown()


def _init(**settings: Any) -> None:
    # Ray swaps a loopback address for the machine's own and would listen to the network.
    services.resolve_ip_for_localhost = lambda host: host
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own, which would exit without a word


def _head() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _refuse_another_device(wanted: str | None, device: str) -> None:
    """NodesError where a study goes on that was measured on another kind of device than this machine's."""
    if wanted is not None and (here := device_kind(device)) != wanted:
        raise NodesError(f"the study was measured on {wanted}, here is {here}: their numbers do not mix")


def _sweep(loop: StudyLoop, checkpoints: Path) -> None:
    """Removes what a killed session left: half-written files, and checkpoints of trials that are over."""

    def forget(under_way: Collection[str]) -> None:
        wanted = {checkpoint_path(checkpoints, arch_id) for arch_id in under_way}
        for path in checkpoints.iterdir():
            if path not in wanted and not path.name.startswith("."):
                path.unlink(missing_ok=True)

    loop.sweep(forget)


def _run(loop: StudyLoop, site: Site, time_limit_s: float | None, stages: Stages) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is in the records
    errors: list[StoreError] = []
    watch = Watch(time_limit_s)
    tuner = tune.Tuner(
        ArchTrainable,
        tune_config=tune.TuneConfig(
            search_alg=Asker(loop, site.places, site.room, stages, errors),
            scheduler=Gate(loop, site.places, site.room, watch.why_lost, errors),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(storage_path=site.places.scratch, name="trials", verbose=0, callbacks=[watch]),
    )
    try:
        tuner.fit()
    except Exception:
        if errors:
            raise errors[0] from None
        raise
