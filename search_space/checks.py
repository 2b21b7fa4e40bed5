"""Checks of single fields, with errors that name the field, its value and the allowed values."""

from __future__ import annotations

import errno
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path

MAX_TEXT_BYTES = 2**24  # of a file that a person writes: specs and settings take some kilobytes
_VALUES = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = _VALUES.maxlong = 80
_VALUES.maxlist = _VALUES.maxtuple = _VALUES.maxdict = 12


class SpecError(ValueError):
    """An invalid spec, preset name or sampler parameter; the message is one line for people."""


def shown(value: object) -> str:
    """Return a value as a message quotes it: on one line, and short, however long or deep the value is."""
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


def read_text(path: Path) -> str:
    """Return the text of a file that a person writes.

    Raises:
        OSError: It cannot be read, or is no regular file: the opening of a FIFO would wait for its writer.
        ValueError: It is not UTF-8, or larger than any such file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"larger than {MAX_TEXT_BYTES >> 20} MiB")
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
