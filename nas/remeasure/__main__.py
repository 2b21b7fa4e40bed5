"""``backbone-nas remeasure RUN --device cuda:0``: measure candidates of a study again, and show the changes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cli import command_line, exit_code
from nas.remeasure.arguments import parse, parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; after Ctrl-C it shows the measurements, which the study keeps."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        from nas.storage.location import StudyLocation  # imports optuna: not for --help

        StudyLocation.of(settings.run)  # raises where there is no study
        from nas.remeasure.command import (
            remeasure,
        )  # imports what takes seconds, as torch: not for --help or a bad flag

        return remeasure(settings, command_line("remeasure", words))

    return exit_code(
        work,
        "finished measurements are saved; run the same command again without --overwrite to continue",
    )


if __name__ == "__main__":
    raise SystemExit(main())
