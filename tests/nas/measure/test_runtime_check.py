"""The check of a runtime on a tiny network: wrong outputs are noticed, and each reason has a remedy."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.measure import MeasurementError
from nas.measure.runtime_check import RuntimeReading, check_runtime, read_runtime
from nas.measure.runtime_spec import ArmError
from nas.study.config import SearchConfig
from nas.validation import ConfigError

COMPILED = SearchConfig(device="cpu", runtime="compiled+bf16")


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


def answer(monkeypatch: pytest.MonkeyPatch, outcome: Exception | RuntimeReading) -> list[tuple[Any, ...]]:
    """Let the process that tries the runtime have an outcome; return what it was asked for."""
    asked: list[tuple[Any, ...]] = []

    def run(function: Any, *arguments: Any, limit_s: float) -> RuntimeReading:
        asked.append(arguments)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("nas.measure.forkserver.ForkServer", lambda modules: nullcontext(SimpleNamespace(run=run)))
    return asked


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (RuntimeReading("compiled", 1.0, False), "its outputs are wrong"),
        (MeasurementError("hang", "no result after 1200 s"), "no result after 1200 s"),
        (ArmError("runtime: compiled can't run this network here: " + "gcc " * 100), "gcc; install compilers"),
    ],
)
def test_a_runtime_that_does_not_work_is_refused_with_its_remedy(
    outcome: Exception | RuntimeReading, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, outcome)
    for resume in (False, True):
        with pytest.raises(ConfigError, match="--runtime: compiled does not work here: ") as caught:
            check_runtime(COMPILED, lambda *stage: None, resume)
        assert words in str(caught.value)
        assert ("give --runtime eager+bf16" in str(caught.value)) is not resume, "a study keeps its runtime"
        assert len(str(caught.value)) < 400
    assert asked == [("compiled", "cpu", "bf16")] * 2


def test_a_runtime_that_works_or_compiles_nothing_or_finds_no_memory_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages: list[tuple[str, int, int]] = []
    asked = answer(monkeypatch, RuntimeReading("compiled", 1.25, True))
    assert check_runtime(SearchConfig(device="cpu"), lambda *stage: stages.append(stage)) == ""
    assert asked == stages == []
    assert check_runtime(COMPILED, lambda *stage: stages.append(stage)) == "compiled works (1.2 s for a tiny network)"
    assert [done for _, done, _ in stages] == [0, 1]
    answer(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    assert "not checked" in check_runtime(COMPILED, lambda *stage: None)
