"""``backbone-nas plan``: predict the cost of a search by a short probe and a simulation. Nothing is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from nas.cli import FAILED, StageProgress, exit_code, stderr_console, stdout_console
from nas.plan.arguments import PlanSettings, parse, parser
from nas.search.preconditions import check_sources
from nas.study.redaction import public_text
from nas.study.teacher_names import check_teacher_names
from nas.terminal import write_line

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _plan(parse(words)), public_text, "nothing was written")


def _plan(settings: PlanSettings) -> int:
    if settings.here:
        check_sources(settings.config.data, settings.config.teachers, settings.weights)
    else:
        check_teacher_names(settings.config.teachers, settings.weights)
    from nas.plan.search_plan import plan_search  # imports torch, which takes seconds: after the arguments are checked
    from nas.plan.tables import as_json, show

    progress = StageProgress(stderr_console())
    with progress.showing():
        plan = plan_search(settings, progress)
    if settings.plot is not None:
        from nas.plan.plots import gantt  # matplotlib takes a second to import

        gantt(plan.planned.simulated, settings.plot)
    if settings.json:
        write_line(json.dumps(as_json(plan, settings.config.to_dict())))
    else:
        show(plan, stdout_console())
    return FAILED if plan.planned.fits == 0 else 0


if __name__ == "__main__":
    raise SystemExit(main())
