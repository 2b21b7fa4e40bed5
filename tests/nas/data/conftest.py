"""What all tests of images share."""

from __future__ import annotations

import math

import pytest

from nas.data import tar_index


@pytest.fixture(autouse=True)
def _no_index_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no index of a shard, however long it takes to read: sets are opened with a folder that is not made."""
    monkeypatch.setattr(tar_index, "KEPT_S", math.inf)
