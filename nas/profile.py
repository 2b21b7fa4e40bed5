"""``python -m nas.profile``: what a backbone costs on this machine, part by part; ways to run it; a sample of a space.

python -m nas.profile --arch eradio
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console

from backbones import resolve
from nas.bench import Bench
from nas.command import FAILED, INTERRUPTED, exit_code, report_error
from nas.profiling.arguments import SAMPLES, SPACE_REFERENCES, arm_settings, options, settings
from nas.profiling.arm_table import show_arms
from nas.profiling.arms import ArmsProfile, comparing
from nas.profiling.network import default_batch, profiling
from nas.profiling.progress import ProfileProgress
from nas.profiling.records import Profile
from nas.profiling.space import RESOLUTIONS, Request, SpaceProfile, sampling
from nas.profiling.space_table import show_space
from nas.profiling.tables import show

Found = TypeVar("Found")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.command`; what was found before an error is shown.

    1 also where a network could not be measured.
    """
    return exit_code(lambda: _command(argv), "nothing was known yet")


def _command(argv: Sequence[str] | None) -> int:
    given = options(argv)
    if given.space:
        return _space(given)
    return _networks(given) if given.arms is None else _arms(given)


def _networks(given: argparse.Namespace) -> int:
    chosen = settings(given)
    for arch in (*given.arch, chosen.reference):
        _check(arch)
    profiles: list[Profile] = []

    def steps(arch: str, bench: Bench, progress: ProfileProgress, others: int) -> Iterator[Profile]:
        others_s = chosen.planned_s * others
        return profiling(arch, chosen, bench, lambda what, s: progress(what, s + others_s))

    code = _one_by_one(given.arch, steps, profiles)
    if given.json:
        plain = [p.to_dict() for p in profiles]
        print(json.dumps(plain[0] if len(given.arch) == 1 else {"profiles": plain}, indent=2))
    else:
        show(profiles, chosen, Console(), bool(given.layers), given.top)
    _warn([f"{p.arch}: {m}" for p in profiles for m in p.missing] + given.arch[len(profiles) :])
    if given.plot:
        from nas.profiling.plots import plot_networks  # matplotlib takes a second to import

        plot_networks(profiles, Path(given.plot))
    return code or (FAILED if any(p.failure for p in profiles) else 0)


def _arms(given: argparse.Namespace) -> int:
    chosen = arm_settings(given)
    for arch in given.arch:
        _check(arch)
    profiles: list[ArmsProfile] = []

    def steps(arch: str, bench: Bench, progress: ProfileProgress, others: int) -> Iterator[ArmsProfile]:
        others_s = chosen.seconds * len(chosen.arms) * others
        return comparing(arch, chosen, bench, lambda what, s: progress(what, s + others_s))

    code = _one_by_one(given.arch, steps, profiles)
    if given.json:
        arms = {name: str(arm) for name, arm in chosen.arms.items()}
        print(json.dumps({"arms": arms, "profiles": [p.to_dict() for p in profiles]}, indent=2))
    else:
        show_arms(profiles, chosen, Console())
    _warn([f"{p.arch}: {m}" for p in profiles for m in p.missing] + given.arch[len(profiles) :])
    if given.plot:
        from nas.profiling.arm_plot import plot_arms

        plot_arms(profiles, chosen.base, Path(given.plot))
    return code or (FAILED if any(p.failed for p in profiles) else 0)


def _space(given: argparse.Namespace) -> int:
    resolution = given.resolution or RESOLUTIONS[given.space]
    request = Request(
        space=given.space,
        samples=given.samples or SAMPLES,
        seed=given.seed or 0,
        limits=given.limits,
        device=given.device,
        resolution=resolution,
        batch=given.batch or default_batch(given.device, resolution),
        arm=given.arm,
        seconds=given.seconds,
        reference=given.reference or SPACE_REFERENCES[given.space],
    )
    _check(request.reference)
    profiles: list[SpaceProfile] = []

    def work(progress: ProfileProgress) -> None:
        with Bench(torch.get_num_threads()) if request.seconds else nullcontext() as bench:
            for step in sampling(request, bench, progress):
                profiles[:] = [step]

    code = _run(work, profiles)
    if given.json:
        print(json.dumps(profiles[0].to_dict(), indent=2))
    else:
        show_space(profiles[0], Console())
    _warn(profiles[0].missing)
    if given.plot:
        from nas.profiling.plots import plot_space

        plot_space(profiles[0], Path(given.plot))
    nothing = profiles[0].failed and not profiles[0].values("ratio")
    return code or (FAILED if nothing else 0)


def _one_by_one(
    archs: Sequence[str], steps: Callable[[str, Bench, ProfileProgress, int], Iterator[Found]], found: list[Found]
) -> int:
    """Keeps in `found` what is known of each network. steps: of an arch, with how many come after it."""

    def work(progress: ProfileProgress) -> None:
        with Bench(torch.get_num_threads()) as bench:
            for done, arch in enumerate(archs):
                for step in steps(arch, bench, progress, len(archs) - done - 1):
                    found[done:] = [step]

    return _run(work, found)


def _check(arch: str) -> None:
    """A name that means nothing is better known now than after an hour of timing: builds it without memory."""
    with torch.device("meta"), suppress(RuntimeError, NotImplementedError):  # some networks compute while being built
        resolve(arch)


def _run(work: Callable[[ProfileProgress], None], found: Sequence[object]) -> int:
    """Do the work; the exit code where it ends early after something was found, else its error is raised."""
    progress = ProfileProgress(Console(stderr=True))
    try:
        with progress.showing():
            work(progress)
    except KeyboardInterrupt:
        if not found:
            raise
        return INTERRUPTED
    except (ValueError, RuntimeError) as error:
        if not found:
            raise
        return report_error(error)
    return 0


def _warn(missing: Sequence[str]) -> None:
    if missing:
        print(f"partial; not done: {', '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
