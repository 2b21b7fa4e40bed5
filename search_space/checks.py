"""Checks of single fields, with errors that name the field, its value and the allowed values."""

from __future__ import annotations

import math
from collections.abc import Iterable


class SpecError(ValueError):
    """An invalid spec, preset name or sampler parameter; the message is one line for people."""


def within_choices(field: str, value: object, choices: Iterable[object]) -> None:
    """Raise SpecError unless `value` is one of `choices`."""
    allowed = list(choices)
    if value not in allowed:
        raise SpecError(f"{field}: {value!r} is not one of {', '.join(map(str, allowed))}")


def whole(field: str, value: object, largest: int) -> int:
    """Return `value`; raise SpecError unless it is an int from 1 to `largest`. True and 2.0 are refused."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise SpecError(f"{field}: {value!r} is not a whole number from 1 to {largest}")
    return value


def within(field: str, value: object, smallest: float, largest: float) -> float:
    """Return `value` as a float; raise SpecError unless it is a number from `smallest` to `largest`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not smallest <= value <= largest:  # type: ignore[arg-type,operator]
        raise SpecError(f"{field}: {value!r} is not a number from {smallest:g} to {largest:g}")
    return float(value)  # type: ignore[arg-type]
