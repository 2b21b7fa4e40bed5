"""A test that hangs is ended by pytest-timeout: it fails, its fixtures end its processes, the other tests run."""

from __future__ import annotations

import pytest

from tests.conftest import SLOW_LIMIT_S, pytest_collection_modifyitems


def test_every_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert float(request.config.getini("timeout")) > 0
    assert request.config.getini("timeout_method") == "signal", "the other would end all of pytest"
    names, file = ("test", "slow"), request.node.parent
    test, slow = (pytest.Function.from_parent(file, name=name, callobj=lambda: None) for name in names)
    slow.add_marker(pytest.mark.slow)
    pytest_collection_modifyitems([slow, test])
    assert test.get_closest_marker("timeout") is None, "it has that of the settings"
    limit = slow.get_closest_marker("timeout")
    assert limit is not None
    assert limit.args == (SLOW_LIMIT_S,)
