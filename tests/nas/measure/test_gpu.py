"""The protocol on a real card. Every other test of it runs on fakes; these run where there is one."""

from __future__ import annotations

import time

import pytest
import torch

from backbones import resolve
from nas.measure import Arm, Setting, measure_pair
from nas.measure.conditions import GpuWatch, gpu_uuid, nvml
from nas.measure.environment import device_key, environment
from nas.measure.pair import watch_for
from nas.measure.service import MeasurementService
from nas.study.timing_doubts import CONTENDED, SCATTERED, TOO_FEW

# Of right outputs at the batch that was asked for, on a card that others may use.
VERDICTS = ("ok", "wide", SCATTERED, TOO_FEW, "launch-bound", "clock changed", "throttled", CONTENDED)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device here"),
]


@pytest.fixture(scope="module")
def bench():
    with MeasurementService() as made:
        yield made


def card_is_idle() -> bool:
    """Return whether nothing has computed on the card for a second, to which a measurement before gets time to end."""
    library, idle_since, end = nvml(), time.monotonic(), time.monotonic() + 10.0
    if library is None or not isinstance(watch_for(torch.device("cuda:0")), GpuWatch):
        return False
    handle = library.nvmlDeviceGetHandleByUUID(gpu_uuid(torch.device("cuda:0")))
    while time.monotonic() < end:
        if library.nvmlDeviceGetUtilizationRates(handle).gpu:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > 1.0:
            return True
        time.sleep(0.05)
    return False


def measure(bench: MeasurementService, arm: str, **changes: object):
    setting = Setting(**{"device": "cuda:0", "batch": 32, "resolution": 64, "arm": Arm.parse(arm)} | changes)
    return bench.measure("eradio_pico", "eradio_pico", setting, name_of_reference="eradio_pico")


@pytest.mark.parametrize("arm", ["eager+fp32", "eager+bf16", "compiled+bf16", "reduce-overhead+fp16"])
def test_a_net_beside_itself(bench, arm):
    found = measure(bench, arm).record
    assert found.ratio_low <= 1.02
    assert found.ratio_high >= 0.98
    assert found.verdict in VERDICTS
    assert found.launch_share > 0
    unknown = Arm.parse(arm).unknown_fields("cuda")
    assert found.peak_memory_mib is None if "peak_memory_mib" in unknown else found.peak_memory_mib > 0
    if "reserved_memory_mib" in unknown:
        assert found.reserved_memory_mib is None
    else:
        assert found.reserved_memory_mib >= (found.peak_memory_mib or 0)


def test_what_the_card_tells_is_in_the_record(bench):
    if nvml() is None:
        pytest.skip("NVML cannot be initialised here")
    idle = card_is_idle()
    found = measure(bench, "eager+bf16")
    assert not idle or found.record.conditions["other_processes"] == 0, "this process counts as another one"
    assert found.record.conditions["clock_mhz"][0] > 0
    assert found.record.energy_j is None or found.record.energy_j > 0
    assert len(found.samples["readings"]) >= 5


def test_memory_that_ends_is_a_smaller_batch():
    """With a GiB for this process, 512 images of 256 px and their maps do not fit."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / whole)
    try:
        setting = Setting("cuda:0", batch=512, resolution=256, budget_s=0.5)
        net = resolve("eradio_pico")[1]
        found = measure_pair(net, net, setting, name_of_reference="eradio_pico").record
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.verdict == "out of memory"
    assert 0 < found.batch < found.requested_batch == 512


def test_the_card_is_named_by_its_uuid():
    device = torch.device("cuda:0")
    assert device_key("cuda") == device_key("cuda:0") != "cpu"
    assert environment("cuda")["uuid"] in gpu_uuid(device)
    if " MIG " in torch.cuda.get_device_name(device):  # "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
        pytest.skip("NVML's watch is of a whole GPU: a part of one (MIG) is watched like a CPU")
    assert nvml() is None or isinstance(watch_for(device), GpuWatch)
