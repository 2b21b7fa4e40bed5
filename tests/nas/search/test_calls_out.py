"""A local search reaches for nothing beyond this machine: a trace of its system calls."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.machine, pytest.mark.ray, pytest.mark.slow]

# The addresses of internet sockets in the arguments of a call, as strace writes them.
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
_CALLS = "connect,bind,listen,sendto,sendmsg,sendmmsg"
SMALL = ["--budget", "1", "--rung-steps", "6,12", "--train-images", "256", "--val-images", "64", "--workers", "1"]
SMALL += ["--measure-seconds", "0.3", "--distill", "precision=fp32", "--sampler", "random", "--device", "cpu"]
SMALL += ["--no-race", "--baselines", "none"]


def addresses(trace: str) -> set[str]:
    """Return the internet addresses in a trace, without those of the loopback interface."""
    found = {v4 or v6.removeprefix("::ffff:") for v4, v6 in _ADDRESS.findall(trace)}
    return {address for address in found if not (address.startswith("127.") or address == "::1")}


def test_the_trace_is_read() -> None:
    trace = '1 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("8.8.8.8")}, 16) = 0\n'
    trace += '2 bind(4, {sa_family=AF_INET6, sin6_port=htons(0), inet_pton(AF_INET6, "::", &sin6_addr)}, 28) = 0\n'
    trace += '3 bind(4, {sa_family=AF_INET6, sin6_port=htons(0), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28) = 0\n'
    trace += '4 connect(3, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("127.0.0.1")}, 16) = 0\n'
    assert addresses(trace) == {"8.8.8.8", "::"}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_local_search_opens_nothing_beyond_loopback(tmp_path: Path) -> None:
    tracing = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={_CALLS}", "-o", str(tmp_path / "trace")]
    command = [sys.executable, "-m", "nas.search", *SMALL, "--run", str(tmp_path / "run")]
    done = subprocess.run(
        [*tracing, *command, "--cache", str(tmp_path / "cache")],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trace = (tmp_path / "trace").read_text(errors="replace")
    assert trace.count("127.0.0.1") > 50, "Ray's processes are in the trace"
    assert addresses(trace) == set()
