"""Failures of trials, and whether a failed trial is run again. Pure decisions, for `nas.study.loop.StudyLoop`.

A trial is run a second time, never a third, and only where the second time can be another: a worker that was killed
goes on from its checkpoint, memory that others used may be free by then. The same loss would be NaN again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from enum import StrEnum

_TIMES_THE_MEDIAN = 10.0
_AT_LEAST_S = 600.0
_EARLIER = 5  # stages after which their median is worth something


class Failure(StrEnum):
    """Why a trial ended before its time."""

    OUT_OF_MEMORY = "out of memory"  # all of the device was its own
    MEMORY_SHARED = "out of memory that others used too"
    NOT_FINITE = "not finite"  # a loss or a score; the same seed gives the same
    WRONG_OUTPUT = "wrong output"  # measured as it runs, it computes something else than in fp32
    HANG = "hang"
    LOST_WORKER = "lost worker"  # its process, or the whole node
    FULL_DISK = "full disk"
    UNPICKLABLE = "unpicklable result"
    ERROR = "error"  # what the trial's own code raised


class RetryDecision(StrEnum):
    """What becomes of a trial that failed."""

    AGAIN = "again"  # run once more, from its checkpoint where there is one
    FAILED = "failed"
    END = "end"  # of the whole search: every other trial would meet the same; this one goes on with --resume


_ONCE_MORE = (Failure.MEMORY_SHARED, Failure.HANG, Failure.LOST_WORKER)


def decide_retry(failure: Failure | None, tries: int) -> RetryDecision:
    """What becomes of a trial after it failed for the `tries`-th time."""
    if failure is Failure.FULL_DISK:
        return RetryDecision.END
    return RetryDecision.AGAIN if failure in _ONCE_MORE and tries < 2 else RetryDecision.FAILED


def spoils_process(failure: Failure | None) -> bool:
    """Whether the worker's process may be broken after it (CUDA errors are sticky, lost memory stays lost)."""
    return failure in (Failure.OUT_OF_MEMORY, Failure.MEMORY_SHARED, Failure.ERROR)


def time_limit_s(earlier_s: Sequence[float], given_s: float | None = None) -> float:
    """Seconds after which a stage of a trial hangs: `given_s`, else 10 medians of the same stage in earlier trials.

    Never under 10 minutes of its own accord; no limit while too few trials have been through the stage.
    """
    if given_s is not None:
        return given_s
    if len(earlier_s) < _EARLIER:
        return math.inf
    return max(_AT_LEAST_S, _TIMES_THE_MEDIAN * statistics.median(earlier_s))
