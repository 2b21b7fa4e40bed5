"""The list of architectures of the table of hybrid backbones."""

from __future__ import annotations

from collections import Counter

from experiments.hybrid_table import LAG, OF_A_FRONT, RANDOM, SECOND, SPACE, THIRD, entries, jobs
from search_space import SPACES


def test_architectures_are_distinct_and_of_the_space() -> None:
    listed = entries()
    assert len({entry.spec.arch_id for entry in listed}) == len(listed) >= 600
    assert all(SPACES[SPACE].contains(entry.spec) for entry in listed if entry.source != "baseline")
    counts = Counter(entry.source for entry in listed)
    assert counts["random"] <= RANDOM
    assert all(count <= OF_A_FRONT for source, count in counts.items() if source.startswith("front of"))
    assert len(counts) == 5


def test_an_unfinished_table_has_its_share_of_every_kind() -> None:
    first = Counter(entry.source for entry in entries()[:83])
    assert set(first.values()) == {3, 20}


def test_a_further_seed_follows_some_architectures_after_the_one_before() -> None:
    listed = jobs()
    place = {(spec.arch_id, seed): i for i, (_, spec, seed) in enumerate(listed)}
    assert all(place[arch, seed] - place[arch, seed - 1] >= LAG for arch, seed in place if seed)
    seeds = [seed for _, _, seed in listed]
    assert Counter(seeds)[1] == SECOND
    assert Counter(seeds)[2] == THIRD
    assert {spec.arch_id for _, spec, seed in jobs() if seed} <= {spec.arch_id for _, spec, seed in jobs() if not seed}
