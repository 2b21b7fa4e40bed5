"""Show what this machine is; with ``--gpu``, test and measure it too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from nas.cli import FAILED
from nas.doctor.arguments import BenchmarkSettings, DoctorSettings
from nas.doctor.examination import Examination
from nas.doctor.findings import FAIL, OK, WARN, Finding
from nas.machine import cache_root
from nas.measure.devices import DeviceError, device_type
from nas.measure.forkserver import ForkServer
from nas.terminal import stdout_console, write_line
from search_space.timm_spec import check_arch

STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
INDENT = 6
PRELOADED = ("nas.measure.prepare", "nas.teachers.weights")  # what readings import that takes seconds


def examine(settings: DoctorSettings) -> int:
    """Run the command and return its exit code: 1 where a search cannot run, a test fails or a network has no time."""
    session = None
    if settings.benchmark:
        _check(settings.benchmark)
        from nas.doctor.gpu_session import GpuSession  # imports torch, which a look at the machine does without

        session = GpuSession.of(settings.benchmark)
    console = stdout_console()
    found = list(_shown(settings, console))
    fails = [finding.name for finding in found if finding.verdict == FAIL]
    printed: dict[str, Any] = {"can_search": not fails, "findings": [asdict(finding) for finding in found]}
    complete = True
    if session:
        complete = session.run(found, None if settings.json else console)
        printed["file"] = str(session.path)
    if settings.json:
        write_line(json.dumps(printed, indent=2))
    else:
        write_line(
            f"no search can run here until this is fixed: {', '.join(fails)}" if fails else "a search can run here"
        )
    return FAILED if fails or not complete else 0


def _check(benchmark: BenchmarkSettings) -> None:
    """Check the device and the networks now, and not after an hour.

    Raises:
        DeviceError: There is no such device, or no GPU.
        SpecError: There is no such network.
    """
    if device_type(benchmark.device) == "cpu" and benchmark.device == "auto":
        raise DeviceError("--gpu: PyTorch sees no GPU here; --device cpu measures the CPU in the same way")
    for arch in benchmark.archs:
        check_arch(arch)


def _shown(settings: DoctorSettings, console: Console) -> Iterator[Finding]:
    """Yield the findings of this machine, each after it was shown."""
    with ForkServer(PRELOADED) as server, ForkServer() as aside:
        for finding in Examination(settings.run, cache_root(settings.cache), server.run, aside.run).findings():
            if not settings.json:
                show_finding(finding, console)
            yield finding


def show_finding(finding: Finding, console: Console) -> None:
    """Print a finding: its verdict and value, then what it means and what to do."""
    first = Text.assemble((f"{finding.verdict:<{INDENT}}", STYLES[finding.verdict]), f"{finding.name}: {finding.value}")
    further = (("what it means", finding.effect), ("what to do", finding.remedy))
    for line in (first, *(Text(f"{'':{INDENT}}{label}: {text}") for label, text in further if text)):
        console.print(line, soft_wrap=True)
