"""``python -m nas.profile``: what a backbone costs on this machine, stage by stage; runtimes; a sample of a space.

python -m nas.profile --arch eradio
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from backbones import resolve
from nas.cli import FAILED, INTERRUPTED, clock, exit_code, report_error
from nas.measure.service import MeasurementService
from nas.profile.arguments import ProfileCommand, parse
from nas.profile.network import profiling
from nas.profile.profiles import NetworkSettings, Profile
from nas.profile.runtime_comparison import RuntimeSettings, RuntimesProfile, comparing
from nas.profile.runtime_tables import show_runtimes
from nas.profile.space_sample import SpaceProfile, SpaceRequest, sampling
from nas.profile.tables import show, show_space
from nas.study.redaction import public_text

Found = TypeVar("Found")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`; what was found before an error is shown.

    1 also where a network could not be measured.
    """
    return exit_code(lambda: _command(argv), public_text, "nothing was known yet")


def _command(argv: Sequence[str] | None) -> int:
    command = parse(argv)
    if command.threads:
        torch.set_num_threads(command.threads)
    if isinstance(command.settings, SpaceRequest):
        return _space(command, command.settings)
    if isinstance(command.settings, RuntimeSettings):
        return _runtimes(command, command.settings)
    return _networks(command, command.settings)


class TimeLeftColumn(ProgressColumn):
    """Counts down to the task's `deadline`, in seconds of the monotonic clock."""

    def render(self, task: Task) -> Text:
        """Show the time that is left, and the time spent."""
        left_s = max(0.0, task.fields["deadline"] - time.monotonic())
        return Text(f"ETA {clock(left_s)}, elapsed {clock(task.elapsed or 0.0)}", style="dim")


class ProfileProgress:
    """One line with the current step and the seconds that are left; silent where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeLeftColumn(), console=console, transient=True
        )
        self._task = self._bars.add_task("", deadline=0.0)

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the line while the body runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._bars:
            yield

    def __call__(self, what: str, left_s: float) -> None:
        """Show a new step, and the seconds that are left from now on."""
        self._bars.update(self._task, description=what, deadline=time.monotonic() + left_s)


def _networks(command: ProfileCommand, settings: NetworkSettings) -> int:
    for arch in (*command.archs, settings.reference):
        _check(arch)
    profiles: list[Profile] = []

    def steps(
        arch: str, service: MeasurementService, progress: ProfileProgress, networks_left: int
    ) -> Iterator[Profile]:
        later_s = settings.planned_s * networks_left
        return profiling(arch, settings, service, lambda what, s: progress(what, s + later_s))

    code = _one_by_one(command.archs, steps, profiles)
    if command.json:
        plain = [p.to_dict() for p in profiles]
        _print_json(plain[0] if len(command.archs) == 1 else {"profiles": plain})
    else:
        show(profiles, settings, Console(), command.layers, command.top)
    _warn([f"{p.arch}: {m}" for p in profiles for m in p.missing] + list(command.archs[len(profiles) :]))
    if command.plot:
        from nas.profile.plots import plot_networks  # matplotlib takes a second to import

        plot_networks(profiles, command.plot)
    return code or (FAILED if any(p.failure for p in profiles) else 0)


def _runtimes(command: ProfileCommand, settings: RuntimeSettings) -> int:
    for arch in command.archs:
        _check(arch)
    profiles: list[RuntimesProfile] = []

    def steps(
        arch: str, service: MeasurementService, progress: ProfileProgress, networks_left: int
    ) -> Iterator[RuntimesProfile]:
        later_s = settings.seconds * len(settings.arms) * networks_left
        return comparing(arch, settings, service, lambda what, s: progress(what, s + later_s))

    code = _one_by_one(command.archs, steps, profiles)
    if command.json:
        arms = {name: str(arm) for name, arm in settings.arms.items()}
        _print_json({"arms": arms, "profiles": [p.to_dict() for p in profiles]})
    else:
        show_runtimes(profiles, settings, Console())
    _warn([f"{p.arch}: {m}" for p in profiles for m in p.missing] + list(command.archs[len(profiles) :]))
    if command.plot:
        from nas.profile.plots import plot_runtimes

        plot_runtimes(profiles, settings.base, command.plot)
    return code or (FAILED if any(p.failed for p in profiles) else 0)


def _space(command: ProfileCommand, request: SpaceRequest) -> int:
    _check(request.reference)
    profiles: list[SpaceProfile] = []

    def work(progress: ProfileProgress) -> None:
        with MeasurementService(torch.get_num_threads()) if request.seconds else nullcontext() as service:
            for step in sampling(request, service, progress):
                profiles[:] = [step]

    code = _run(work, profiles)
    (profile,) = profiles
    if command.json:
        _print_json(profile.to_dict())
    else:
        show_space(profile, Console())
    _warn(profile.missing)
    if command.plot:
        from nas.profile.plots import plot_space

        plot_space(profile, command.plot)
    nothing = profile.failed and not profile.values("ratio")
    return code or (FAILED if nothing else 0)


def _one_by_one(
    archs: Sequence[str],
    steps: Callable[[str, MeasurementService, ProfileProgress, int], Iterator[Found]],
    profiles: list[Found],
) -> int:
    """Profile one network after the other; keep in `profiles` what is known of each.

    steps: Profiles of an architecture after each step; its last argument is how many networks come later.
    """

    def work(progress: ProfileProgress) -> None:
        with MeasurementService(torch.get_num_threads()) as service:
            for done, arch in enumerate(archs):
                for step in steps(arch, service, progress, len(archs) - done - 1):
                    profiles[done:] = [step]

    return _run(work, profiles)


def _check(arch: str) -> None:
    """Build the network without memory: an unknown name is better known now than after an hour of timing."""
    with torch.device("meta"), suppress(RuntimeError, NotImplementedError):  # some networks compute while being built
        resolve(arch)


def _run(work: Callable[[ProfileProgress], None], profiles: Sequence[object]) -> int:
    """Do the work; return the exit code where it ends early with something in `profiles`, else raise its error."""
    progress = ProfileProgress(Console(stderr=True))
    try:
        with progress.showing():
            work(progress)
    except KeyboardInterrupt:
        if not profiles:
            raise
        return INTERRUPTED
    except (ValueError, RuntimeError) as error:
        if not profiles:
            raise
        return report_error(error)
    return 0


def _print_json(plain: Any) -> None:
    print(json.dumps(plain, indent=2))


def _warn(missing: Sequence[str]) -> None:
    if missing:
        print(f"partial; not done: {', '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
