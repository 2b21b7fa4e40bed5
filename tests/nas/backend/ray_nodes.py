"""A real Ray cluster on the loopback interface: `ray start` once for each node, each with processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.nas.backend.processes import descendants
from tests.waiting import until

ROOT = Path(__file__).parents[3]
# Ray's own command would replace 127.0.0.1 for the machine's address and listen to the network.
_START = (
    "from ray._private import services; services.resolve_ip_for_localhost = lambda host: host; "
    "from ray.scripts.scripts import main; main()"
)
# By default nodes and drivers share no token: the cluster is on the loopback interface.
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a node or a driver that runs this tree."""
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT), **more}


class RayNodes:
    """A cluster whose head starts at once; drivers connect to `address`. It ends with the block.

    Args:
        cpus: CPUs of the head.
        variables: Change the head's environment.
    """

    def __init__(self, cpus: int = 1, **variables: str) -> None:
        # Short: the paths of Ray's sockets have an upper limit.
        self._folder = tempfile.TemporaryDirectory(prefix="rn-", ignore_cleanup_errors=True)
        self.nodes: list[subprocess.Popen[bytes]] = []
        temporary = f"--temp-dir={self._folder.name}/ray"
        self.start(["--head", "--port=0", "--include-dashboard=false", temporary], cpus, variables=variables)
        log = (Path(self._folder.name) / "0.log").read_text()
        (self.address,) = re.findall(r"ray start --address='([\d.:]+)'", log)

    def add(self, cpus: int = 1, before: Sequence[str] = (), **variables: str) -> subprocess.Popen[bytes]:
        """Start another node; `before` is a command that starts its command, `variables` change its environment."""
        return self.start([f"--address={self.address}"], cpus, before, variables)

    def start(
        self,
        arguments: Sequence[str],
        cpus: int,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a node and wait until it is up."""
        command = [*before, sys.executable, "-c", _START, "start", "--block", f"--num-cpus={cpus}"]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", *arguments]
        log = Path(self._folder.name) / f"{len(self.nodes)}.log"
        with log.open("wb") as file:
            node = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment(**variables or {}), start_new_session=True
            )
        self.nodes.append(node)
        until(lambda: "Ray runtime started" in log.read_text() or node.poll() is not None)
        if node.poll() is None:
            return node
        raise RuntimeError(f"ray start failed: {log.read_text()[-2000:]}")

    @staticmethod
    def kill(node: subprocess.Popen[bytes]) -> None:
        """Kill a node with its workers by SIGKILL."""
        for process in [node.pid, *descendants(node.pid)]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        node.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
        self._folder.cleanup()
