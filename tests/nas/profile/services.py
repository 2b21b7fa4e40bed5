"""Stand-ins for `nas.measure.service.MeasurementService`, for tests that are not about the process it starts."""

from dataclasses import replace
from typing import ClassVar

from nas.measure import Measured, measure_pair
from nas.measure.service import build_network
from nas.study.records import Measurement

KNOWN = Measurement(
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


class StandIn:
    """`measure` in a context."""

    def __init__(self, threads=None):
        self.threads = threads

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class InProcess(StandIn):
    """Measures in this process."""

    def measure(self, candidate, reference, setting, *, name_of_reference, limit_s=None):
        return measure_pair(
            build_network(candidate), build_network(reference), setting, name_of_reference=name_of_reference
        )


def scripted(answer):
    """A class of services that measure nothing.

    answer: (candidate, setting) to fields of a `Measurement`; what it raises is raised. The class's `asked` are the
    (candidate, reference, setting) that its services were given.
    """

    class Scripted(StandIn):
        asked: ClassVar[list] = []

        def measure(self, candidate, reference, setting, *, name_of_reference, limit_s=None):
            self.asked.append((candidate, reference, setting))
            known = {"batch": setting.batch, "resolution": setting.resolution, "reference": name_of_reference}
            return Measured(replace(KNOWN, **known | answer(candidate, setting)), {})

    return Scripted
