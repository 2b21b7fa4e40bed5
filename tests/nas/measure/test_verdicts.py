"""Everything that can go wrong with a measurement, injected on a fake machine and card; each verdict is asserted."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nas.measure import Arm, Measured, MeasurementError, Setting, measure_pair, prepare
from nas.measure.conditions import Conditions, GpuWatch, HostWatch, thread_waited_s, watching
from nas.measure.measurement_error import BatchTooLargeError
from nas.measure.pair import MAX_TRIES, PAUSE_S, watch_for
from nas.measure.statistics import median_interval, ratio_interval
from nas.measure.timers import HostTimer
from nas.measure.verdicts import device_notes
from nas.study.timing_doubts import LAUNCH_BOUND, timing_doubt
from tests.nas.error_texts import OUT_OF_MEMORY, OUT_OF_MEMORY_OF_A_FULL_CARD
from tests.nas.measure.machine import STRANGER, GpuQueue, Machine, Net, Nvml, QueuedNet, QueuedTimer, Quiet
from tests.waiting import PATIENCE_S, until

HEAT, POWER_CAP, HARDWARE = 0x40, 0x04, 0x08


def measure(machine: Any, watch: Any = None, timer: Any = None, nets: Any = None, **changes: Any) -> Measured:
    setting = {"device": "cpu", "batch": 8, "resolution": 32, "budget_s": 3.0, **changes}
    candidate, reference = nets or (Net(machine, 0.001), Net(machine, 0.002, "reference"))
    return measure_pair(
        candidate,
        reference,
        Setting(**setting),
        name_of_reference="small",
        timer=timer or (QueuedTimer(machine, 1e-4) if isinstance(watch, GpuWatch) else machine.timer()),
        watch=watch or Quiet(),
    )


def card(machine: Machine, **answers: Any) -> Nvml:
    nvml = Nvml(machine)
    vars(nvml).update(answers)
    return nvml


def test_a_quiet_card_is_ok_and_what_it_was_like_is_in_the_record():
    machine = Machine(noise=0.003)
    nvml = card(machine)
    found = measure(machine, nvml.watch()).record
    assert (found.verdict, found.notes, found.tries) == ("ok", (), 1)
    assert found.ratio == pytest.approx(2, rel=0.01)
    assert found.conditions["clock_mhz"] == [1700, 1700, 1700]
    assert found.conditions["power_w"] == [300, 300, 300]
    assert found.energy_j == pytest.approx(0.001 * 300, rel=0.05)  # 300 W for a millisecond an image


def test_heat_that_passes_is_waited_for():
    machine = Machine(noise=0.003, slowdown=lambda now: 1.5 if now < 10 else 1.0)
    nvml = card(machine, reasons=lambda: HEAT if machine.now < 10 else 0)
    found = measure(machine, nvml.watch()).record
    assert (found.verdict, found.tries, machine.slept) == ("ok", 2, [PAUSE_S])
    assert found.throughput_img_s == pytest.approx(1000, rel=0.01), "what the hot card gave is thrown away"
    assert found.latency_ms == pytest.approx(1, rel=0.01)


def test_heat_that_stays_is_the_verdict_after_three_tries_and_the_value_is_kept():
    machine = Machine(noise=0.003)
    found = measure(machine, card(machine, reasons=lambda: HEAT).watch()).record
    assert (found.verdict, found.tries, machine.slept) == ("throttled", MAX_TRIES, [PAUSE_S] * (MAX_TRIES - 1))
    assert found.ratio == pytest.approx(2, rel=0.01)
    assert [re.search(r"heat \(hardware\).* 3 tries", note) is not None for note in found.notes] == [True]


@pytest.mark.parametrize(
    ("bits", "readings", "verdict"),
    [
        (HEAT, 1, "ok"),
        (HEAT, 2, "throttled"),
        (HARDWARE, 1000, "ok"),
        (HARDWARE | HEAT, 1000, "throttled"),
    ],
)
def test_a_slowdown_counts_that_is_more_than_a_moment(bits, readings, verdict):
    """NVML also reports a hardware slowdown alone while the clock changes."""
    machine = Machine(noise=0.003)
    nvml = card(machine)
    watch, left = nvml.watch(), [0]
    begin = watch.begin
    watch.begin = lambda: (left.append(readings), begin())
    nvml.reasons = lambda: bits if left.append(left[-1] - 1) or left[-1] >= 0 else 0
    found = measure(machine, watch).record
    assert (found.verdict, found.tries) == (verdict, 1 if verdict == "ok" else MAX_TRIES)
    assert len(found.notes) == 1


def test_a_clock_that_differs_between_the_arms_is_the_verdict():
    machine = Machine(noise=0.003)  # the ratio is known to 1 % after a third of a second
    nvml = card(machine, clock_mhz=lambda: 1700 if machine.running == "reference" else 1400)
    assert measure(machine, nvml.watch()).record.verdict == "clock changed"
    nvml = card(machine, clock_mhz=lambda: 1700 if machine.now % 1 < 0.5 else 1400)  # with time, not with the arm
    assert measure(machine, nvml.watch(), budget_s=20.0).record.verdict == "ok"


@pytest.mark.parametrize("image_s", [0.0002, 0.004])
def test_a_clock_has_enough_readings_under_both_networks_however_fast_they_are(image_s):
    machine = Machine(noise=0.003)
    nets = (Net(machine, image_s), Net(machine, 1.25 * image_s, "reference"))
    watch = card(machine, clock_mhz=lambda: 1700 if machine.running == "reference" else 1400).watch()
    assert measure(machine, watch, nets=nets).record.verdict == "clock changed"


@pytest.mark.parametrize(
    ("processes", "tells", "verdict", "others"),
    [
        ({STRANGER: 4, STRANGER + 1: 2}, True, "contended", 2),
        ({STRANGER: 1}, True, "ok", 1),  # a screen
        ({STRANGER: 0}, True, "ok", 0),  # a trainer that waits for the lock keeps its context
        ({STRANGER: 0}, False, "contended", 1),  # who computes is not told: who is there counts
    ],
)
def test_others_on_the_card(processes, tells, verdict, others):
    machine = Machine(noise=0.003)
    nvml = card(machine, tells_utilisation=tells)
    nvml.processes |= processes
    found = measure(machine, nvml.watch()).record
    assert found.verdict == verdict
    assert found.conditions["other_processes"] == others
    assert len(found.notes) == bool(others)
    assert "contention_unknown" not in found.conditions


def test_work_of_others_is_its_share_of_all_samples():
    """A driver may give several samples of a process: this one computed in one sixth of a second of a whole one."""
    machine = Machine(noise=0.003)
    nvml = card(machine)
    samples = [nvml.sample(os.getpid(), 95, 1e5 * k) for k in range(10, 16)] + [nvml.sample(STRANGER, 24, 1e6)]
    nvml.nvmlDeviceGetProcessUtilization = lambda handle, since_us: samples
    found = measure(machine, nvml.watch()).record
    assert (found.verdict, found.conditions["other_gpu_share"]) == ("ok", pytest.approx(0.04))


def test_processes_that_nvml_did_not_sample_are_unknown():
    """A measurement of less than a second; not even this process, which kept the GPU busy, has a sample."""
    machine = Machine(noise=0.003)
    nvml = card(machine, sample_s=100.0)
    nvml.processes[STRANGER] = 40
    found = measure(machine, nvml.watch()).record
    assert (found.verdict, found.conditions["contention_unknown"]) == ("ok", True)
    assert len(found.notes) == 1
    nvml.sample_s, nvml.processes = 1.0, {STRANGER: 1, os.getpid(): 0}
    assert measure(machine, nvml.watch()).record.conditions["contention_unknown"] is True


def test_in_a_container_one_of_the_unknown_processes_is_ours():
    machine = Machine(noise=0.003)
    assert measure(machine, card(machine, processes={STRANGER: 90}).watch()).record.verdict == "ok"
    both = {STRANGER: 90, STRANGER + 1: 20}
    assert measure(machine, card(machine, processes=both).watch()).record.verdict == "contended"
    assert measure(machine, card(machine, processes={}).watch()).record.verdict == "ok"


def test_a_container_whose_driver_gives_the_hosts_ids_for_the_utilization_alone():
    """As driver 560.35.03: the list of processes has the id in the container, the utilization that of the host."""
    machine = Machine(noise=0.003)
    nvml = card(machine, host_ids={os.getpid(): STRANGER, STRANGER + 1: STRANGER + 2})
    assert measure(machine, nvml.watch()).record.verdict == "ok"
    nvml.processes[STRANGER + 1] = 20
    assert measure(machine, nvml.watch()).record.conditions["other_processes"] == 1


def test_what_a_card_does_not_tell_is_said_and_the_rest_still_counts():
    machine = Machine(noise=0.003)
    nvml = card(machine, reasons=lambda: HEAT)

    def fails() -> float:
        raise nvml.NVMLError

    nvml.clock_mhz = nvml.watts = fails
    found = measure(machine, nvml.watch()).record
    assert found.verdict == "throttled", "heat is told all the same"
    assert any("clocks" in note for note in found.notes)
    assert "clock_mhz" not in found.conditions
    assert found.energy_j is None


def test_a_card_that_nvml_does_not_know_is_said_to_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a GPU (MIG), or a container without NVML: a verdict of "ok" would seem to know that it was cool."""
    monkeypatch.setattr("nas.measure.pair.nvml", lambda: None)
    watch = watch_for(torch.device("cuda"))
    watch.begin()
    conditions = watch.end()
    assert conditions.contention_unknown
    assert len(device_notes(replace(conditions, wait_share=0.0, other_busy_cores=0.0))) == 2
    assert watch.energy_j() is None


def test_waiting_for_a_core_is_contention(tmp_path):
    """A /proc in which our one thread runs half of the time and waits for the other half."""
    machine = Machine(noise=0.003)
    (tmp_path / "self" / "task" / "7").mkdir(parents=True)

    class Proc(HostWatch):
        def write(self):
            half = int(machine.now * 0.5e9)
            (self.proc / "self" / "task" / "7" / "schedstat").write_text(f"{half} {half} 9\n")

        def begin(self):
            self.write()
            super().begin()

        def end(self):
            self.write()
            return super().end()

    found = measure(machine, Proc(tmp_path)).record
    assert found.verdict == "contended"
    assert found.conditions["wait_share"] == pytest.approx(0.5, abs=0.01)
    assert re.search("core.* 50%", found.notes[0])
    assert "contention_unknown" not in found.conditions
    assert "other_busy_cores" not in found.conditions, "this /proc has no stat"


@pytest.mark.parametrize(("host_s", "verdict"), [(1e-4, "ok"), (9e-3, "contended")])
def test_a_gpu_is_contended_where_it_waits_for_a_process_that_waits_for_a_core(tmp_path, host_s, verdict):
    """A batch takes the GPU 8 ms; the thread that launches it waits as long for a core as it has one."""
    machine = Machine(noise=0.003)
    nvml = card(machine, proc=tmp_path)
    schedstat = tmp_path / "self" / "task" / "7" / "schedstat"
    schedstat.parent.mkdir(parents=True)

    def clock() -> float:  # read at both ends of a watch
        half = int(machine.now * 0.5e9)
        schedstat.write_text(f"{half} {half} 9\n")
        return 1700.0

    clock()
    nvml.clock_mhz = clock
    found = measure(machine, nvml.watch(), QueuedTimer(machine, host_s)).record
    assert found.verdict == verdict
    assert found.conditions["wait_share"] == pytest.approx(0.5, abs=0.01)
    assert (found.launch_share > 0.9) == (verdict == "contended")


def test_a_system_that_reports_no_wait_for_a_core_gets_a_note(tmp_path):
    """macOS has no /proc."""
    found = measure(Machine(), HostWatch(tmp_path / "none")).record
    assert found.verdict == "ok"
    assert found.conditions["contention_unknown"] is True
    (note,) = found.notes
    assert "does not report the wait for a core" in note


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux")
def test_the_real_proc_tells_of_processes_that_share_the_cores():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    spin = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
    other = subprocess.Popen([sys.executable, "-c", spin])
    try:
        watch = HostWatch()
        watch.begin()
        start, before = time.monotonic(), thread_waited_s()
        while thread_waited_s() < before + 0.2:
            pass
        waited_s, found = thread_waited_s() - before, watch.end()
        elapsed_s = time.monotonic() - start
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)
    assert found.other_busy_cores > 0
    assert found.wait_share > 0
    assert waited_s < elapsed_s


def test_time_without_a_core_is_taken_off_and_never_more_than_was_lost_in_the_calls():
    """A clock on which a call takes 10 ms, and what the scheduler takes."""
    now, waited = [0.0], [0.0]

    def preempted(seconds: float) -> None:
        now[0] += seconds
        waited[0] += seconds

    def call() -> None:
        now[0] += 0.010
        preempted(0.004)

    timer = HostTimer(lambda: now[0], waited=lambda: waited[0])
    assert timer.run([call], [3])[0].device_s == pytest.approx(0.010)

    def read_slowly() -> float:
        found = waited[0]
        preempted(0.005)  # while we ask
        return found

    timer = HostTimer(lambda: now[0], waited=read_slowly)
    assert timer.run([call], [3])[0].device_s >= 0.010


def test_of_equal_work_the_net_of_more_kernels_is_slower_and_the_speed_is_doubtful():
    """The interval is narrow, around the ratio of the numbers of kernels."""
    queue = GpuQueue()
    found = measure(queue, timer=queue, nets=[QueuedNet(queue, 2.5e-5, kernels) for kernels in (150, 50)]).record
    assert found.ratio == pytest.approx(0.35, abs=0.02)
    assert found.ratio_high / found.ratio_low < 1.01
    assert found.verdict == timing_doubt(found) == LAUNCH_BOUND
    large = measure(queue, timer=queue, nets=[QueuedNet(queue, 2.5e-5, k) for k in (150, 50)], batch=128).record
    assert (large.verdict, timing_doubt(large)) == ("ok", None)
    assert large.ratio == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("most", "text"), [(0, OUT_OF_MEMORY[0]), (1, OUT_OF_MEMORY[0]), (5, OUT_OF_MEMORY_OF_A_FULL_CARD[0])]
)
def test_out_of_memory_at_any_batch(most, text, monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (0, 80 * 2**30))
    machine = Machine(noise=0.003)
    nets = (Net(machine, 0.001, most_images=most, text=text), Net(machine, 0.002))
    if not most:
        with pytest.raises(MeasurementError, match="memory") as caught:
            measure(machine, nets=nets)
        assert caught.value.verdict == "out of memory"
        return
    found = measure(machine, nets=nets, budget_s=1.0).record
    assert (found.requested_batch, found.batch, found.verdict) == (8, most, "out of memory")
    assert found.throughput_img_s == pytest.approx(1000, rel=0.01), "images of the batch that was used"
    assert found.notes


@pytest.mark.parametrize(
    ("fits_eagerly", "message"),
    [(5, "only 5 images of the batch of 8 fit"), (8, "the batch of 8 fits in eager mode only")],
)
def test_a_smaller_batch_that_nobody_wants_is_named_without_compiling_for_it(monkeypatch, fits_eagerly, message):
    compiled: list[int] = []

    def attempt(models, inputs, expected, setting, device, batch):
        if setting.arm.runtime == "eager":
            return "ready" if batch <= fits_eagerly else None
        return compiled.append(batch)

    monkeypatch.setattr(prepare, "_attempt", attempt)
    setting = Setting("cpu", 8, 32, Arm("compiled"), smaller_batch=False)
    with pytest.raises(BatchTooLargeError, match=message) as caught:
        prepare.prepare_pair((None, None), (), None, setting, torch.device("cpu"))
    assert compiled == [8]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.verdict, str(again)) == (BatchTooLargeError, "out of memory", message)


def test_memory_that_is_short_with_both_nets_there_is_a_smaller_batch():
    """Alone the candidate runs at 8 images, beside the reference at 6."""
    machine = Machine(noise=0.003)

    class Crowded(Net):
        def encode(self, images):
            if len(images) > 6 and machine.running == "reference":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().encode(images)

    found = measure(machine, nets=(Crowded(machine, 0.001), Net(machine, 0.002, "reference")), budget_s=1.0).record
    assert found.verdict == "out of memory"
    assert found.batch == 6


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken(Net):
        def encode(self, images):
            if len(images) == 8:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().encode(images)

    machine = Machine()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        measure(machine, nets=(Broken(machine, 0.001), Net(machine, 0.002)))


def test_output_that_differs_from_fp32_eager_is_the_verdict():
    class Forgetful(Net):
        """Right for two images, as the network is checked with, and wrong in a batch."""

        def encode(self, images):
            out = super().encode(images)
            return out * 1.02 if len(images) > 2 else out

    machine = Machine(noise=0.003)
    found = measure(machine, nets=(Forgetful(machine, 0.001), Net(machine, 0.002))).record
    assert found.verdict == "wrong output"
    assert found.output_error == pytest.approx(0.02, rel=0.01)


def test_the_most_serious_is_said():
    machine = Machine(noise=0.3)
    nvml = card(machine, reasons=lambda: HEAT)
    nvml.processes[STRANGER] = 50
    nets = (Net(machine, 0.001, most_images=4), Net(machine, 0.002))
    assert measure(machine, nvml.watch(), nets=nets, budget_s=1.0).record.verdict == "out of memory"
    assert measure(machine, nvml.watch(), budget_s=1.0).record.verdict == "contended"


def test_a_report_can_compute_the_numbers_again_from_the_raw_samples():
    machine = Machine(noise=0.02)
    nvml = card(machine)
    found = measure(machine, nvml.watch(), seed=3)
    raw = json.loads(json.dumps(found.samples))
    candidate, reference = np.array(raw["candidate_s"]), np.array(raw["reference_s"])
    assert candidate.shape == reference.shape == (found.record.samples // 2, 2)
    rng = np.random.default_rng(0)
    again = median_interval(candidate.ravel(), rng)
    assert found.record.throughput_img_s == pytest.approx(8 / again.value)
    assert found.record.throughput_low_img_s == pytest.approx(8 / again.high, rel=0.005)
    ratio = ratio_interval(candidate, reference, rng)
    assert (found.record.ratio, found.record.ratio_low) == pytest.approx((ratio.value, ratio.low), rel=0.005)
    assert found.record.latency_ms == pytest.approx(np.median(raw["latencies_s"]) * 1e3)
    spans = np.sort(np.concatenate([raw["candidate_spans"], raw["reference_spans"]]), axis=0)
    assert np.all(spans[1:, 0] >= spans[:-1, 1] - 1e-6), "samples do not overlap"
    assert len(raw["readings"]) >= 10


def test_latency_and_throughput_are_of_the_same_moments():
    """A machine that becomes three times slower after a quarter of a second slows both."""
    quiet = measure(Machine(), budget_s=1.5).record
    slower = measure(Machine(slowdown=lambda now: 1.0 if now < 0.25 else 3.0), budget_s=1.5).record
    assert quiet.latency_ms == pytest.approx(1.0)
    assert slower.latency_ms / quiet.latency_ms == pytest.approx(quiet.throughput_img_s / slower.throughput_img_s)
    assert slower.latency_ms == pytest.approx(3.0)


def test_at_batch_1_latency_and_throughput_are_one_number():
    machine = Machine(noise=0.2)
    found = measure(machine, nets=(Net(machine, 0.004), Net(machine, 0.002)), batch=1, budget_s=1.5)
    assert found.record.latency_ms == pytest.approx(1e3 / found.record.throughput_img_s)
    assert found.record.latency_ms == pytest.approx(np.median(found.samples["latencies_s"]) * 1e3)


def test_percentiles_of_the_latency_where_there_are_enough():
    machine = Machine(noise=0.1)
    found = measure(machine, budget_s=3.0).record  # 0.45 s of calls of a millisecond
    assert found.latency_ms < found.latency_p95_ms < found.latency_p99_ms
    assert found.latency_p95_ms == pytest.approx(np.exp(0.1 * 1.645), rel=0.03)
    few = measure(Machine(noise=0.1), budget_s=1.0).record
    assert few.latency_p95_ms is not None
    assert few.latency_p99_ms is None, "150 calls do not tell"


@pytest.mark.parametrize("fails", [False, True])
def test_polling_in_a_thread_ends_with_the_measurement(fails):
    polls, threads = [], set(threading.enumerate())
    watch = SimpleNamespace(begin=lambda: None, poll=lambda: polls.append(1), end=lambda: Conditions(other_processes=1))
    with suppress(MeasurementError), watching(watch, hertz=200.0) as conditions:
        (thread,) = set(threading.enumerate()) - threads
        until(lambda: len(polls) >= 3)
        if fails:
            raise MeasurementError("crash", "the process was ended")
        assert conditions().other_processes == 1
        assert not thread.is_alive()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
