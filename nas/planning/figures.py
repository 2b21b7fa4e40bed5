"""A number of the plan and how it is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Basis(StrEnum):
    """How a number is known."""

    MEASURED = "measured"  # on this machine, a moment ago
    DERIVED = "derived"  # computed from settings, counted operations and measured numbers
    SIMULATED = "simulated"  # by nas.planning.simulate
    ASSUMED = "assumed"  # given or taken for granted, and all that is computed from it
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Figure:
    """`value` is None where it is unknown. `unit`: "s", "bytes", "" for counts; `low` and `high` are its spread."""

    key: str
    label: str
    value: float | None
    unit: str
    basis: Basis
    note: str = ""
    low: float | None = None
    high: float | None = None


def weaker(*bases: Basis) -> Basis:
    """What a number computed from several is: as well known as the least known of them, derived at best."""
    order = [Basis.DERIVED, Basis.SIMULATED, Basis.ASSUMED, Basis.UNKNOWN]
    return max((basis if basis in order else Basis.DERIVED for basis in bases), key=order.index)
