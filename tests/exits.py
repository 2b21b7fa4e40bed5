"""The exit code of a command, which its parser raises and its work returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def exit_of(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> object:
    """Run a command and return its exit code."""
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code
