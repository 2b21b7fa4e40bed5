"""``backbone-nas plan``: predict the cost of a search by a short probe and a simulation, or run its pilot.

A plan keeps nothing but images that it had to download and indexes of tar shards, which the search then finds; a pilot
keeps its trainings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from nas.cli import FAILED, command_line, exit_code
from nas.machine import check_cache
from nas.plan.arguments import PlanSettings, parse, parser
from nas.redaction import public_word
from nas.search.preconditions import check_limits, check_sources
from nas.stage_progress import StageProgress
from nas.study.teacher_names import check_teacher_names
from nas.terminal import stderr_console, stdout_console, write_line

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    kept = "the pilot's folder keeps what was trained; run the same command again to continue"
    return exit_code(lambda: _run(words), kept if "--pilot" in words else "nothing was written")


def _run(words: Sequence[str]) -> int:
    settings = parse(words)
    if settings.pilot:
        return _pilot(settings, command_line("plan", [public_word(word) for word in words]))
    return _plan(settings)


def _pilot(settings: PlanSettings, command: str) -> int:
    check_sources(settings.config.data, settings.config.teachers, settings.weights)
    check_cache(settings.cache)
    if settings.config.limits:
        check_limits(settings.config)
    from nas.plan.pilot import pilot_json, run_pilot, show_pilot  # imports torch: after the arguments are checked

    progress = StageProgress(stderr_console())
    with progress.showing():
        pilot = run_pilot(settings, command, progress)
    if settings.json:
        write_line(json.dumps(pilot_json(pilot)))
    else:
        show_pilot(pilot, stdout_console())
    return FAILED if pilot.failed else 0


def _plan(settings: PlanSettings) -> int:
    if settings.here:
        check_sources(settings.config.data, settings.config.teachers, settings.weights)
    else:
        check_teacher_names(settings.config.teachers, settings.weights)
    from nas.plan.search_plan import plan_search  # imports torch: after the arguments are checked
    from nas.plan.tables import as_json, show

    progress = StageProgress(stderr_console())
    with progress.showing():
        plan = plan_search(settings, progress)
    if settings.json:
        write_line(json.dumps(as_json(plan)))
    else:
        show(plan, stdout_console())
    return FAILED if plan.planned.fits == 0 else 0


if __name__ == "__main__":
    raise SystemExit(main())
