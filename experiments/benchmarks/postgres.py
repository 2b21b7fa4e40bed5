"""Run a temporary PostgreSQL server on loopback that can be killed and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PASSWORD = "not-for-the-folder"
_START_S = 240.0  # ends a server that never answers
_DEBIAN = Path("/usr/lib/postgresql")


class NoServer(RuntimeError):
    """PostgreSQL cannot be started here; the message says why."""


class Server:
    """A running server; the role `nas` with `PASSWORD` owns the database `nas`."""

    def __init__(self, folder: Path) -> None:
        self._bin = binaries()
        self._user = _unprivileged()
        self._folder = folder
        if self._user:
            shutil.chown(folder, self._user["user"], self._user["group"])
        (secret := folder / "secret").write_text(PASSWORD)
        secret.chmod(0o644)  # the server that it opens lives for a minute
        self._data = folder / "data"
        options = ["--no-sync", "--username=nas", "--auth=scram-sha-256", f"--pwfile={secret}", "-D", str(self._data)]
        self._run("initdb", *options)
        self._reserved = socket.socket()  # as long as it is bound, nobody else is given the port; nothing listens on it
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]
        self._process = self._launch()
        self._wait()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "nas", "nas", env=self.env)

    @property
    def url(self) -> str:
        """Return the URL without the password."""
        return f"postgresql://nas@127.0.0.1:{self.port}/nas"

    @property
    def env(self) -> dict[str, str]:
        """Return the environment of a client, with the password."""
        return {**os.environ, "PGPASSWORD": PASSWORD}

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL; its children then end by themselves."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def start(self) -> None:
        """Start the server again after `kill`."""
        self._process = self._launch()
        self._wait()

    def _wait(self) -> None:
        """Wait until the server answers; restart it while children of a killed one hold its memory."""
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        end_s = time.monotonic() + _START_S
        while time.monotonic() < end_s:
            if subprocess.run(ready).returncode == 0:
                return
            if self._process.poll() is not None:
                self._process = self._launch()
            time.sleep(0.1)
        raise NoServer((self._folder / "log").read_text()[-500:])

    def stop(self) -> None:
        """Stop the server at once, for good."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        self._reserved.close()

    def dump(self) -> str:
        """Return the whole database as SQL; this reads every row of every table."""
        return self._run("pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", "nas", "nas", env=self.env)

    def check(self) -> None:
        """Check all tables and indexes with pg_amcheck; NoServer where one is damaged."""
        words = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "nas", "--install-missing", "--heapallindexed", "nas"]
        self._run("pg_amcheck", *words, env=self.env)

    def _launch(self) -> subprocess.Popen[bytes]:
        words = ["-D", self._data, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        command = [self._bin / "postgres", *words, "-c", "unix_socket_directories="]
        with (self._folder / "log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._user)

    def _run(self, name: str, *words: str, **how: Any) -> str:
        process = subprocess.run(
            [self._bin / name, *words], capture_output=True, text=True, cwd=self._folder, **how, **self._user
        )
        if process.returncode:
            raise NoServer(f"{name}: {process.stderr.strip() or process.stdout.strip()}")
        return process.stdout


def binaries() -> Path:
    """Return the folder of the newest PostgreSQL here; NoServer where there is none."""
    installed = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not installed and on_path is None:
        raise NoServer("PostgreSQL is not installed (apt install postgresql)")
    return installed[-1].parent if installed else Path(str(on_path)).resolve().parent


def _unprivileged() -> dict[str, Any]:
    """Return arguments of Popen for a user other than root, whom PostgreSQL rejects."""
    if os.getuid():
        return {}
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        raise NoServer("PostgreSQL does not run as root, and there is no user postgres") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextmanager
def server() -> Iterator[Server]:
    """Yield a server that is removed after the body; NoServer where none can be started."""
    binaries()
    with tempfile.TemporaryDirectory(prefix="nas-postgres-") as folder:
        running = Server(Path(folder))
        try:
            yield running
        finally:
            running.stop()
