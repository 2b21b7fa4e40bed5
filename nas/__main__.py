"""``backbone-nas COMMAND``, which is also ``python -m nas COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

from nas.cli import BAD_INPUT, EXIT_CODES, PROGRAM, OneLineParser, exit_code, nearest
from nas.terminal import write_line


@dataclass(frozen=True)
class Command:
    """A command of the program; its package is imported when the command is used.

    Args:
        name: The word after ``backbone-nas``.
        step: The step of the work that the command belongs to.
        about: What it does, in a few words.
        package: Package whose ``__main__`` has the functions ``main(words)`` and ``parser()``.
    """

    name: str
    step: str
    about: str
    package: str

    def parser(self) -> OneLineParser:
        """Build the command's parser; this imports nothing that takes long."""
        built: OneLineParser = self._module().parser()
        return built

    def main(self, words: Sequence[str]) -> int:
        """Run the command and return its exit code."""
        code: int = self._module().main(words)
        return code

    def _module(self) -> Any:
        return import_module(f"{self.package}.__main__")


COMMANDS = (
    Command("doctor", "plan", "check this machine: what will not work on it, and how to fix it", "nas.doctor"),
    Command("plan", "plan", "predict hours, disk space and the largest budget of a search", "nas.plan"),
    Command("cache", "plan", "compute, verify, list and delete the teachers' outputs", "nas.cache"),
    Command("profile", "plan", "measure the cost of backbones, stage by stage, or of a search space", "nas.profile"),
    Command("replay", "plan", "compare samplers on published results; nothing is trained", "nas.replay"),
    Command(
        "search", "search", "search for backbones by distillation score and throughput; resume a search", "nas.search"
    ),
    Command("report", "look", "rebuild a report; draw figures for a paper; export trials as a table", "reports"),
    Command("compare", "look", "compare studies on one page", "reports.compare"),
    Command("race", "decide", "train the plausible candidates for long, and name the one that holds", "nas.race"),
    Command("retrain", "decide", "retrain the Pareto front, longer and with new seeds", "nas.retrain"),
    Command(
        "remeasure", "decide", "measure candidates again, on another device or in another runtime", "nas.remeasure"
    ),
    Command("select", "decide", "show the best candidate within limits, and how sure that is", "nas.select"),
    Command("train", "ship", "distill one architecture at full length", "nas.train"),
    Command("export", "ship", "write a trained model for timm, transformers, ONNX or TorchScript", "nas.export"),
)

_EXAMPLES = f"""examples:
  {PROGRAM} doctor                                   can a search run here?
  {PROGRAM} search --budget 8 --rung-steps 10,30 --train-images 256 --val-images 64
                                                        a quick look, at few images
  {PROGRAM} search --budget 200                      the whole search on this machine
  {PROGRAM} select runs/NAME --max-latency-ms 13     the best candidate within a limit
  {PROGRAM} race runs/NAME                           which model to choose? Train those that may win for longer
  {PROGRAM} retrain runs/NAME --baselines            does the front hold after longer training?
  {PROGRAM} export runs/NAME --format timm           the recommended model, for others
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, and return its exit code (see `nas.cli`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else ""
    if found := next((command for command in COMMANDS if command.name == first), None):
        return found.main(words[1:])
    return exit_code(lambda: _without_command(first))


def _without_command(first: str) -> int:
    """Answer a first word that is no command, and return the exit code."""
    if first in ("-h", "--help"):
        write_line(_help())
        return 0
    if first == "--version":
        write_line(f"{PROGRAM} {_version()}")
        return 0
    if not first:
        write_line(_help(), sys.stderr)
        return BAD_INPUT
    hint = nearest(first, [command.name for command in COMMANDS])
    raise ValueError(f"no command {first!r}{hint} (see {PROGRAM} --help)")


def _version() -> str:
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:  # run from a copy of its files
        return "of unknown version: the package is not installed"


def _help() -> str:
    """Return the commands in the order of the work, with examples and exit codes."""
    lines = [
        f"usage: {PROGRAM} COMMAND [OPTION ...]",
        "",
        "Search for vision backbones that are distilled from several foundation models and run fast on your device.",
    ]
    for step in dict.fromkeys(command.step for command in COMMANDS):
        lines += ["", f"{step}:"]
        lines += [f"  {command.name:<10} {command.about}" for command in COMMANDS if command.step == step]
    options = ["", f"{PROGRAM} COMMAND --help shows the options of a command, {PROGRAM} --version the version.", ""]
    return "\n".join([*lines, *options, _EXAMPLES, EXIT_CODES]).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())
