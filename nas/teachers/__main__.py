"""``python -m nas.teachers``: record the built-in teachers' activations, replacing the earlier records."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import cast

from nas.cli import OneLineParser, exit_code
from nas.files import atomic_write
from nas.study.redaction import public_text
from nas.teachers import TEACHERS
from nas.teachers.base import ACTIVATIONS_FILE, Teacher, activation_fingerprint
from nas.terminal import write_line

DESCRIPTION = (
    f"Record the built-in teachers' activations on a fixed image; replace the records in {ACTIVATIONS_FILE.name}. "
    "Every load of a teacher compares its activations with the record. Run this after an intended change of features."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return exit_code(lambda: _record(arguments), public_text)


def _record(arguments: Sequence[str] | None) -> int:
    OneLineParser(prog="python -m nas.teachers", description=DESCRIPTION).parse_args(arguments)
    entries = {
        name: {"fingerprint": spec.fingerprint, "numbers": activation_fingerprint(_unchecked(spec.load))}
        for name, spec in TEACHERS.items()
    }
    atomic_write(ACTIVATIONS_FILE, json.dumps(entries, indent=1) + "\n")
    write_line(ACTIVATIONS_FILE)
    return 0


def _unchecked(load: Callable[[], Teacher]) -> Teacher:
    """Return a teacher without the comparison with the records that are to be replaced."""
    return cast(Teacher, inspect.unwrap(load)())


if __name__ == "__main__":
    raise SystemExit(main())
