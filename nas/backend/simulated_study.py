"""A store and a space for simulated studies: memory keeps the trials, and architectures are numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

from nas.study.records import Expectation, StudyInfo, TrialRecord
from nas.study.space_protocol import Proposal
from nas.study.study_store import Result


class MemoryStore:
    """The store of a simulated study: only the loop keeps its trials.

    Args:
        info: The study's description.
        propose: Returns the parameters of a trial by its number, as a sampler does.
        expect: Returns what a sampler would expect of a trial, by its number.
    """

    def __init__(
        self,
        info: StudyInfo,
        propose: Callable[[int], dict[str, Any]],
        expect: Callable[[int], Expectation | None] = lambda number: None,
    ) -> None:
        self.notify: Callable[[str], None] = lambda line: None
        self._info, self._propose, self._expect = info, propose, expect
        self._numbers = count()

    @property
    def info(self) -> StudyInfo:
        """Return the study's description."""
        return self._info

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Apply `change` to the study's description, and return the result."""
        self._info = change(self._info)
        return self._info

    def retry_while_unavailable(self, work: Callable[[], Result]) -> Result:
        """Return `work()`: memory is always available."""
        return work()

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def ask(self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None) -> Proposal:
        """Return a new trial with its parameters."""
        number = next(self._numbers)
        if fixed is not None:
            return Proposal(number, dict(fixed))
        return Proposal(number, self._propose(number), self._expect(number))

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> None:
        """Do nothing: the loop keeps the trial."""

    def scale(self) -> tuple[TrialRecord, ...]:
        """Return (): the loop keeps the networks that it has measured."""
        return ()

    def save_scale(self, record: TrialRecord) -> None:
        """Do nothing: the loop keeps the network."""

    def new_trials(self) -> list[TrialRecord]:
        """Return []: the loop has every trial."""
        return []


@dataclass(frozen=True)
class NumberedArchitecture:
    """An architecture that is only a number."""

    number: int

    @property
    def arch_id(self) -> str:
        """Return the number as text."""
        return str(self.number)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"number": self.number}


@dataclass(frozen=True)
class NumberedSpace:
    """A space of numbered architectures, for studies whose `MemoryStore` proposes {"number": N}.

    Args:
        size: Number of architectures.
        name: Name of the space.
    """

    size: int = sys.maxsize
    name: str = "numbered"

    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Return no choices: the store proposes."""
        return {}

    def count(self) -> int:
        """Return the number of architectures."""
        return self.size

    def decode(self, params: Mapping[str, Any]) -> NumberedArchitecture:
        """Return the architecture of {"number": N}."""
        return NumberedArchitecture(params["number"])

    def encode(self, spec: NumberedArchitecture) -> dict[str, Any]:
        """Return {"number": N}."""
        return spec.to_dict()

    def parse(self, plain: Mapping[str, Any]) -> NumberedArchitecture:
        """Return the architecture of its plain data."""
        return self.decode(plain)

    def contains(self, spec: Any) -> bool:
        """Return whether `spec` is a numbered architecture."""
        return isinstance(spec, NumberedArchitecture) and spec.number < self.size

    def sample(self, rng: random.Random) -> NumberedArchitecture:
        """Return a uniformly random architecture."""
        return NumberedArchitecture(rng.randrange(self.size))

    def mutate(self, spec: NumberedArchitecture, rng: random.Random) -> NumberedArchitecture:
        """Return a random architecture: numbers have no neighbors."""
        return self.sample(rng)

    def crossover(self, a: NumberedArchitecture, b: NumberedArchitecture, rng: random.Random) -> NumberedArchitecture:
        """Return either parent."""
        return rng.choice((a, b))
