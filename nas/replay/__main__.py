"""``backbone-nas replay``: compare samplers by replaying searches on published results."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cli import command_line, exit_code
from nas.replay.arguments import parse, parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        from nas.replay.command import replay  # imports what takes seconds, as torch: not for --help or a bad flag

        return replay(settings, command_line("replay", words))

    return exit_code(work, "no study was written; the same command begins again")


if __name__ == "__main__":
    raise SystemExit(main())
