"""The check of a runtime on a tiny network: wrong outputs are noticed, and each reason has a remedy."""

from __future__ import annotations

import pytest
import torch

from nas.measure.arms import ArmError
from nas.measure.runtime_check import read_runtime


def test_a_runtime_is_run_and_its_outputs_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_runtime("eager", "cpu", "fp32").correct
    monkeypatch.setattr("nas.measure.prepare.runner", lambda *_: _Wrong())
    assert not read_runtime("eager", "cpu", "fp32").correct


class _Wrong:
    compile_s, notes = 0.0, ()

    @staticmethod
    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 8, 32, 32)


def test_a_runtime_that_cannot_run_here_says_why() -> None:
    with pytest.raises(ArmError, match="CUDA"):
        read_runtime("tensorrt", "cpu", "fp32")
