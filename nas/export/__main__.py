"""``backbone-nas export RUN --format timm``: write a trained model of a study as a folder for other users."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cli import command_line, exit_code
from nas.export.arguments import check_installed, parse, parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        check_installed(settings.format)
        from nas.storage.location import StudyLocation  # imports optuna: not for --help

        StudyLocation.of(settings.run)  # raises where there is no study
        from nas.export.command import export  # imports what takes seconds, as torch: not for --help or a bad flag

        return export(settings, command_line("export", words))

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
