"""Services in place of `nas.measure.service.MeasurementService`, for tests that need no measuring process."""

from dataclasses import replace
from typing import ClassVar

from nas.measure import Measured, measure_pair
from nas.measure.service import build_network
from nas.study.records import Measurement

MEASUREMENT = Measurement(
    device="a card",
    arm="fp32, channels-last, fused, eager",
    batch=2,
    resolution=64,
    throughput_img_s=100.0,
    throughput_low_img_s=98.0,
    throughput_high_img_s=103.0,
    ratio=1.0,
    ratio_low=0.99,
    ratio_high=1.02,
    reference="itself",
    reference_img_s=100.0,
    latency_ms=2.5,
    peak_memory_mib=11.5,
    samples=30,
    seconds=1.0,
    verdict="ok",
    output_error=1e-6,
)


class LocalService:
    """A context manager as `MeasurementService` is, without a process."""

    def __init__(self, threads=None):
        self.threads = threads

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class InProcess(LocalService):
    """A service that measures in this process."""

    def measure(self, candidate, reference, setting, *, name_of_reference, limit_s=None):
        return measure_pair(
            build_network(candidate), build_network(reference), setting, name_of_reference=name_of_reference
        )


def scripted(answer):
    """Return a class of services that measure nothing. Its `requests` lists (candidate, reference, setting).

    Args:
        answer: Maps (candidate, setting) to fields of a `Measurement`, or raises.
    """

    class Scripted(LocalService):
        requests: ClassVar[list] = []

        def measure(self, candidate, reference, setting, *, name_of_reference, limit_s=None):
            self.requests.append((candidate, reference, setting))
            fields = {"batch": setting.batch, "resolution": setting.resolution, "reference": name_of_reference}
            return Measured(replace(MEASUREMENT, **fields | answer(candidate, setting)), {})

    return Scripted
