"""Why a network could not be measured, in a line: the others go on."""

from __future__ import annotations

from nas.command import one_line
from nas.measure import MeasurementError

# What networks and libraries raise; no mistakes of our own.
FAILURES = (RuntimeError, ValueError, AssertionError, MemoryError)
LONGEST = 300  # characters of a library's own message


def reason(error: Exception) -> str:
    """One line: for an `MeasurementError` its verdict and what more is known of it."""
    said = one_line(error)[:LONGEST].removeprefix("arm: ")
    verdict = error.verdict if isinstance(error, MeasurementError) else ""
    return said if said.startswith(verdict) else f"{verdict}: {said}"
