"""Finalists made up by hand, of the small study of the reranking tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nas.finals.standing import RERANK
from nas.records import Finalist, Rerank, RungResult
from tests.nas.reranking.builders import REFERENCE
from tests.nas.study_builders import measurement, rung


def trained(number: int, qualities: Mapping[int, float], steps: int = 90, at_30: float | None = None) -> list[Finalist]:
    """By seed, the quality after `steps`; after 30 steps all have `at_30`, or half of it."""

    def rungs(quality: float) -> tuple[RungResult, ...]:
        return rung(1, quality / 2 if at_30 is None else at_30), replace(rung(2, quality), steps=steps)

    return [Finalist(number, seed, steps, "2026-11-25", "cpu", rungs(q)) for seed, q in qualities.items()]


def failed(number: int, seed: int, reason: str, steps: int = 90) -> Finalist:
    return Finalist(number, seed, steps, "2026-11-25", "cpu", (rung(1, 0.1),), reason)


def measured(ratios: Mapping[int, float], unmeasured: Mapping[int, str] | None = None) -> Rerank:
    now = {number: measurement(ratio) for number, ratio in ratios.items()}
    setting = {"batch": 16, "reference": REFERENCE}
    return Rerank(RERANK, "2026-11-25", "c", {}, setting, None, now, dict(unmeasured or {}))
