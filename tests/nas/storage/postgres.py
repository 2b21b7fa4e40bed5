"""A real PostgreSQL for tests, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from experiments.benchmarks.postgres import NoServer, Server, server


@contextmanager
def running_server() -> Iterator[Server]:
    """A server of this test's own, with its password in the environment; skips where none can be started."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            context = server()
            postgres = context.__enter__()
        except NoServer as error:
            pytest.skip(str(error))
        patch.setenv("PGPASSWORD", postgres.env["PGPASSWORD"])
        try:
            yield postgres
        finally:
            context.__exit__(None, None, None)
