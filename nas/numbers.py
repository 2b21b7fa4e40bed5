"""Format numbers and counts that people read: every table, card, page and message uses the same form."""

from __future__ import annotations

import math
from collections.abc import Collection

UNKNOWN = "–"
MIN_PROBABILITY = 0.001  # smaller p-values say no more


def plural(count: int, one: str, many: str = "") -> str:
    """Return the count with the matching noun: "no models", "1 model", "2,000 models".

    Args:
        count: 0 or more.
        one: The noun of one, with what follows it.
        many: The same of several; by default `one` with an s.
    """
    return f"{f'{count:,}' if count else 'no'} {one if count == 1 else many or f'{one}s'}"


def plural_range(counts: Collection[int], one: str) -> str:
    """Return the smallest and the largest of some counts with their noun: "2 seeds", or "1 to 2 seeds"."""
    low, high = min(counts, default=0), max(counts, default=0)
    return plural(high, one) if low == high else f"{low:,} to {plural(high, one)}"


def trials_words(numbers: Collection[int]) -> str:
    """Name trials by their numbers, in order: "trial 2", or "trials 2, 11"."""
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"


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


def clock(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_bytes(count: float) -> str:
    """Format a number of bytes with a decimal unit, as "1.2 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
