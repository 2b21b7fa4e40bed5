"""The memory that a process can have."""

from __future__ import annotations

import os
import sys

import pytest

from search_space import memory


def test_a_limit_of_the_control_groups_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.memory_bytes()
    for limit, expected in ((12_345, 12_345), (2 * whole, whole), (None, whole)):
        monkeypatch.setattr(memory, "control_group_limit", lambda limit=limit: limit)
        assert memory.memory_bytes() == expected


def test_a_system_that_does_not_tell_its_memory_limits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows, where exports for transformers are opened
    monkeypatch.delattr(os, "sysconf")
    memory.check_memory("huge", 10**15)
