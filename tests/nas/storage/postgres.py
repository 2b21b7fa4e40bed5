"""A real PostgreSQL for tests, or the reason why there is none. Every test has the fixtures, see tests/conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from experiments.benchmarks.postgres import PASSWORD, NoServer, Server, binaries, server


def need_postgres() -> None:
    """Skip where PostgreSQL is not installed; one that is installed and does not start is an error."""
    try:
        binaries()
    except NoServer as error:
        pytest.skip(str(error))


@contextmanager
def running_server() -> Iterator[Server]:
    """A server of this test's own, with its password in the environment."""
    need_postgres()
    with pytest.MonkeyPatch.context() as patch, server() as postgres:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server for the tests of a file."""
    with running_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """Where a study is kept: None for a file in its folder, else the URL of a server."""
    return request.getfixturevalue("postgres").url if request.param == "postgresql" else None
