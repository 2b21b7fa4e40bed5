"""The settings of timings: their words, which may be compared, and which take the place of those of a search. Pure."""

from __future__ import annotations

import re

from nas.numbers import plural
from nas.study.records import Measurement, Remeasurement, StudyInfo
from nas.study.timing_doubts import WRONG_OUTPUT

# Versions in an environment, which has those of the libraries of its own runtime alone.
MEASURED_WITH = ("torch", "timm", "cuda", "cudnn", "onnxruntime", "onnxruntime-gpu", "tensorrt")
ARROW = " → "
_NOT_FOLDED = re.compile(r" but for \d+ BatchNorms?")
_THREADS = re.compile(r", (\d+) thread(?:s|\(s\))?$")  # at the end of a device and of a runtime


def other_versions(info: StudyInfo, again: Remeasurement) -> list[str]:
    """Return the library versions that differ from the search's, as "torch: 2.6.0 → 2.13.0", where both are known.

    Timings of a remeasurement with other versions do not take the place of those of the search.
    """
    before, now = info.environment, again.environment
    names = [name for name in MEASURED_WITH if name in before and name in now and before[name] != now[name]]
    return [f"{name}: {before[name]}{ARROW}{now[name]}" for name in names]


def not_comparable(again: Remeasurement, m: Measurement) -> str | None:
    """Return why a measurement is not compared with others of its set: wrong output, a smaller batch; None if it is."""
    if m.verdict == WRONG_OUTPUT:
        differs = "" if m.output_error is None else f": differs from fp32 eager by {m.output_error:.2g}"
        return f"{WRONG_OUTPUT}{differs}"
    if m.batch < max(other.batch for other in again.measurements.values()):
        return f"memory: only {m.batch} of {m.requested_batch or m.batch} images fit"
    return None


def same_setting(a: Measurement, b: Measurement) -> bool:
    """Tell whether two timings answer one question: same device, runtime, batch, image size, reference.

    How many BatchNorms could not be folded is a fact of the model, not of the setting.
    """

    def setting(m: Measurement) -> tuple[object, ...]:
        runtime = _NOT_FOLDED.sub("", m.arm)
        return m.device, runtime, m.requested_batch or m.batch, m.batch, m.resolution, m.reference

    return setting(a) == setting(b)


def setting_words(m: Measurement) -> str:
    """Return a measurement's device, runtime, threads and batch: "AMD EPYC; fp32, eager; 1 measuring thread; batch 16".

    Records name the threads twice, with the CPU and with the runtime.
    """
    words = (without_threads(m.device), without_threads(m.arm), measuring_threads(m), f"batch {m.batch}")
    return "; ".join(filter(None, words))


def measuring_threads(m: Measurement) -> str:
    """Return the threads of a timed network, as "1 measuring thread"; "" where the record has none."""
    threads = _THREADS.search(m.arm)
    return "" if threads is None else f"{plural(int(threads[1]), 'measuring thread')}"


def without_threads(text: str) -> str:
    """Return a recorded device or runtime without the threads at its end."""
    return _THREADS.sub("", text)
