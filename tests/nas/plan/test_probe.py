"""The probe of a plan on a GPU: what its process keeps there is not what a measurement lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nas.measure.measurement_error import BatchTooLargeError, MeasurementError
from nas.plan import probe
from tests.nas.study.builders import search_config


class LoggedService:
    """A measurement service that logs its calls."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def measure(self, *of: Any, **names: Any) -> None:
        self.log.append("measure")


class SmallService(LoggedService):
    """One on a device whose memory a batch does not fit into."""

    def measure(self, *of: Any, **names: Any) -> None:
        raise BatchTooLargeError("only 16 images of the batch of 128 fit")


def test_a_reference_whose_batch_does_not_fit_ends_a_plan_with_what_to_choose() -> None:
    service: Any = SmallService([])
    words = (
        "only 16 images of the batch of 128 fit; choose a smaller --measure-batch-size: the search needs the reference"
    )
    with pytest.raises(MeasurementError, match=words):
        probe._start(search_config(device="cpu"), service)


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
