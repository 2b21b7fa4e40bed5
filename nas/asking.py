"""What a study asks next: a baseline, or an architecture that it does not have."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Protocol

from nas.records import TrialRecord, TrialState
from nas.spaces import Architecture, Architectures
from search_space import preset

_REPEATS_LIMIT = 20  # repeats in a row after which a new neighbour of the repeated architecture is taken


class TrialStore(Protocol):
    """A store of trials with a sampler."""

    def ask(
        self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the number of a new trial and its parameters: the sampler's, or `fixed`."""

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> bool:
        """Write a trial and, where it is complete, its objectives; return False where it is another driver's."""


class Asker:
    """Asks the store's sampler for a driver that is alone with the study (`StudyStore.alone`).

    Args:
        baselines: names of the study's reference backbones.
    """

    def __init__(self, store: TrialStore, space: Architectures, baselines: Sequence[str] = ()) -> None:
        self._store, self._space = store, space
        specs = [preset(name) for name in baselines]
        self._foreign = frozenset(spec.arch_id for spec in specs if not space.contains(spec))  # not in the space

    def baseline(self, name: str) -> TrialRecord:
        """A reference backbone; its parameters are told to the sampler where the space contains it."""
        spec = preset(name)
        inside = self._space.contains(spec)
        number, _ = self._store.ask(
            self._space.choices() if inside else {}, self._space.encode(spec) if inside else None
        )
        return _new(number, spec, baseline=name)

    def new(self, seen: Set[str], now_s: float) -> tuple[list[TrialRecord], str | None]:
        """An architecture that is not `seen`, after the repeats, which are stored and never run; or why there is none.

        `now_s` is when the repeats end, in seconds of the study.
        """
        asked: list[TrialRecord] = []
        if len(seen) - len(self._foreign & seen) >= self._space.count():
            return asked, f"the space has only {self._space.count()} architectures"
        fixed: dict[str, Any] | None = None
        for repeats in range(2 * _REPEATS_LIMIT):
            number, params = self._store.ask(self._space.choices(), fixed)
            spec = self._space.decode(params)
            record = _new(number, spec)
            if spec.arch_id not in seen:
                return [*asked, record], None
            asked.append(replace(record, state=TrialState.DUPLICATE, finished_s=now_s))
            self._store.save(asked[-1])  # now: the sampler's next look is to see it
            if repeats >= _REPEATS_LIMIT:
                fixed = self._space.encode(self._unseen_neighbour(spec, seen, random.Random(number)))
        return asked, "the sampler finds no new architecture"

    def _unseen_neighbour(self, spec: Architecture, seen: Set[str], rng: random.Random) -> Architecture:
        for _ in range(1000):
            spec = self._space.mutate(spec, rng)
            if spec.arch_id not in seen:
                break
        return spec


def _new(number: int, spec: Architecture, baseline: str | None = None) -> TrialRecord:
    return TrialRecord(number, spec.arch_id, spec.to_dict(), TrialState.RUNNING, baseline)
