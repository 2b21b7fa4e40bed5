"""The hard limits of a search: what each bounds, how it is read off a candidate, and whether a value keeps it. Pure.

Every command that takes limits adds its flags, checks its bounds and judges its candidates by the table `LIMITS`.
A new limit is one more entry there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Protocol

from nas.study.records import Measurement

_MEASURED = frozenset(field.name for field in fields(Measurement))


class LimitError(ValueError):
    """A limit that cannot be, or that cannot be checked; the message is one line that names the flag."""


class Compliance(StrEnum):
    """The answer to whether a candidate keeps a limit."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"  # there is no value


class Costed(Protocol):
    """The numbers that limits bound, as a `TrialRecord` has them. None is a number that nobody knows (yet)."""

    @property
    def params(self) -> int | None: ...
    @property
    def macs(self) -> int | None: ...
    @property
    def measurement(self) -> Measurement | None: ...


@dataclass(frozen=True)
class CountedCosts:
    """The numbers of an architecture that was counted and not measured."""

    params: int
    macs: int  # of one image
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Limit:
    """One hard limit.

    Attributes:
        name: its key in `SearchConfig.limits`.
        flag: its option on the command line.
        quantity: the field of a `TrialRecord` or of its `Measurement` that it bounds.
        label: the quantity in words, for tables.
        unit: the quantity's unit in tables.
        help: what the option asks for, with the bound's unit.
        maximum: whether it bounds the quantity from above, else from below. A value on the bound is within it.
        timed: whether the quantity is timed, so that it has an interval; else it is exact.
        scale: what the quantity is divided by to be in the bound's unit.
        shown_per: what a bound is divided by to be in the tables' unit.
    """

    name: str
    flag: str
    quantity: str
    label: str
    unit: str
    help: str
    maximum: bool = True
    timed: bool = False
    scale: float = 1.0
    shown_per: float = 1.0

    @property
    def measured(self) -> bool:
        """Whether the quantity takes a measurement; else it is counted on the architecture alone."""
        return self.quantity in _MEASURED

    def value(self, costs: Costed) -> float | None:
        """Return the candidate's value in the bound's unit; None where it is unknown."""
        holder = costs.measurement if self.measured else costs
        amount = None if holder is None else getattr(holder, self.quantity)
        return None if amount is None else float(amount) / self.scale

    def compliance(self, value: float | None, bound: float) -> Compliance:
        """Tell whether a value is within the bound: the one place where this is decided."""
        if value is None or math.isnan(value):
            return Compliance.UNKNOWN
        within = value <= bound if self.maximum else value >= bound
        return Compliance.KEPT if within else Compliance.BROKEN

    def factor(self, value: float, bound: float) -> float:
        """Return the factor by which the value lies beyond the bound; 1 or less is within it."""
        return value / bound if self.maximum else bound / value


_TENSORS = (
    "at most X MiB of tensors at the worst moment of a forward pass of the measured batch: weights, inputs and"
    " activations. Neither PyTorch's caches nor the context on a card count. On a CPU it is known for the runtime eager"
    " only; on CUDA for eager, compiled and max-autotune-no-cudagraphs"
)
LIMITS: dict[str, Limit] = {
    limit.name: limit
    for limit in (
        Limit(
            "max_params", "--max-params", "params", "parameters", "M", help="at most X parameters", shown_per=1e6
        ),
        Limit(
            "max_gmacs", "--max-gmacs", "macs", "multiply-accumulates", "G",
            help="at most X times 1e9 multiply-accumulates for one image", scale=1e9,
        ),
        Limit(
            "max_latency_ms", "--max-latency-ms", "latency_ms", "latency of one image", "ms",
            help="at most X milliseconds for one image, in the median", timed=True,
        ),
        Limit("max_memory_mib", "--max-memory-mib", "peak_memory_mib", "peak memory of tensors", "MiB", help=_TENSORS),
        Limit(
            "min_throughput_img_s", "--min-throughput", "throughput_img_s", "throughput", "images/s",
            help="at least X images/s at the measured batch", maximum=False, timed=True,
        ),
    )
}  # fmt: skip


def add_limit_flags(parser: argparse.ArgumentParser, description: str) -> None:
    """Add the options of all limits as a group; the description says what the command does with them."""
    group = parser.add_argument_group("limits", description)
    for limit in LIMITS.values():
        help_text = f"{limit.help} (default: no limit)"
        group.add_argument(limit.flag, dest=limit.name, type=float, metavar="X", help=help_text)


def given_limits(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Return the limits among a command's arguments. LimitError for a bound that is no positive number."""
    limits = {name: arguments[name] for name in LIMITS if arguments.get(name) is not None}
    check_bounds(limits)
    return limits


def check_bounds(limits: Mapping[str, float]) -> None:
    """Raise LimitError for a name that is no limit, and for a bound that is no positive number."""
    for name, bound in limits.items():
        if name not in LIMITS:
            raise LimitError(f"limits: unknown {name!r}; choose from: {', '.join(LIMITS)}")
        if not 0 < bound < math.inf:
            raise LimitError(f"{LIMITS[name].flag}: {bound}: must be a number over 0")


def check_knowable(limits: Collection[str], unknown_fields: Collection[str], where: str) -> None:
    """Raise LimitError for a limit that no measurement can tell.

    Args:
        limits: names of limits.
        unknown_fields: fields of a `Measurement` that stay None.
        where: the device and the runtime, in words.
    """
    for limit in (LIMITS[name] for name in limits):
        if limit.quantity in unknown_fields:
            raise LimitError(f"{limit.flag}: no {limit.label} is known {where}: choose another --arm or no such limit")


def broken_limit(costs: Costed, limits: Mapping[str, float]) -> str | None:
    """Return why a candidate is not within the limits, in words: it breaks one, or the value is unknown. Else None.

    Limits on what is measured wait until there is a measurement.
    """
    for name, bound in limits.items():
        limit = LIMITS[name]
        if limit.measured and costs.measurement is None:
            continue
        value = limit.value(costs)
        compliance = limit.compliance(value, bound)
        if compliance is not Compliance.KEPT:
            amount = "unknown" if compliance is Compliance.UNKNOWN else f"{value:.4g}"
            return f"{limit.flag.removeprefix('--')}: {amount} against a limit of {bound:.4g}"
    return None
