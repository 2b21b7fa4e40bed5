"""``python -m nas.profile``: what a backbone costs on this machine, part by part; or a sample of a search space.

python -m nas.profile --arch eradio
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console

from backbones import resolve
from nas.command import BAD_INPUT, one_line
from nas.profiling.arguments import SAMPLES, SPACE_REFERENCES, options, settings
from nas.profiling.network import default_batch, profiling
from nas.profiling.progress import ProfileProgress
from nas.profiling.records import Profile
from nas.profiling.space import RESOLUTIONS, Request, SpaceProfile, sampling
from nas.profiling.space_table import show_space
from nas.profiling.tables import show

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, 2 after one line of error, or 130 after Ctrl-C; what was found until then is shown."""
    try:
        given = options(argv)
        return _networks(given) if given.arch else _space(given)
    except KeyboardInterrupt:
        print("interrupted before anything was known", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError, OverflowError, RecursionError, OSError) as error:  # RuntimeError: out of memory
        return _failed(error)


def _networks(given: argparse.Namespace) -> int:
    chosen = settings(given)
    for arch in (*given.arch, chosen.reference):
        _check(arch)
    profiles: list[Profile] = []

    def work(progress: ProfileProgress) -> None:
        for done, arch in enumerate(given.arch, start=1):
            others_s = chosen.planned_s * (len(given.arch) - done)
            for step in profiling(arch, chosen, lambda what, s, others_s=others_s: progress(what, s + others_s)):  # type: ignore[misc]
                profiles[done - 1 :] = [step]

    code = _run(work, profiles)
    if given.json:
        plain = [p.to_dict() for p in profiles]
        print(json.dumps(plain[0] if len(given.arch) == 1 else {"profiles": plain}, indent=2))
    else:
        show(profiles, Console(), bool(given.layers), given.top)
    _warn([f"{p.arch}: {m}" for p in profiles for m in p.missing] + given.arch[len(profiles) :])
    if given.plot:
        from nas.profiling.plots import plot_networks  # matplotlib takes a second to import

        plot_networks(profiles, Path(given.plot))
    return code


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
        precision=given.precision,
        seconds=given.seconds,
        reference=given.reference or SPACE_REFERENCES[given.space],
    )
    _check(request.reference)
    profiles: list[SpaceProfile] = []

    def work(progress: ProfileProgress) -> None:
        for step in sampling(request, progress):
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
    return code


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
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    print(f"error: {one_line(error)[:500]}", file=sys.stderr)
    return BAD_INPUT


def _warn(missing: Sequence[str]) -> None:
    if missing:
        print(f"partial; not done: {', '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
