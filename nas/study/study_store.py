"""What a `StudyLoop` needs of the study that it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from nas.study.records import StudyInfo, TrialRecord
from nas.study.space_protocol import Proposal

Result = TypeVar("Result")


class StudyStore(Protocol):
    """The study that a `StudyLoop` works on: a `Store`, or the `MemoryStore` of a simulated search."""

    notify: Callable[[str], None]

    @property
    def info(self) -> StudyInfo:
        """Return the study's description."""

    def scale(self) -> tuple[TrialRecord, ...]:
        """Return the comparison networks that have been measured."""

    def save_scale(self, record: TrialRecord) -> None:
        """Write a comparison network that has been measured."""

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Replace the study's description by `change` of it, and return the new one."""

    def retry_while_unavailable(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, and repeat the call while the database is unavailable."""

    def ask(self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None) -> Proposal:
        """Return a new trial with its parameters from the sampler, or `fixed`."""

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> None:
        """Write a trial, with its objectives where it is complete."""

    def transaction(self) -> AbstractContextManager[None]:
        """Return a transaction: all of its writes take effect at its end, or none."""

    def new_trials(self) -> list[TrialRecord]:
        """Return the trials that are new since the last call."""
