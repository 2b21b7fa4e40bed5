"""Format numbers that people read: every table, card, page and message uses the same form."""

from __future__ import annotations

import math

UNKNOWN = "–"
MIN_PROBABILITY = 0.001  # smaller p-values say no more


def fixed(value: float | None, digits: int, unknown: str = UNKNOWN) -> str:
    """Format with a fixed number of decimals and without a negative zero; `unknown` for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return unknown
    return f"{value:z,.{digits}f}"


def fixed_interval(low: float, high: float, digits: int) -> str:
    """Format an interval: "0.497 to 0.512"."""
    return f"{fixed(low, digits)} to {fixed(high, digits)}"


def millions(value: float | None, digits: int) -> str:
    """Format a count in millions."""
    return fixed(None if value is None else value / 1e6, digits)


def probability(value: float | None) -> str:
    """Format a p-value with two significant digits; one below 0.001 as that."""
    if value is None:
        return UNKNOWN
    return f"{value:.2g}" if value >= MIN_PROBABILITY else f"<{MIN_PROBABILITY:g}"
