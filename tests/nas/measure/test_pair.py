"""A real pair of small nets on the CPU: the record is complete, sane and honest."""

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backbones import build
from nas.measure import Arm, DeviceError, Setting, measure_pair
from nas.measure.environment import environment, thread_count
from nas.measure.measurement_error import MeasurementError
from nas.measure.memory import peak_memory
from nas.measure.prepare import BUFFERS, images
from nas.study.records import Measurement
from nas.study.timing_doubts import MIN_INTERVAL_SAMPLES, SCATTERED, TOO_FEW
from search_space import preset
from tests.nas.measure.networks import needs_onnxruntime


class Net(nn.Module):
    """`blocks` 3x3 convolutions at full resolution; `encode` returns (summary, spatial)."""

    def __init__(self, blocks: int, value: float | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=4, padding=1)
        self.blocks = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(blocks)))
        self.value = value
        self.seen: list[tuple[tuple[int, ...], float]] = []

    def encode(self, images):
        if self.value is not None:
            images = images * self.value
        spatial = self.blocks(self.stem(images))
        return spatial.mean((2, 3)), spatial

    def forward(self, images):
        raise AssertionError("throughput is that of encode")


def measure(candidate, reference, **changes) -> Measurement:
    setting = Setting(**{"device": "cpu", "batch": 4, "resolution": 32, "budget_s": 0.3, "seed": 0} | changes)
    return measure_pair(candidate, reference, setting, name_of_reference="small").record


def test_the_record_is_complete_and_consistent():
    m = measure(Net(2), Net(2))
    assert Measurement.from_dict(json.loads(json.dumps(m.to_dict()))) == m
    assert all(math.isfinite(v) for v in m.to_dict().values() if isinstance(v, float))
    assert m.throughput_low_img_s <= m.throughput_img_s <= m.throughput_high_img_s
    assert m.ratio_low <= m.ratio <= m.ratio_high
    assert m.reference_img_s > 0
    assert (m.batch, m.resolution, m.reference) == (4, 32, "small")
    assert m.device.endswith(thread_count())
    assert m.arm == f"fp32, channels-last, fused, eager, {thread_count()}"
    assert m.samples >= 2
    assert m.verdict in ("ok", "wide", TOO_FEW, SCATTERED, "contended")
    assert m.output_error < 1e-5
    assert m.requested_batch == 4
    assert m.seconds > 0
    assert m.latency_ms > 0


@pytest.mark.parametrize("batch", [1, 4])
def test_the_pages_lines_compute_a_record_from_its_raw_samples(batch, tmp_path, monkeypatch):
    """As docs/reference/measurement.md says: medians to the rounding, the interval as another bootstrap's."""
    setting = Setting(device="cpu", batch=batch, resolution=32, budget_s=0.3)
    found = measure_pair(Net(2), Net(1), setting, name_of_reference="small")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "abc.json").write_text(json.dumps(found.samples))
    trial = SimpleNamespace(arch_id="abc", measurement=found.record)
    study = SimpleNamespace(run_dir=tmp_path, models=[SimpleNamespace(trial=trial)])
    monkeypatch.setattr("nas.api.load_study", lambda run: study)
    page = (Path(__file__).parents[3] / "docs" / "reference" / "measurement.md").read_text()
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    record, interval = found.record, names["interval"]
    assert names["ratio"] == pytest.approx(record.ratio, rel=1e-4)
    assert names["latency_ms"] == pytest.approx(record.latency_ms, rel=1e-4)
    assert names["throughput_img_s"] == pytest.approx(record.throughput_img_s, rel=1e-4)
    assert interval.low <= names["ratio"] <= interval.high
    if record.samples < 2 * MIN_INTERVAL_SAMPLES:  # of two in each block; from more, it is another bootstrap's
        ends = (record.ratio_low, record.ratio_high)
        assert (interval.low, interval.high) == pytest.approx(ends, rel=1e-4)
    rows = page.split("| `candidate_s`")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+_s|\w+_spans|readings)`", "| `candidate_s`" + rows)) - {"at_s"} == set(found.samples)


def test_the_time_of_a_batch_is_told_by_stage():
    net = build(preset("eradio_femto"))
    stages_s = measure(net, net, resolution=64).stages_s
    ran = [name for name, _ in net.stage_modules() if name != "norm"]  # folded into what follows
    assert [name for name in stages_s if name != "norm"] == [*ran, "rest"]
    assert all(s > 0 for name, s in stages_s.items() if name != "rest")
    assert measure(Net(1), Net(1)).stages_s == {}


def test_nets_are_left_as_they_were_and_run_channels_last_in_eval_mode():
    class Watched(Net):
        def encode(self, images):
            calls.append((tuple(images.shape), images.is_contiguous(memory_format=torch.channels_last), self.training))
            return super().encode(images)

    calls: list[tuple[tuple[int, ...], bool, bool]] = []
    net = Watched(1).train()
    before = copy.deepcopy(net.state_dict())
    measure(net, Net(1), arm=Arm(precision="bf16"))
    assert net.training
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype
        for a, b in zip(net.state_dict().values(), before.values(), strict=True)
    )
    assert {shape for shape, _, _ in calls} == {(4, 3, 32, 32), (1, 3, 32, 32)}
    assert not any(training for _, _, training in calls)
    assert all(last for shape, last, _ in calls if shape[0] == 4)


def test_arms_decide_layout_precision_and_form():
    class Watched(Net):
        def encode(self, images):
            seen.add((images.dtype, images.is_contiguous(memory_format=torch.channels_last), "bn" in self._modules))
            return super().encode(images)

        def fuse(self):
            del self.bn

    def watched() -> Net:
        net = Watched(1)
        net.bn = nn.BatchNorm2d(16)
        return net

    seen: set[tuple[torch.dtype, bool, bool]] = set()
    arm = measure(watched(), Net(1), arm=Arm.parse("nchw+bf16+unfused")).arm
    assert arm.startswith("bf16, nchw, unfused, eager")
    assert {(torch.bfloat16, False, True)} == {s for s in seen if s[0] is torch.bfloat16}
    seen.clear()
    measure(Net(1), watched(), arm=Arm.parse("bf16"), reference_arm=Arm())
    assert (torch.float32, True, False) in seen, "the reference has an arm of its own"
    assert not any(dtype is torch.bfloat16 for dtype, _, _ in seen)


def test_output_that_is_not_finite_is_the_verdict():
    assert measure(Net(1, math.nan), Net(1)).verdict == "wrong output"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch: 0 must be positive"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not available here; choices: auto, cpu"),
    ],
)
def test_impossible_settings_are_one_line(change, message):
    with pytest.raises(ValueError) as caught:
        measure(Net(1), Net(1), **change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["eager", pytest.param("onnxruntime", marks=needs_onnxruntime)])
def test_an_arm_knows_which_fields_it_leaves_unknown(runtime):
    arm = Arm(runtime)
    found = measure(Net(1), Net(1), arm=arm)
    missing, unknown = {name for name, value in found.to_dict().items() if value is None}, arm.unknown_fields("cpu")
    assert unknown <= missing
    assert missing - {"latency_p95_ms", "latency_p99_ms"} <= unknown, "percentiles need more samples"


def test_peak_memory_by_hand():
    """Four 1x1 convolutions of 1 MiB maps, each freed when the next is there: two maps, weights and input at once."""
    net = nn.Sequential(*(nn.Conv2d(4, 4, 1, bias=False) for _ in range(4)))
    images = torch.zeros(1, 4, 256, 256)  # 1 MiB
    weights_mib = 4 * 16 * 4 / 2**20
    found = peak_memory(lambda: net(images), net, images)
    assert found.allocated_mib == pytest.approx(1 + 2 + weights_mib, abs=1e-6)
    assert (found.reserved_mib, found.driver_mib) == (None, None)


def test_peak_memory_sees_views_and_in_place_operators_once():
    images = torch.zeros(1, 1, 512, 512)  # 1 MiB

    def call():
        kept = images + 1
        view = kept.flatten(1).relu_()
        images.mul_(2)  # from outside: nothing new
        return view.reshape(512, 512).t(), kept.add_(1)

    assert peak_memory(call, nn.Identity(), images).allocated_mib == pytest.approx(2, abs=1e-6)


def test_memory_that_a_card_keeps_from_before_is_not_that_of_a_call(monkeypatch):
    """Compiling and the reference outputs leave 900 MiB in PyTorch's cache; the call takes 50 MiB."""
    card = {"kept": 900, "peak": 0}

    def empty_cache():
        card["kept"] = 0

    def reset(device):
        card["peak"] = card["kept"]

    def call():
        card["peak"] = max(card["peak"], 50)

    for name, answer in {
        "synchronize": lambda device: None,
        "empty_cache": empty_cache,
        "reset_peak_memory_stats": reset,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: 50 * 2**20,
        "max_memory_reserved": lambda device: card["peak"] * 2**20,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr("nas.measure.memory.nvml", lambda: None)
    images = SimpleNamespace(device=torch.device("cuda"), numel=lambda: 0, element_size=lambda: 4)
    found = peak_memory(call, nn.Identity(), images)
    assert (found.allocated_mib, found.reserved_mib, found.driver_mib) == (50, 50, None)


def test_inputs_beyond_the_memory_are_refused_and_not_drawn(monkeypatch):
    size = 4 * BUFFERS * 4 * 3 * 32 * 32  # bytes of the inputs: fp32, batch 4, 32 px
    monkeypatch.setattr("nas.measure.prepare.memory_bytes", lambda: size)
    setting = Setting(device="cpu", batch=4, resolution=32, budget_s=0.3, seed=0)
    assert sum(inputs.nbytes for inputs in images(setting)) == size
    with pytest.raises(MeasurementError, match="5 images of 32 px"):
        images(replace(setting, batch=5))


def test_environment_is_plain_and_names_no_host():
    import socket

    data = environment("auto")
    text = json.dumps(data)
    assert {"device", "device_name", "cpu", "threads", "torch", "timm", "python"} <= set(data)
    assert socket.gethostname() not in text
    assert "/" not in text
    with pytest.raises(DeviceError, match="choices: auto, cpu"):
        environment("tpu")
