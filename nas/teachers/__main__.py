"""``python -m nas.teachers``: record the activations of own teachers that have no record, or of the named ones."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import cast

from nas.cli import OneLineParser, exit_code
from nas.files import atomic_write
from nas.teachers import TEACHERS
from nas.teachers.base import ACTIVATIONS_FILE, Teacher, TeacherSpec, activation_fingerprint
from nas.terminal import write_line

DESCRIPTION = (
    f"Record in {ACTIVATIONS_FILE.name} the activations of own teachers, those with a module in nas/teachers, on a "
    "fixed image. Every load of a teacher compares its activations with its record."
)
NAME_HELP = (
    "teacher whose record is replaced, after an intended change of its features (default: every teacher that compares "
    "its activations and has no record)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return exit_code(lambda: _record(arguments))


def _record(arguments: Sequence[str] | None) -> int:
    parser = OneLineParser(prog="python -m nas.teachers", description=DESCRIPTION)
    parser.add_argument("names", nargs="*", metavar="NAME", help=NAME_HELP)
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in TEACHERS]:
        parser.error(f"NAME: {unknown[0]!r} is no own teacher; choose from: {', '.join(TEACHERS)}")
    entries = json.loads(ACTIVATIONS_FILE.read_text())
    recorded = {entry["fingerprint"] for entry in entries.values()}
    missing = [name for name, spec in TEACHERS.items() if _is_compared(spec) and spec.fingerprint not in recorded]
    for name in names or missing:
        spec = TEACHERS[name]
        numbers = activation_fingerprint(_unchecked(spec.load))
        entries[name] = {"fingerprint": spec.fingerprint, "numbers": numbers}
        write_line(f"recorded {name}")
    atomic_write(ACTIVATIONS_FILE, json.dumps(entries, indent=1) + "\n")
    write_line(ACTIVATIONS_FILE)
    return 0


def _is_compared(spec: TeacherSpec) -> bool:
    """Return whether a teacher's `load` is wrapped by `check_activations`."""
    return inspect.unwrap(spec.load) is not spec.load


def _unchecked(load: Callable[[], Teacher]) -> Teacher:
    """Return a teacher without the comparison with the record that is to be replaced."""
    return cast(Teacher, inspect.unwrap(load)())


if __name__ == "__main__":
    raise SystemExit(main())
