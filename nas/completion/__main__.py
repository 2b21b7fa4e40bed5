"""``backbone-nas completion SHELL``: print the shell's completion script, made by shtab from the commands' parsers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import shtab

from nas.cli import PROGRAM, OneLineParser, exit_code
from nas.flags import run_folder
from nas.study.redaction import public_text

__all__ = ["main", "parser"]

_EXAMPLES = f"""examples:
  {PROGRAM} completion bash > ~/.local/share/bash-completion/completions/{PROGRAM}     for every new shell
  {PROGRAM} completion zsh > ~/.zfunc/_{PROGRAM}              ~/.zfunc is a folder of $fpath
  {PROGRAM} completion tcsh > ~/.{PROGRAM}.tcsh               and source it in ~/.tcshrc
"""
_FOLDERS = ("DIR", "RUN")  # metavars of folders
_FILES = ("FILE", "NAME=FILE")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _print(parser().parse_args(words).shell), public_text)


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} completion",
        description="Print a script that lets a shell complete commands, flags, choices and files.",
        epilog=_EXAMPLES,
    )
    built.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, metavar="SHELL", help="bash, zsh or tcsh")
    return built


def _print(shell: str) -> int:
    print(shtab.complete(whole_parser(), shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of the program with all its commands, which completes files and folders where they stand."""
    from nas.__main__ import COMMANDS

    top = argparse.ArgumentParser(prog=PROGRAM)
    top.add_argument("--version", action="store_true", help="show the version")
    commands = top.add_subparsers(parser_class=argparse.ArgumentParser)
    for command in COMMANDS:
        commands.add_parser(command.name, parents=[command.parser()], add_help=False, help=command.about)
    _complete_paths(top)
    return top


def _complete_paths(built: argparse.ArgumentParser) -> None:
    """Mark the arguments that are files or folders, here and in the commands below."""
    for action in built._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_paths(below)
        elif action.metavar in _FOLDERS or action.type is run_folder:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in _FILES or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
