"""Every process that measures has the same settings of glibc's allocator, whatever command has started it."""

from __future__ import annotations

import resource

import pytest
import torch
from torch import nn

from nas.measure import Setting, measure_pair
from nas.measure.allocator import MALLOC_SETTINGS
from nas.measure.forkserver import ForkServer
from tests.nas.measure.networks import needs_small_pages
from tests.waiting import PATIENCE_S

CALLS, BUFFER_PX, PAGE_BYTES = 5, 2**24, 4096  # the buffer has 64 MiB, above the largest threshold of glibc's own


def faults_of_calls() -> int:
    """Return the page faults of calls that each fill and free one large buffer, after a first one."""

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    torch.ones(BUFFER_PX)
    before = faults()
    for _ in range(CALLS):
        torch.ones(BUFFER_PX)
    return faults() - before


def faults_after_a_measurement() -> int:
    net = nn.Conv2d(3, 4, 3)
    measure_pair(net, net, Setting("cpu", batch=1, resolution=32, budget_s=0.05), name_of_reference="itself")
    return faults_of_calls()


@pytest.mark.slow
@needs_small_pages
def test_a_measuring_process_keeps_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search sets this in its workers' environment; remeasure, retrain and profile start without it."""
    for name in MALLOC_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    at_least = CALLS * BUFFER_PX * 4 // PAGE_BYTES // 2
    with ForkServer(["nas.measure.service"]) as server:
        plain, measured = (
            server.run(function, limit_s=PATIENCE_S) for function in (faults_of_calls, faults_after_a_measurement)
        )
    assert measured < at_least // 100
    assert plain > at_least
