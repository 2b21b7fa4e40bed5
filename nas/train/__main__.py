"""``backbone-nas train ARCH``: distill one architecture from several teachers, at full length."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.cli import check_cache, command_line, exit_code, stderr_console
from nas.command_log import log_to
from nas.search.preconditions import check_sources
from nas.study.redaction import public_text
from nas.train.arguments import parse, parser
from nas.train.training_settings import is_follower

if TYPE_CHECKING:
    from nas.train.training_settings import TrainCommand

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if is_follower():
        if {"-h", "--help"} & set(words):  # rank 0 shows it and ends
            return 0
        return exit_code(_follow, public_text, "rank 0 says how the training continues")
    begun: list[TrainCommand] = []
    return exit_code(lambda: _train(words, begun), public_text, lambda: _after_interruption(begun))


def _follow() -> int:
    """Train with rank 0, in a process that torchrun has started."""
    from nas.distill.run import TrainingStopped
    from nas.train.torchrun import follow

    try:
        follow()
    except TrainingStopped:
        raise KeyboardInterrupt from None
    return 0


def _train(words: Sequence[str], begun: list[TrainCommand]) -> int:
    """Run a command line; add its settings to `begun` as soon as they are known."""
    command = parse(words)
    session = command.session
    check_sources(session.config.data, session.config.teachers, session.teacher_weights)
    check_cache(session.cache)
    begun.append(command)
    log_to(session.run, "train", session.text)
    from nas.train.command import train  # imports torch, which takes seconds: not for --help or a bad flag

    return train(command, stderr_console())


def _after_interruption(begun: Sequence[TrainCommand]) -> str:
    """Say how an interrupted training continues."""
    from nas.storage.location import holds_study

    if not begun or not holds_study(begun[0].session.run):
        return "the training had not begun, and the cache keeps what it has; type the same command again"
    session = begun[0].session
    cluster = [] if session.address is None else ["--address", session.address]
    resume = command_line("train", ["--resume", str(session.run), *cluster])
    return f"the training's state is saved\nresume with: {resume}"


if __name__ == "__main__":
    raise SystemExit(main())
