"""Set glibc's allocator alike in all processes that train or measure.

By default glibc returns large freed buffers to the kernel and faults them in again at every step or call. Networks
differ in what this costs them, up to half of their throughput, so that timings with it and without it are no timings of
one setting.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_KEPT_BYTES = 2_000_000_000
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
# For the environment of a process that is yet to start.
MALLOC_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES), "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES)}


def keep_freed_memory() -> None:
    """Keep freed memory in this process, as MALLOC_SETTINGS do; without glibc nothing changes."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, _KEPT_BYTES)
