"""``backbone-nas race RUN``: race the candidates of a finished search at the length at which it matters."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cli import command_line, exit_code
from nas.race.arguments import parse, parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        from nas.storage.location import StudyLocation  # imports optuna: not for --help

        StudyLocation.of(settings.run)  # raises where there is no study
        from nas.race.command import race  # imports what takes seconds, as torch: not for --help or a bad flag

        return race(settings, command_line("race", words))

    return exit_code(work, "the study keeps what is trained; run the same command again to continue")


if __name__ == "__main__":
    raise SystemExit(main())
