"""Modules' own times add up to the whole and belong to who was running."""

import time

import pytest
import torch
from torch import nn

from nas.measure.stages import own_times


class Slow(nn.Module):
    def __init__(self, seconds, inner=None):
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self, x):
        time.sleep(self.seconds / 2)
        y = x if self.inner is None else self.inner(self.inner(x))
        time.sleep(self.seconds / 2)
        return y


def test_own_times_leave_out_what_runs_inside():
    net = nn.Sequential(Slow(0.02, Slow(0.01)), nn.Identity())
    times = own_times(net, torch.zeros(1), budget_s=0.1)
    assert set(times.stages_s) == {"", "0", "0.inner"}
    assert times.stages_s["0"] == pytest.approx(0.02, abs=0.004)
    assert times.stages_s["0.inner"] == pytest.approx(0.02, abs=0.004)  # called twice
    assert times.covered == pytest.approx(1)
    assert times.whole_s == pytest.approx(0.04, abs=0.008)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
