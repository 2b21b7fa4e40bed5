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
from nas.plan.arguments import PilotSettings, PlanSettings, parse, parser
from nas.redaction import public_word
from nas.search.preconditions import check_limits, check_sources
from nas.stage_progress import StageProgress
from nas.study.teacher_names import check_teacher_names
from nas.terminal import stderr_console, stdout_console, write_line

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    pilots: list[PilotSettings] = []

    def work() -> int:
        settings = parse(words)
        if isinstance(settings, PlanSettings):
            return _plan(settings)
        pilots.append(settings)
        return _pilot(settings, command_line("plan", [public_word(word) for word in words]))

    return exit_code(work, lambda: _after_interruption(pilots))


def _after_interruption(pilots: Sequence[PilotSettings]) -> str:
    if not pilots:
        return "nothing was written"
    from nas.plan.pilot_trainings import kept_words

    return kept_words(pilots[0])


def _pilot(settings: PilotSettings, command: str) -> int:
    check_sources(settings.config.data, settings.config.teachers, settings.weights)
    check_cache(settings.cache)
    if settings.config.limits:
        check_limits(settings.config)
    from nas.plan.pilot import run_pilot  # imports torch, which takes seconds: after the arguments are checked
    from nas.plan.pilot_tables import pilot_json, show_pilot

    progress = StageProgress(stderr_console())
    with progress.showing():
        pilot = run_pilot(settings, command, progress)
    if settings.plot is not None:
        from nas.plan.plots import plot_pilot  # matplotlib takes a second to import

        plot_pilot(pilot, settings.plot)
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
    from nas.plan.search_plan import plan_search  # imports torch, which takes seconds: after the arguments are checked
    from nas.plan.tables import as_json, public_settings, show

    progress = StageProgress(stderr_console())
    with progress.showing():
        plan = plan_search(settings, progress)
    if settings.plot is not None:
        from nas.plan.plots import gantt  # matplotlib takes a second to import

        gantt(plan.planned.simulated, settings.plot)
    if settings.json:
        write_line(json.dumps(as_json(plan, public_settings(settings.config))))
    else:
        show(plan, stdout_console())
    return FAILED if plan.planned.fits == 0 else 0


if __name__ == "__main__":
    raise SystemExit(main())
