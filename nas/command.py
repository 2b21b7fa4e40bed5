"""What all commands share: bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

BAD_INPUT = 2


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line; the usage is in ``--help``."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        print(f"error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def one_line(error: BaseException) -> str:
    """The error's message on one line, or its name where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open {error.filename!r}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
