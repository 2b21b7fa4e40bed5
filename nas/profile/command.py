"""Measure the cost of backbones, their stages and runtimes, or sample a search space."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from backbones import resolve
from nas.cli import FAILED, INTERRUPTED, report_error
from nas.measure.allocator import keep_freed_memory
from nas.measure.environment import check_compute_mode
from nas.measure.service import MeasurementService
from nas.numbers import clock
from nas.profile.arguments import ProfileSettings
from nas.profile.network import profile_network
from nas.profile.network_tables import show_networks
from nas.profile.profiles import Profile, planned_s
from nas.profile.runtime_comparison import RuntimesProfile, compare_runtimes
from nas.profile.runtime_tables import show_runtimes
from nas.profile.space_sample import SpaceProfile, sample_space
from nas.profile.space_tables import show_space
from nas.terminal import stderr_console, stdout_console, write_line

LINE_S = 10.0  # between two progress lines of one kind without a terminal

Result = TypeVar("Result")
Report = Callable[[str, float], None]  # (step, seconds that are left)


def profile(settings: ProfileSettings) -> int:
    """Run the command and return its exit code, which is 1 also where a network could not be measured.

    Results from before an error or an interruption are printed.

    Raises:
        DeviceError: The GPU takes one process, but a second one measures.
    """
    keep_freed_memory()  # stages, layers and sweeps are timed in this process
    if settings.measure_seconds or not settings.space:  # else a sample is counted only
        check_compute_mode(str(settings.torch_device))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.space:
        return _space(settings)
    return _runtimes(settings) if settings.runtimes else _networks(settings)


class TimeLeftColumn(ProgressColumn):
    """A column that counts down to the task's `deadline`, in seconds of the monotonic clock."""

    def render(self, task: Task) -> Text:
        """Return the time that is left, and the time spent."""
        left_s = max(0.0, task.fields["deadline"] - time.monotonic())
        return Text(f"ETA {clock(left_s)}, elapsed {clock(task.elapsed or 0.0)}", style="dim")


class ProfileProgress:
    """A progress line with the current step and the time that is left.

    Without a terminal each step is a line with `lines`; steps in a row that differ in numbers only are one every
    `LINE_S` seconds.
    """

    def __init__(self, console: Console, lines: bool = False) -> None:
        self._console = console
        self._lines = lines and not console.is_terminal
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeLeftColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bars.add_task("", deadline=0.0)
        self._last_line = ("", 0.0)  # its step without numbers, and its time

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the line while the body runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._bars:
            yield

    def __call__(self, step: str, left_s: float) -> None:
        """Show a new step and the seconds that are left."""
        now = time.monotonic()
        self._bars.update(self._task, description=step, deadline=now + left_s)
        kind, (last, printed_s) = re.sub(r"\d+", "", step), self._last_line
        if self._lines and (kind != last or now - printed_s >= LINE_S):
            self._last_line = kind, now
            self._console.print(f"{step}; ETA {clock(left_s)}", soft_wrap=True)


def _networks(settings: ProfileSettings) -> int:
    for arch in (*settings.archs, settings.against):
        _check(arch)
    profiles: list[Profile] = []

    def steps(arch: str, service: MeasurementService, progress: Report) -> Iterator[Profile]:
        return profile_network(arch, settings, service, progress)

    code = _one_by_one(settings.archs, steps, planned_s(settings), profiles)
    if settings.json:
        plain = [p.to_dict() for p in profiles]
        _print_json(plain[0] if len(settings.archs) == 1 else {"profiles": plain})
    else:
        show_networks(profiles, settings, stdout_console())
    _warn([f"{p.arch}: {m}" for p in profiles for m in p.missing] + list(settings.archs[len(profiles) :]))
    if settings.plot:
        from nas.profile.plots import plot_networks  # matplotlib takes a second to import

        _say_plotted(plot_networks(profiles, settings.plot), settings.plot)
    return code or (FAILED if any(p.failure for p in profiles) else 0)


def _runtimes(settings: ProfileSettings) -> int:
    for arch in settings.archs:
        _check(arch)
    profiles: list[RuntimesProfile] = []

    def steps(arch: str, service: MeasurementService, progress: Report) -> Iterator[RuntimesProfile]:
        return compare_runtimes(arch, settings, service, progress)

    code = _one_by_one(settings.archs, steps, settings.seconds * len(settings.arms()), profiles)
    if settings.json:
        arms = {name: str(arm) for name, arm in settings.arms().items()}
        _print_json({"arms": arms, "profiles": [p.to_dict() for p in profiles]})
    else:
        show_runtimes(profiles, settings, stdout_console())
    _warn([f"{p.arch}: {m}" for p in profiles for m in p.missing] + list(settings.archs[len(profiles) :]))
    if settings.plot:
        from nas.profile.plots import plot_runtimes

        _say_plotted(plot_runtimes(profiles, settings.arm, settings.plot), settings.plot)
    return code or (FAILED if any(p.failed for p in profiles) else 0)


def _space(settings: ProfileSettings) -> int:
    _check(settings.against)
    profiles: list[SpaceProfile] = []

    def work(progress: ProfileProgress) -> None:
        with MeasurementService(torch.get_num_threads()) if settings.measure_seconds else nullcontext() as service:
            for profile in sample_space(settings, service, progress):
                profiles[:] = [profile]

    code = _run(work, profiles)
    (profile,) = profiles
    if settings.json:
        _print_json(profile.to_dict())
    else:
        show_space(profile, stdout_console())
    _warn(profile.missing)
    if settings.plot:
        from nas.profile.plots import plot_space

        _say_plotted(plot_space(profile, settings.plot), settings.plot)
    none_measured = profile.failed and not profile.values("ratio")
    return code or (FAILED if none_measured else 0)


def _one_by_one(
    archs: Sequence[str],
    steps: Callable[[str, MeasurementService, Report], Iterator[Result]],
    each_s: float,
    profiles: list[Result],
) -> int:
    """Profile one network after the other and return the exit code.

    Args:
        archs: Networks to profile.
        steps: Returns the profiles of a network after each step.
        each_s: Seconds that a network takes at most.
        profiles: List that receives the latest profile of each network.
    """

    def work(progress: ProfileProgress) -> None:
        with MeasurementService(torch.get_num_threads()) as service:
            for done, arch in enumerate(archs):
                number = f"network {done + 1} of {len(archs)}: " if len(archs) > 1 else ""
                report = _report(progress, number, each_s * (len(archs) - done - 1))
                for profile in steps(arch, service, report):
                    profiles[done:] = [profile]

    return _run(work, profiles, lines=len(archs) > 1)


def _report(progress: ProfileProgress, number: str, later_s: float) -> Report:
    """Return a function that reports a step of one network: with its number, and the time of those that follow."""
    return lambda step, left_s: progress(number + step, left_s + later_s)


def _check(arch: str) -> None:
    """Raise the error of an unknown network now, not after an hour of timing others."""
    with torch.device("meta"), suppress(RuntimeError, NotImplementedError):  # some networks compute while being built
        resolve(arch)


def _run(work: Callable[[ProfileProgress], None], profiles: Sequence[object], lines: bool = False) -> int:
    """Do the work and return the exit code; raise its error only where `profiles` is empty."""
    progress = ProfileProgress(stderr_console(), lines)
    try:
        with progress.showing():
            work(progress)
    except KeyboardInterrupt:
        if not profiles:
            raise
        return INTERRUPTED
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        if not profiles:
            raise
        return report_error(error)
    return 0


def _print_json(plain: Any) -> None:
    write_line(json.dumps(plain, indent=2))


def _say_plotted(drawn: bool, path: Path) -> None:
    """Say where no picture was written, so that an older file is not taken for the new one."""
    if not drawn:
        write_line(f"--plot: {path} was not written: nothing was measured that a picture shows", sys.stderr)


def _warn(missing: Sequence[str]) -> None:
    if missing:
        write_line(f"incomplete; not measured: {', '.join(missing)}", sys.stderr)
