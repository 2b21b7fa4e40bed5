"""What a `StudyLoop` needs of the study that it works on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from nas.study.records import StudyInfo, TrialRecord
from nas.study.space_protocol import Proposal

Result = TypeVar("Result")


class StudyStore(Protocol):
    """The study that a `StudyLoop` works on: a `Store`, or the `MemoryStore` of a simulated search."""

    notify: Callable[[str], None]

    @property
    def driver(self) -> str:
        """Return the name of this driver, unique among the drivers of the study."""

    @property
    def info(self) -> StudyInfo:
        """Return the study's description."""

    def scale(self) -> tuple[TrialRecord, ...]:
        """Return the comparison networks that have been measured."""

    def save_scale(self, record: TrialRecord) -> None:
        """Write a comparison network that has been measured, unless another driver has."""

    def update_info(self, change: Callable[[StudyInfo], StudyInfo]) -> StudyInfo:
        """Replace the study's description by `change` of it, and return the new one."""

    def retry_while_unavailable(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, and repeat the call while the database is unavailable."""

    def register_driver(self) -> None:
        """Announce this driver to the others, which then leave its running trials to it."""

    def unregister_driver(self) -> None:
        """Let other drivers take over the running trials of this one."""

    def may_take_over(self, driver: str | None) -> bool:
        """Return whether this driver may take over the running trials of `driver`."""

    def ask(self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None) -> Proposal:
        """Return a new trial with its parameters from the sampler, or `fixed`."""

    def save(self, record: TrialRecord, values: Sequence[float] | None = None) -> bool:
        """Write a trial, with its objectives where it is complete; return False if another driver has taken it over."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a transaction that excludes other drivers: all of its writes take effect at its end, or none."""

    def claim(self, number: int) -> bool:
        """Assign a running trial to this driver; return False if the trial has ended."""

    def changes(self, running: Collection[int] = ()) -> list[tuple[TrialRecord, str | None]]:
        """Return the trials that are new since the last call or among `running`, each with its driver."""
