"""Propose the next trial of a search: a baseline, or an architecture that the study does not have."""

from __future__ import annotations

import random
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from nas.numbers import plural
from nas.study.records import TrialRecord, TrialState
from nas.study.space_protocol import Architecture, Proposal, SearchSpace
from nas.study.study_store import StudyStore

_REPEATS_LIMIT = 20  # repeats in a row after which a new neighbor of the repeated architecture is evaluated
_STEPS = 1000  # of mutation from it, and random draws after them

# Beginnings of the reasons why there is no new architecture.
SPACE_EXHAUSTED, NOTHING_NEW = "the space has only", "the sampler finds no new architecture"


class TrialProposer:
    """Proposes new trials, from the store's sampler; only within `StudyStore.transaction`.

    Args:
        store: The study.
        space: The search space.
        baselines: The study's reference backbones by name.
    """

    def __init__(self, store: StudyStore, space: SearchSpace, baselines: Mapping[str, Architecture]) -> None:
        self._store, self._space, self._baselines = store, space, baselines
        self._foreign = frozenset(spec.arch_id for spec in baselines.values() if not space.contains(spec))

    def baseline(self, name: str) -> TrialRecord:
        """Return the trial of a reference backbone; the sampler gets its parameters if the space contains it."""
        spec = self._baselines[name]
        inside = self._space.contains(spec)
        choices, fixed = (self._space.choices(), self._space.encode(spec)) if inside else ({}, None)
        return _new(self._store.ask(choices, fixed), spec, baseline=name)

    def new(self, seen: Set[str], now_s: float) -> tuple[list[TrialRecord], str | None]:
        """Return the trial of a new architecture, after the sampler's repeats, which are stored and never run.

        Args:
            seen: Ids of the architectures that the study has.
            now_s: End of the repeats, in seconds of the study.

        Returns:
            The trials, and None; where there is no new architecture, the repeats and the reason.
        """
        proposed: list[TrialRecord] = []
        if len(seen) - len(self._foreign & seen) >= self._space.count():
            return proposed, f"{SPACE_EXHAUSTED} {plural(self._space.count(), 'architecture')}"
        fixed: dict[str, Any] | None = None
        for repeats in range(2 * _REPEATS_LIMIT):
            proposal = self._store.ask(self._space.choices(), fixed)
            spec = self._space.decode(proposal.params)
            record = _new(proposal, spec)
            if spec.arch_id not in seen:
                return [*proposed, record], None
            proposed.append(replace(record, state=TrialState.DUPLICATE, finished_s=now_s))
            self._store.save(proposed[-1])  # before the sampler's next proposal, which depends on it
            if repeats >= _REPEATS_LIMIT:
                fixed = self._space.encode(self._unseen_neighbor(spec, seen, random.Random(proposal.number)))
        return proposed, NOTHING_NEW

    def _unseen_neighbor(self, spec: Architecture, seen: Set[str], rng: random.Random) -> Architecture:
        for step in range(2 * _STEPS):  # mutations may lead back to the same few architectures
            spec = self._space.mutate(spec, rng) if step < _STEPS else self._space.sample(rng)
            if spec.arch_id not in seen:
                break
        return spec


def _new(proposal: Proposal, spec: Architecture, baseline: str | None = None) -> TrialRecord:
    record = TrialRecord(proposal.number, spec.arch_id, spec.to_dict(), TrialState.RUNNING, baseline)
    return record if baseline else replace(record, expected=proposal.expected)
