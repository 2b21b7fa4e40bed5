"""``backbone-nas train ARCH``: distill one architecture from several teachers, at full length."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import command_line, exit_code
from nas.command_log import log_to
from nas.search.settings import check_inputs
from nas.terminal import stderr_console
from nas.train.arguments import parse, parser

if TYPE_CHECKING:
    from nas.train.training_settings import TrainCommand

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, see `nas.cli`."""
    words = list(sys.argv[1:] if argv is None else argv)
    session = _Session()
    return exit_code(lambda: _train(words, session), lambda: _after_interruption(session))


@dataclass
class _Session:
    """What an interruption has to know.

    Attributes:
        command: The settings; None before they are known.
        saved: Whether the training has saved its state.
    """

    command: TrainCommand | None = None
    saved: bool = False


def _train(words: Sequence[str], session: _Session) -> int:
    """Run a command line; tell `session` what becomes of it."""
    command = parse(words)
    check_inputs(command.session)
    session.command = command
    log_to(command.session.run, "train", command.session.text)
    from nas.train.command import StateSaved, train  # imports torch, which takes seconds: not for --help or a bad flag

    try:
        return train(command, stderr_console())
    except StateSaved:
        session.saved = True
        raise


def _after_interruption(session: _Session) -> str:
    """Say what an interrupted training has saved, and how it continues."""
    from nas.search.config_file import unrecorded_words
    from nas.storage.location import holds_study

    if session.command is None or not holds_study(session.command.session.run):
        return "the training had not begun, and the cache keeps what is finished; type the same command again"
    settings = session.command.session
    cluster = [] if settings.address is None else ["--address", settings.address]
    resume = command_line("train", ["--resume", str(settings.run), *cluster, *unrecorded_words(settings)])
    return f"{_what_is_saved(settings.run, session.saved)}\nresume with: {resume}"


def _what_is_saved(run: Path, saved: bool) -> str:
    from nas.run_folder import CHECKPOINTS

    if saved:
        return "the training's state is saved"
    if any((run / CHECKPOINTS).glob("*.pt")):
        return "the training has lost the steps since its last checkpoint"
    return "the training has no checkpoint yet and will start again"


if __name__ == "__main__":
    raise SystemExit(main())
