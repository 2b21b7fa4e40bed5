"""The device for a profile alone: its lock, and a word to who waits for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nas.measure.device_lock import measuring
from nas.measure.environment import device_key
from nas.places import lock_dir

NOTICE_AFTER_S = 0.5


@contextmanager
def alone(device: str) -> Iterator[None]:
    """Hold the device's lock; says on stderr that it waits where another process has it. Holds do not nest."""
    notice = threading.Timer(NOTICE_AFTER_S, _say, [device])
    notice.start()
    try:
        with measuring(lock_dir() / device_key(device)):
            notice.cancel()
            yield
    finally:
        notice.cancel()


def _say(device: str) -> None:
    print(f"waiting for {device}: another process trains or measures on it", file=sys.stderr, flush=True)
