"""A real PostgreSQL for tests, or the reason why there is none. Every test has the fixtures, see tests/conftest.py."""

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


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server for the tests of a file."""
    with running_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """Where a study is kept: None for a file in its folder, else the URL of a server."""
    return request.getfixturevalue("postgres").url if request.param == "postgresql" else None
