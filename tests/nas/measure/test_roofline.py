"""Ceilings and bounds by hand, on a timer whose every call takes a millisecond."""

import json
from dataclasses import replace

import pytest
import torch

from nas.measure import roofline
from nas.measure.roofline import Bound, Ceilings, bound, load_ceilings, measure_ceilings, save_ceilings
from nas.measure.timers import Timing

CPU = torch.device("cpu")
PLAIN = Ceilings("a CPU", 2, "fp32", "2.0", gmacs_s=2.0, product_gmacs_s=2.0, gbytes_s=((100, 50.0), (1000, 10.0)))


class Steady:
    """Makes every call once; each took `seconds`, the first of all ten times that."""

    def __init__(self, seconds):
        self.seconds, self.clock, self.runs = seconds, 0.0, 0

    def now(self):
        return self.clock

    def run(self, calls, repeats):
        for call in calls:
            call()
            self.clock += self.seconds
        timings = [Timing(self.seconds, self.seconds) for _ in calls]
        self.runs += 1
        return [Timing(10 * self.seconds, 0), *timings[1:]] if self.runs == 1 else timings


def test_ceilings_by_hand():
    # Of all ways to move bytes, the one in place moves twice what it touches.
    found = measure_ceilings(CPU, "fp32", Steady(1e-3), sides=(32, 64), sizes=(2**12, 2**16))
    assert found.gmacs_s == pytest.approx(64**3 / 1e-3 / 1e9)
    assert found.gbytes_s == (
        (2**12, pytest.approx(2 * 2**12 / 1e-3 / 1e9)),
        (2**16, pytest.approx(2 * 2**16 / 1e-3 / 1e9)),
    )
    assert (found.threads, found.precision, found.torch) == (torch.get_num_threads(), "fp32", torch.__version__)


def test_convolutions_may_be_the_compute_ceiling(monkeypatch):
    # 2 images, 8 channels, maps of 4 x 4, 3 x 3 kernels: more than the largest product, which is of side 4.
    monkeypatch.setitem(roofline.CONVOLUTION, "cpu", (2, 8, 4))
    monkeypatch.setitem(roofline.MATMUL_SIDES, "cpu", (4,))
    found = measure_ceilings(CPU, "fp32", Steady(1e-3), sizes=(2**12,))
    assert found.gmacs_s == pytest.approx(2 * 4 * 4 * 9 * 8 * 8 / 1e-3 / 1e9)


@pytest.mark.parametrize(("precision", "product"), [("fp32", 1.0), ("fp16", 8.0)])
def test_matrix_products_on_a_gpu_in_fp32_have_the_ceiling_of_what_they_use(precision, product, monkeypatch):
    """No card is here: a product takes an eighth of the time where TF32 is allowed, or in fp16."""

    def rate(side, device, dtype, timer, tf32):
        return 8.0 if tf32 or dtype != torch.float32 else 1.0

    monkeypatch.setattr(roofline, "_matmul_gmacs_s", rate)
    monkeypatch.setattr(roofline, "_moving_gbytes_s", lambda *_: 1.0)
    monkeypatch.setattr(roofline, "device_name", lambda device: "a card")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False), "the defaults"
    found = measure_ceilings(torch.device("cuda"), precision, Steady(1e-3), sides=(32,), sizes=(2**12,))
    assert (found.gmacs_s, found.product_gmacs_s) == (8.0, product)


def test_real_ceilings_are_positive():
    found = measure_ceilings(CPU, "bf16", sides=(64,), sizes=(2**16,))
    assert found.gmacs_s > 0
    assert found.gbytes_s[0][1] > 0


@pytest.mark.parametrize(("touched", "rate"), [(10, 50), (999, 50), (1000, 20), (9000, 20)])
def test_bandwidth_is_the_fastest_from_the_size_below_upwards(touched, rate):
    assert replace(PLAIN, gbytes_s=((100, 50.0), (1000, 10.0), (2000, 20.0))).bandwidth(touched) == rate


def test_bounds_by_hand():
    flat = replace(PLAIN, gbytes_s=((1, 1.0),))  # 2 GMAC/s, 1 GB/s
    computing = bound([(4 * 10**9, 10**9, 1, False)], flat)
    assert (computing.attainable_s, computing.kind) == (pytest.approx(2), "compute")
    both = bound(
        [(4 * 10**9, 10**9, 1, False), (10**9, 3 * 10**9, 1, False)], flat
    )  # 2 s of computing, then 3 s of moving
    assert (both.attainable_s, both.kind) == (pytest.approx(5), "memory")
    assert bound([(4 * 10**9, 0, 1, True), (4 * 10**9, 0, 1, False)], replace(flat, product_gmacs_s=0.5)) == Bound(
        pytest.approx(8 + 2), "compute"
    )
    assert bound([], flat).kind == "none"
    assert bound([(0, 2000, 999, False)], PLAIN).attainable_s == pytest.approx(
        2000 / 50e9
    )  # what is touched decides the rate
    assert bound([(0, 2000, 1000, False)], PLAIN).attainable_s == pytest.approx(2000 / 10e9)


def test_ceilings_are_kept_by_device_threads_precision_and_torch(tmp_path):
    found = measure_ceilings(CPU, "fp32", Steady(1e-3), sides=(32,), sizes=(2**12,))
    assert load_ceilings(CPU, "fp32", tmp_path) is None
    save_ceilings(found, tmp_path)
    save_ceilings(found, tmp_path)
    assert load_ceilings(CPU, "fp32", tmp_path) == found
    assert load_ceilings(CPU, "bf16", tmp_path) is None
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert load_ceilings(CPU, "fp32", tmp_path) is None
    finally:
        torch.set_num_threads(threads)
    assert len(list(tmp_path.rglob("*"))) == 2  # a folder and a file


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: "",
        lambda d: json.dumps({**d, "gmacs_s": 0}),
        lambda d: json.dumps({key: value for key, value in d.items() if key != "product_gmacs_s"}),
        lambda d: json.dumps({**d, "torch": "1.0"}),
    ],
)
def test_damaged_ceilings_are_measured_again(damage, tmp_path):
    save_ceilings(measure_ceilings(CPU, "fp32", Steady(1e-3), sides=(32,), sizes=(2**12,)), tmp_path)
    (file,) = (tmp_path / "ceilings").iterdir()
    file.write_text(damage(json.loads(file.read_text())))
    assert load_ceilings(CPU, "fp32", tmp_path) is None
