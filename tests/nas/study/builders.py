"""Builders of small records for tests."""

from __future__ import annotations

import random

from nas.study.config import DistillConfig, SearchConfig
from nas.study.records import Measurement, Objective, RungResult, StudyInfo, TrialRecord, TrialState
from search_space import SPACES

OBJECTIVES = (
    Objective("score", "score", "", reference=0.0),
    Objective("throughput", "throughput", "x", reference=0.125, log=True),
)


def measurement(ratio: float) -> Measurement:
    return Measurement(
        device="cpu", arm="fp32", batch=16, resolution=64, throughput_img_s=1000 * ratio,
        throughput_low_img_s=990 * ratio, throughput_high_img_s=1010 * ratio, ratio=ratio, ratio_low=ratio * 0.99,
        ratio_high=ratio * 1.01, reference="eradio_pico", reference_img_s=1000.0, latency_ms=1.0, peak_memory_mib=10.0,
        samples=30, seconds=0.5, verdict="ok",
    )  # fmt: skip


def rung(index: int, score: float) -> RungResult:
    teachers = {"lite0": {"summary": score, "spatial": score}}
    return RungResult(index, 10 * 3**index, score, teachers, {"lite0/summary": 1 - score}, {}, 1.0)


def record(number: int, scores: tuple[float, ...], ratio: float) -> TrialRecord:
    """A complete trial of a random architecture."""
    spec = SPACES["micro"].sample(random.Random(number))
    rungs = tuple(rung(i, q) for i, q in enumerate(scores))
    known = {"params": 10**6, "macs": 10**7, "measurement": measurement(ratio), "rungs": rungs}
    return TrialRecord(number, spec.arch_id, spec.to_dict(), TrialState.COMPLETE, **known)  # type: ignore[arg-type]


def study_info(config: SearchConfig) -> StudyInfo:
    return StudyInfo(
        name="test", created="2026-11-24T00:00:00+00:00", command="test", config=config.to_dict(), environment={},
        objectives=OBJECTIVES, rung_steps=config.distill.rung_steps, limits=config.limits, teachers={"lite0": "f"},
        data={"name": "builtin", "fingerprint": "f"}, reference=config.reference, baselines=config.baselines,
        sessions=({"started": "2026-11-24T00:00:00+00:00", "began_s": 0.0, "wall_s": 0.0},),
    )  # fmt: skip


def search_config(**settings: object) -> SearchConfig:
    recipe = DistillConfig(rung_steps=(10, 30))
    plain = {"budget": 12, "space": "micro", "sampler": "evolution", "device": "cpu", "scale": (), "distill": recipe}
    presets = SPACES["micro"].baselines
    return SearchConfig(**{**plain, "baselines": presets, **settings})  # type: ignore[arg-type]
