"""``backbone-nas profile --arch eradio``: measure the cost of backbones, or sample a search space."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cli import exit_code
from nas.profile.arguments import parse, parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        from nas.profile.command import profile

        return profile(settings)

    return exit_code(work, "nothing was measured yet")


if __name__ == "__main__":
    raise SystemExit(main())
