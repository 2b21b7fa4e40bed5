"""The error of a measurement that gives no number."""

from __future__ import annotations

from typing import Any


class MeasurementError(RuntimeError):
    """Raised for a measurement that gives no number.

    Attributes:
        verdict: "out of memory", "no samples", "crash", "hang", "wrong output" or "failed"; the message has details.
    """

    def __init__(self, verdict: str, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.verdict, str(self))


class BatchTooLargeError(MeasurementError):
    """Raised where only a smaller batch than the requested one fits, and it is not wanted; the message says which."""

    def __init__(self, message: str) -> None:
        super().__init__("out of memory", message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)
