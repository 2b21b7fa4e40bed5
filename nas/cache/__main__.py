"""``backbone-nas cache``: build, verify, list and delete caches of teacher features."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.cache.arguments import BuildSettings, parse, parser
from nas.cli import exit_code
from nas.machine import check_cache
from nas.study.teacher_names import check_teacher_names

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 an invalid cache or a failure, 2 bad input."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        settings = parse(words)
        if isinstance(settings, BuildSettings):
            from nas.data import check_uri

            check_teacher_names(settings.teachers, settings.weights)
            check_uri(settings.data)
            check_cache(settings.cache)
        from nas.cache.command import manage_cache  # imports torch, which takes seconds: not for --help or a bad flag

        return manage_cache(settings)

    return exit_code(work, "finished shards were kept; run the same command to continue")


if __name__ == "__main__":
    raise SystemExit(main())
