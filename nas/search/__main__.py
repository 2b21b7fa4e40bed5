"""``backbone-nas search``: search a space of backbones; ends with a Pareto report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.cli import exit_code
from nas.command_log import log_to
from nas.machine import checkpoint_interval_s
from nas.search.arguments import parse, parser
from nas.search.settings import check_inputs
from nas.terminal import stderr_console

if TYPE_CHECKING:
    from nas.search.settings import SearchCommand

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--plan" in words:
        from nas.plan.__main__ import main as plan

        if started := [word.split("=")[0] for word in words if word.split("=")[0] in ("--resume", "--extend")]:
            return exit_code(lambda: _refuse_plan(started[0]))
        return plan([word for word in words if word != "--plan"])
    begun: list[SearchCommand] = []
    return exit_code(lambda: _main(words, begun), lambda: _after_interruption(begun))


def _refuse_plan(flag: str) -> int:
    parser().error(
        f"--plan {flag}: --plan is for a new search; in place of {flag} give the study's flags or --config FILE.toml"
    )


def _main(words: Sequence[str], begun: list[SearchCommand]) -> int:
    """Run a command line; add its settings to `begun` as soon as they are known."""
    command = parse(words)
    if command.dry_run:
        from nas.search.dry_run import dry_run

        return dry_run(command, stderr_console())
    check_inputs(command)
    from nas.search.session import search  # imports torch, which takes seconds: not for --help or a bad flag

    begun.append(command)
    log_to(command.run, "search", command.text)
    return search(command, stderr_console())


def _after_interruption(begun: Sequence[SearchCommand]) -> str:
    """Say what an interruption lost and how to continue: a study is resumed, a search without one is begun again."""
    from nas.run_folder import CHECKPOINTS
    from nas.search.settings import resume_command
    from nas.storage.location import holds_study

    studies = [command for command in begun if holds_study(command.run)]
    if not studies:
        return "there is no study to resume yet, and the cache keeps what is finished; type the same command again"
    lost = "no training had saved a checkpoint: the running candidates will start again"
    if any(path for command in studies for path in (command.run / CHECKPOINTS).glob("*.pt")):
        lost = f"each running training has lost at most the last {checkpoint_interval_s():g} s"
    return lost + "".join(f"\nresume with: {resume_command(command)}" for command in studies)


if __name__ == "__main__":
    raise SystemExit(main())
