"""``backbone-nas doctor``: check this machine: what will not work on it, and how to fix it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cli import exit_code
from nas.doctor.arguments import parse, parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 where a search can run, 1 where it cannot, 2 for wrong use."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        from nas.doctor.command import examine  # imports torch, which takes seconds: not for --help or a bad flag

        return examine(settings)

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
