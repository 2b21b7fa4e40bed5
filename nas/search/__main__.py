"""``python -m nas.search``: search a space of backbones; ends with a Pareto report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.cli import checkpoint_interval_s, exit_code, stderr_console
from nas.command_log import log_to
from nas.search.arguments import check_flags, parser, wishes
from nas.search.session import hide_password, search
from nas.storage.location import holds_study
from nas.study.redaction import public_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--plan" in words:
        from nas.plan.__main__ import main as plan

        return plan([word for word in words if word != "--plan"])
    run_dirs: list[Path] = []
    return exit_code(lambda: _command(words, run_dirs), public_text, lambda: _left(run_dirs))


def _command(words: Sequence[str], run_dirs: list[Path]) -> int:
    """Run the command line; the run folder goes into `run_dirs` as soon as it is known."""
    arguments = vars(parser().parse_args(words))
    console = stderr_console()
    check_flags(arguments)
    hide_password(arguments, console)
    config, run_dir, resume = wishes(arguments)
    run_dirs.append(run_dir)
    log_to(run_dir, "search", shlex.join(["python", "-m", "nas.search", *words]))
    return search(config, run_dir, resume, arguments, console)


def _left(run_dirs: Sequence[Path]) -> str:
    """Say what an interruption lost and how the search goes on."""
    lost = f"lost were at most the last {checkpoint_interval_s():g} s of each training under way"
    resumes = [f"\ngo on with: python -m nas.search --resume {shlex.quote(str(d))}" for d in run_dirs if holds_study(d)]
    return lost + "".join(resumes)


if __name__ == "__main__":
    raise SystemExit(main())
