"""Says in one line that Ray's head is gone. Ray itself ends the process a minute later, with words of its own.

By then the main thread may hang in a call of Ray's, where no exception reaches it. So the process is ended from here,
as if it were killed: all that was finished is in the store.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nas.command import FAILED

_EVERY_S = 2.0
_PATIENCE_S = 40.0  # a head that comes back within a minute is no harm to Ray
_SHOW_CURSOR = "\x1b[?25h"  # which a live panel hides


@contextmanager
def watched_head(address: str, advice: str) -> Iterator[None]:
    """While the body runs, the process ends with one line where nobody listens at HOST:PORT any more."""
    over = threading.Event()
    threading.Thread(target=_watch, args=(address, advice, over), daemon=True, name="head").start()
    try:
        yield
    finally:
        over.set()


def _watch(address: str, advice: str, over: threading.Event) -> None:
    host, _, port = address.rpartition(":")
    seen = time.monotonic()
    while not over.wait(_EVERY_S):
        with suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=_EVERY_S).close()
            seen = time.monotonic()
        if time.monotonic() - seen > _PATIENCE_S:
            shown = _SHOW_CURSOR if sys.stderr.isatty() else ""
            print(f"{shown}error: the head of Ray at {address} is gone; {advice}", file=sys.stderr, flush=True)
            os._exit(FAILED)
