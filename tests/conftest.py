"""For all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def signals_kept() -> Iterator[None]:
    """Commands take these signals for themselves, also where a test calls them in this process."""
    own = {ending: signal.getsignal(ending) for ending in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for ending, handler in own.items():
        signal.signal(ending, handler)
