"""The probe of a plan on a GPU: what its process keeps there is not what a measurement lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nas.plan import probe
from tests.nas.study.builders import search_config


class LoggedService:
    """A measurement service that logs its calls."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def measure(self, *of: Any, **names: Any) -> None:
        self.log.append("measure")


def test_a_card_is_measured_without_what_the_architectures_before_left_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("empty"))
    service: Any = LoggedService(log)
    monkeypatch.setattr(probe, "device_locks", lambda device: tmp_path)
    for device in ("cuda", "cpu"):
        assert probe._measure(search_config(device=device), "eradio_femto", service) >= 0
    assert log == ["empty", "measure", "measure"]
