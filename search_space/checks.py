"""Checks of single fields, with errors that name the field, its value and the allowed values; checks of files."""

from __future__ import annotations

import errno
import os
import reprlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

MAX_TEXT_BYTES = 2**24  # of a file that a person writes: specs and settings take some kilobytes
_VALUES = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = sys.maxsize  # no password is found in a part of a URL: `nas.cli` cuts later
_VALUES.maxlong = 80
_VALUES.maxlist = _VALUES.maxtuple = _VALUES.maxdict = 12


class SpecError(ValueError):
    """An invalid spec, preset name or sampler parameter; the message is one line for people."""


def shown(value: object) -> str:
    """Return a value as a message quotes it: on one line, without the depths and most items of a large one."""
    return " ".join(_VALUES.repr(value).split())


def within_choices(field: str, value: object, choices: Iterable[object]) -> None:
    """Raise SpecError unless `value` is one of `choices`."""
    allowed = tuple(choices)
    if value not in allowed:
        raise SpecError(f"{field}: {shown(value)} is not one of {', '.join(map(str, allowed))}")


def whole(field: str, value: object, largest: int) -> int:
    """Return `value`; raise SpecError unless it is an int from 1 to `largest`. True and 2.0 are refused."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise SpecError(f"{field}: {shown(value)} is not a whole number from 1 to {largest}")
    return value


def within(field: str, value: object, smallest: float, largest: float) -> float:
    """Return `value` as a float; raise SpecError unless it is a number from `smallest` to `largest`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not smallest <= value <= largest:  # type: ignore[operator]  # so NaN is refused
        raise SpecError(f"{field}: {shown(value)} is not a number from {smallest:g} to {largest:g}")
    return float(value)  # type: ignore[arg-type]


def regular_file(path: str, flags: int) -> int:
    """Open a file as an `opener`; OSError for no regular one: a FIFO would wait for its writer, a device never ends."""
    if Path(path).exists() and not Path(path).is_file():
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return os.open(path, flags, 0o666)


def file_itself(path: str, flags: int) -> int:
    """Open a regular file as an `opener`; OSError for a link, which a folder of another user may have, to any file."""
    return regular_file(path, flags | os.O_NOFOLLOW)


def read_bytes(path: Path, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file; OSError where it cannot be read, ValueError where it has more bytes."""
    with open(path, "rb", opener=regular_file) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit >> 20} MiB")
    return content


def read_text(path: Path) -> str:
    """Return the text of a file that a person writes, as `read_bytes`; ValueError where it is not UTF-8."""
    content = read_bytes(path)
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def check_keys(name: str, data: object, *, required: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise SpecError unless `data` is an object with all required fields and no others than the allowed ones."""
    if not isinstance(data, Mapping):
        raise SpecError(f"{name}: {shown(data)}; need an object with the fields {', '.join(allowed)}")
    unknown = sorted(str(key) for key in set(data) - set(allowed))
    if unknown:
        raise SpecError(f"{name}: unknown field {shown(unknown[0])}; choose from {', '.join(allowed)}")
    missing = sorted(set(required) - set(data))
    if missing:
        raise SpecError(f"{name}: field {missing[0]!r} is missing")
