"""Failures of trials, and the decision whether a failed trial runs again. Pure.

A trial runs again only if the outcome can differ: after a lost worker or a hang it continues from its checkpoint,
memory that other processes used may be free, and an error may be that of the node: another one takes the trial where
there is one. A loss that was NaN would be NaN again. A candidate runs at most twice, unless the second run meets a
full disk, a disk error or a damaged cache, and the sampler replaces one that failed. Each rung that it has passed
allows one more run after a lost worker, a hang or shared memory: nodes that others preempt must not take the best
candidates. Nothing replaces a baseline or the reference: after a lost worker, a hang or shared memory they run up to
ten times, and then the search ends and says why. After any other cause of their own they have failed, as a candidate
has, and the search continues without them. A full disk, a disk error or a damaged cache ends the search when a second
run has met it, on another node where there is one: a node has disks of its own.
"""

from __future__ import annotations

import errno
import math
import statistics
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

Error = TypeVar("Error", bound=Exception)

_MEDIANS_TO_HANG = 10.0
_MIN_LIMIT_S = 600.0
_MIN_PHASES = 5  # earlier phases that a median needs
_MAX_TRIES = 2
_DISK_ERRNOS = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, getattr(errno, "EREMOTEIO", None))
_DISK_MESSAGES = ("Input/output error", "Stale file handle")  # of errors that have no errno
_MAX_TRIES_REQUIRED = 10  # a cause that ends a network as often is none that passes


class Failure(StrEnum):
    """The cause that ended a trial early."""

    OUT_OF_MEMORY = "out of memory"  # with the device to itself
    MEMORY_SHARED = "out of memory that others used too"
    NOT_FINITE = "not finite"  # a loss or a score; the same seed would repeat it
    WRONG_OUTPUT = "wrong output"  # the measured runtime computes other outputs than fp32
    HANG = "hang"
    LOST_WORKER = "lost worker"  # its process or its node
    FULL_DISK = "full disk"
    DISK_ERROR = "disk error"  # of the system: a network disk that is away, a damaged one
    DAMAGED_CACHE = "damaged cache"  # of images or teacher outputs
    UNPICKLABLE = "unpicklable result"
    ERROR = "error"  # an exception of the trial's code


class RetryDecision(StrEnum):
    """The decision about a failed trial."""

    AGAIN = "again"  # from its checkpoint, if there is one
    FAILED = "failed"
    END = "end"  # the search ends, because it cannot do without the trial; --resume continues the trial


# Every other trial would fail so too, at least on its node.
MET_BY_ALL = (Failure.FULL_DISK, Failure.DISK_ERROR, Failure.DAMAGED_CACHE)
_TRANSIENT = (Failure.MEMORY_SHARED, Failure.HANG, Failure.LOST_WORKER)
OF_ITS_NODE = (*MET_BY_ALL, *_TRANSIENT, Failure.ERROR)  # perhaps: on another node the trial may pass


class RankError(RuntimeError):
    """An error of a rank, diagnosed in its own process, which alone knows its device; the message is the reason.

    Attributes:
        failure: The failure that it means.
        lost_other: Whether it says no more than that another rank is gone, which is no cause.
        at_s: When it was raised, in seconds since 1970.
    """

    def __init__(self, failure: Failure, reason: str, lost_other: bool, at_s: float) -> None:
        super().__init__(reason)
        self.failure, self.lost_other, self.at_s = failure, lost_other, at_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failure, str(self), self.lost_other, self.at_s)


def cause_in_ranks(errors: Mapping[int, Error]) -> Error:
    """Return the earliest error of a rank that did not only lose another one.

    Args:
        errors: The errors by rank: RankErrors, and those of Ray about a process that died, which come after them.
    """

    def order(error: Error) -> tuple[bool, float]:
        return (error.lost_other, error.at_s) if isinstance(error, RankError) else (False, math.inf)

    return min((errors[rank] for rank in sorted(errors)), key=order)


def decide_retry(
    failure: Failure | None, tries: int, required: bool = False, confirmed: bool = False, rungs: int = 0
) -> RetryDecision:
    """Decide what to do with a trial that has failed in its `tries`-th run.

    Args:
        failure: Why it failed.
        tries: Its runs so far.
        required: Whether the study needs its result: it is a baseline or the reference.
        confirmed: Whether the run before it, or a trial on another node, has failed for the same cause.
        rungs: Rungs that it has passed.
    """
    if failure in MET_BY_ALL:
        return RetryDecision.END if confirmed else RetryDecision.AGAIN
    if failure not in OF_ITS_NODE:
        return RetryDecision.FAILED
    required = required and failure in _TRANSIENT
    of_candidate = _MAX_TRIES + (rungs if failure in _TRANSIENT else 0)
    if tries < (_MAX_TRIES_REQUIRED if required else of_candidate):
        return RetryDecision.AGAIN
    return RetryDecision.END if required else RetryDecision.FAILED


def is_disk_error(error: BaseException) -> bool:
    """Return whether an error comes from a disk that is away or damaged: no trial of the node would pass now."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_ERRNOS
    return any(words in str(error) for words in _DISK_MESSAGES)


def spoils_process(failure: Failure | None) -> bool:
    """Return whether the worker's process may be unusable afterwards: CUDA errors persist, leaked memory stays."""
    return failure in (Failure.OUT_OF_MEMORY, Failure.MEMORY_SHARED, Failure.ERROR)


def time_limit_s(earlier_s: Sequence[float], fixed_s: float | None = None) -> float:
    """Return the seconds after which a phase of a trial (measuring, a rung) counts as hanging.

    Args:
        earlier_s: Seconds of the same phase in earlier trials.
        fixed_s: The user's limit; None for 10 medians of `earlier_s`, but at least 10 minutes, and no limit while
            `earlier_s` holds fewer than 5.
    """
    if fixed_s is not None:
        return fixed_s
    if len(earlier_s) < _MIN_PHASES:
        return math.inf
    return max(_MIN_LIMIT_S, _MEDIANS_TO_HANG * statistics.median(earlier_s))
