"""What a study asks next: a baseline, or an architecture that it does not have."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from nas.records import TrialRecord, TrialState
from nas.spaces import Architecture, Architectures
from nas.store import Store
from search_space import preset

_REPEATS_LIMIT = 20  # repeats in a row after which a new neighbour of the repeated architecture is taken


class Asker:
    """Asks the store's sampler, for who is alone with the study (`Store.alone`)."""

    def __init__(self, store: Store, space: Architectures) -> None:
        self._store, self._space = store, space

    def baseline(self, name: str) -> TrialRecord:
        """A reference backbone; its parameters are told to the sampler where the space contains it."""
        spec = preset(name)
        inside = self._space.contains(spec)
        number, _ = self._store.ask(
            self._space.choices() if inside else {}, self._space.encode(spec) if inside else None
        )
        return _new(number, spec, baseline=name)

    def new(self, seen: Collection[str], now_s: float) -> tuple[list[TrialRecord], str | None]:
        """An architecture that is not `seen`, after the repeats, which are stored and never run; or why there is none.

        `now_s` is when the repeats end, in seconds of the study.
        """
        asked: list[TrialRecord] = []
        if len(seen) >= self._space.count():
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

    def _unseen_neighbour(self, spec: Architecture, seen: Collection[str], rng: random.Random) -> Architecture:
        for _ in range(1000):
            spec = self._space.mutate(spec, rng)
            if spec.arch_id not in seen:
                break
        return spec


def _new(number: int, spec: Architecture, baseline: str | None = None) -> TrialRecord:
    return TrialRecord(number, spec.arch_id, spec.to_dict(), TrialState.RUNNING, baseline)
