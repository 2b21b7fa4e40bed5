"""Parents are those that trained longest; children are new."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from nas.samplers.evolution import Evolution
from nas.study.records import TrialState
from search_space import SPACES, ArchSpec
from tests.nas.study.builders import OBJECTIVES, record

SPACE = SPACES["micro"]


def test_rung_reached_comes_before_score() -> None:
    evolution = Evolution(SPACE, OBJECTIVES, population=2, parents=2)
    short = [replace(record(i, (0.9,), 4.0), state=TrialState.STOPPED) for i in range(3)]
    long = [record(10, (0.2, 0.3), 1.0), record(11, (0.2, 0.4), 2.0)]
    parents = [spec.arch_id for spec in evolution.select_parents([*short, *long])]
    assert parents == [long[1].arch_id, long[0].arch_id]


def test_a_failed_model_is_no_parent() -> None:
    evolution = Evolution(SPACE, OBJECTIVES, population=3)
    failed = replace(record(9, (0.3, 0.4), 2.0), state=TrialState.FAILED)
    parents = evolution.select_parents([*(record(i, (0.2, 0.3), 1.0) for i in range(3)), failed])
    assert len(parents) == 3
    assert failed.arch_id not in {spec.arch_id for spec in parents}


def test_a_baseline_is_no_parent() -> None:
    evolution = Evolution(SPACE, OBJECTIVES, population=3)
    baseline = replace(record(9, (0.9,), 9.0), baseline="eradio_pico")
    trials = [record(i, (0.2,), 1.0) for i in range(3)]
    assert evolution.select_parents([*trials[:2], baseline]) == [], "it does not count as one of the population either"
    parents = {spec.arch_id for spec in evolution.select_parents([*trials, baseline])}
    assert parents == {t.arch_id for t in trials}


class Logged:
    """The space; it lists the parents of crossovers, and the first parent of every child."""

    def __init__(self) -> None:
        self.crossed: list[tuple[ArchSpec, ArchSpec]] = []
        self.first: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(SPACE, name)

    def crossover(self, first: ArchSpec, second: ArchSpec, rng: random.Random) -> ArchSpec:
        self.crossed.append((first, second))
        return first

    def mutate(self, spec: ArchSpec, rng: random.Random) -> ArchSpec:
        self.first.append(spec.arch_id)
        return SPACE.mutate(spec, rng)


def test_better_parents_have_more_children_and_a_share_of_the_children_has_two_parents() -> None:
    space = Logged()
    evolution = Evolution(space, OBJECTIVES, population=4)  # type: ignore[arg-type]
    trials = [record(i, (0.1 * i,), 1.0 + i) for i in range(4)]  # each dominates those before it
    for seed in range(400):
        evolution.propose(trials, random.Random(seed))
    children = [space.first.count(trial.arch_id) for trial in trials]
    assert children == sorted(children)
    assert children[-1] == pytest.approx(7 / 16 * len(space.first), rel=0.15)  # it wins every tournament that it is in
    assert len(space.crossed) == pytest.approx(0.3 * len(space.first), rel=0.15)
    assert any(first != second for first, second in space.crossed)


def test_children_are_new_and_in_the_space() -> None:
    evolution = Evolution(SPACE, OBJECTIVES, population=5)
    trials = [record(i, (0.1 * i,), 1.0 + i) for i in range(8)]
    seen = {t.arch_id for t in trials}
    for seed in range(50):
        child = evolution.propose(trials, random.Random(seed))
        assert SPACE.contains(child)
        assert child.arch_id not in seen
