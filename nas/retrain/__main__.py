"""``backbone-nas retrain RUN``: retrain the front of a study, and show each candidate's chance to be on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cli import command_line, exit_code
from nas.retrain.arguments import parse, parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; after Ctrl-C it shows the finished trainings, which the study keeps."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        from nas.storage.location import StudyLocation  # imports optuna: not for --help

        StudyLocation.of(settings.run)  # raises where there is no study
        from nas.retrain.command import retrain  # imports what takes seconds, as torch: not for --help or a bad flag

        return retrain(settings, command_line("retrain", words))

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
