"""``backbone-nas completion SHELL``: print the shell's completion script, made by shtab from the commands' parsers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import shtab

from nas.cli import PROGRAM, OneLineParser, exit_code
from nas.flags import run_folder
from nas.terminal import write_line

__all__ = ["main", "parser"]

_BASH_FOLDER = "~/.local/share/bash-completion/completions"
_EXAMPLES = f"""examples:
  {PROGRAM} completion bash > {_BASH_FOLDER}/{PROGRAM}
  {PROGRAM} completion zsh > ~/.zfunc/_{PROGRAM}         with fpath+=~/.zfunc before compinit in ~/.zshrc
  {PROGRAM} completion tcsh > ~/.{PROGRAM}.tcsh          with source ~/.{PROGRAM}.tcsh in ~/.tcshrc

Make the folder first, if it is missing: mkdir -p {_BASH_FOLDER}
Then open a new shell: the completion works there.
"""
_FILES = ("FILE", "NAME=FILE")  # metavars

# Offers the studies below runs/, among them runs/latest; folders where no study begins with the word.
_STUDIES = "_backbone_nas_dirs_of_studies"
_BASH_STUDIES = f"""
{_STUDIES}() {{
  local file studies=()
  for file in runs/*/study.db runs/*/study.json; do
    [ -e "$file" ] && studies+=("${{file%/*}}")
  done
  compgen -W "${{studies[*]}}" -- "$1" || compgen -d -- "$1"
}}
"""
_ZSH_STUDIES = f"""
{_STUDIES}() {{
  local -a studies
  studies=(runs/*/study.(db|json)(N:h))
  compadd -a studies || _files -/
}}
"""
_STUDY = {
    **shtab.DIRECTORY,
    "bash": _STUDIES,
    "zsh": _STUDIES,
    "preamble": {"bash": _BASH_STUDIES, "zsh": _ZSH_STUDIES},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _print(parser().parse_args(words).shell))


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} completion",
        description="Print a script that lets a shell complete commands, flags, choices, studies and files.",
        epilog=_EXAMPLES,
    )
    built.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, metavar="SHELL", help=", ".join(shtab.SUPPORTED_SHELLS))
    return built


def _print(shell: str) -> int:
    write_line(shtab.complete(whole_parser(), shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of the program with all its commands, which completes studies, folders and files."""
    from nas.__main__ import COMMANDS

    top = argparse.ArgumentParser(prog=PROGRAM)
    top.add_argument("--version", action="store_true", help="show the version")
    commands = top.add_subparsers(parser_class=argparse.ArgumentParser)
    for command in COMMANDS:
        commands.add_parser(command.name, parents=[command.parser()], add_help=False, help=command.about)
    _complete_paths(top)
    return top


def _complete_paths(built: argparse.ArgumentParser) -> None:
    """Mark the arguments that are studies, folders or files, here and in the commands below."""
    for action in built._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_paths(below)
        elif action.type is run_folder or action.metavar == "RUN":
            action.complete = _STUDY  # type: ignore[attr-defined]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in _FILES or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
