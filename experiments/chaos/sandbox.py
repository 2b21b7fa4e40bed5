"""The sandbox of one episode: processes, temporary files, shared memory and home of its own.

Its first process is a shell, which reaps orphans; all end with it. Needs Linux and root, as in a container.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CGROUPS = Path("/sys/fs/cgroup/memory")
_FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
RUN_MIB = 256  # of the file system of the run folder


class NoSandbox(RuntimeError):
    """No sandbox can be made here; the message says why."""


def command(words: list[str]) -> list[str]:
    """Return the command that runs a command in new namespaces."""
    namespaces = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    return [*namespaces, "bash", "-c", '"$@"; exit $?', "bash", *words]


def check(work: Path = Path("/var/tmp")) -> None:
    """Raise NoSandbox where `command` does not work, or where the sandbox would hide its own folder."""
    if work.resolve().is_relative_to("/tmp"):
        raise NoSandbox(f"--work: {str(work)!r} is in /tmp, over which a sandbox mounts a folder of its own")
    if sys.platform != "linux" or shutil.which("unshare") is None:
        raise NoSandbox("a sandbox needs Linux and the program unshare (package util-linux)")
    tried = subprocess.run(command(["true"]), capture_output=True, text=True)
    if tried.returncode or os.getuid():
        raise NoSandbox(f"a sandbox needs root: {tried.stderr.strip() or 'run in a container, or with sudo'}")


@dataclass(frozen=True)
class Sandbox:
    """The folders of an episode, mounted by `enter`."""

    folder: Path

    @property
    def run(self) -> Path:
        """Return the run folder, on a small file system of its own."""
        return self.folder / "disk" / "run"

    @property
    def cache(self) -> Path:
        """Return the cache folder."""
        return self.folder / "cache"

    @property
    def clock(self) -> Path:
        """Return the file that sets the clock of the episode's processes."""
        return self.folder / "clock"

    @property
    def faults(self) -> Path:
        """Return the folder of `hooks/sitecustomize.py`."""
        return self.folder / "faults"

    @property
    def foreign(self) -> list[Path]:
        """Return the folders in which a search has nothing to write but its session."""
        return [self.folder / "home", self.folder / "cwd", Path("/tmp"), Path("/dev/shm")]

    def enter(self) -> None:
        """Mount the folders; only for a process that `command` has started."""
        for name in ("home", "cwd", "tmp", "cache", "faults", "disk"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.clock.write_text("+0\n")
        (self.folder / "tmp").chmod(0o1777)
        _run("mount", "--make-rprivate", "/")
        _run("mount", "--bind", str(self.folder / "tmp"), "/tmp")
        _run("mount", "-t", "tmpfs", "-o", "size=2g", "shm", "/dev/shm")
        _run("mount", "-t", "tmpfs", "-o", f"size={RUN_MIB}m", "disk", str(self.folder / "disk"))

    def environment(self, drifting: bool = False) -> dict[str, str]:
        """Return the environment of the episode's commands."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        more = {
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "hooks"), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CHAOS_FAULTS": str(self.faults),
            "BACKBONE_NAS_CHECKPOINT_S": "0.3",
            "COLUMNS": "200",
        }
        if drifting:
            more |= {
                "LD_PRELOAD": faketime(),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        return kept | more


def faketime() -> str:
    """Return the library that falsifies the clock; NoSandbox where it is not installed."""
    for path in Path("/").glob(_FAKETIME.lstrip("/")):
        return str(path)
    raise NoSandbox("libfaketime is not installed (apt install faketime)")


def starve(pid: int, mib: int) -> bool:
    """Let a process have `mib` MiB of new memory, after which the kernel kills it; False where cgroups do not serve."""
    group = _CGROUPS / f"chaos-{os.getpid()}-{pid}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(mib << 20))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        return False
    return True


def sweep_cgroups() -> None:
    """Delete the groups of dead processes."""
    for group in _CGROUPS.glob("chaos-*"):
        with suppress(OSError):
            group.rmdir()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise NoSandbox(f"{' '.join(words)}: {done.stderr.strip()}")
