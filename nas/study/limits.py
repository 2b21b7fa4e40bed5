"""The hard limits of a search: the quantity that each bounds, its value for a candidate, and compliance with it. Pure.

Every command with limits takes its flags, the checks of bounds, the compliance of candidates and the chances from the
table `LIMITS`. A new limit is an entry there and an argument of `nas.api.Study.select`, which a test compares with the
table. `nas.profile.space_sample.QUANTITIES` has the quantities whose distribution `profile --space` shows.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import Field

from nas.flags import reader
from nas.study.records import Measurement
from nas.study.timing_doubts import (
    LATENCY_RUN_DEVIATION,
    THROUGHPUT_RUN_DEVIATION,
    order_statistic_interval,
    throughput_interval,
)
from nas.validation import ConfigError, misfit

IntervalReader = Callable[[Measurement, Sequence[float]], tuple[float, float] | None]
Bound = Annotated[float, Field(strict=True, gt=0, le=1e18)]
UNKNOWN_EXCESS = 1.0  # in shares of a bound
_MEASURED = frozenset(field.name for field in fields(Measurement))


class LimitError(ConfigError):
    """A limit that is invalid or cannot be checked; the message is one line with the flag."""


class Compliance(StrEnum):
    """The compliance of a candidate with a limit."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"  # there is no value


class CandidateCosts(Protocol):
    """The numbers that limits bound, as a `TrialRecord` has them; None for one that is not known (yet)."""

    @property
    def params(self) -> int | None:
        """Return the number of parameters."""

    @property
    def macs(self) -> int | None:
        """Return the multiply-accumulates for one image."""

    @property
    def measurement(self) -> Measurement | None:
        """Return the measurement on a device."""


class Totals(NamedTuple):
    """MACs and parameters of a backbone for one image, as the costs of a candidate that is not measured."""

    macs: int
    params: int

    @property
    def measurement(self) -> None:
        """Return None."""


@dataclass(frozen=True)
class Limit:
    """One hard limit.

    Attributes:
        name: Key in `SearchConfig.limits`.
        flag: Command-line option.
        quantity: Field of a `TrialRecord` or of its `Measurement` that the limit bounds.
        label: Name of the quantity in tables.
        unit: Unit of the quantity in tables.
        help: Help text of the option, with the bound's unit.
        maximum: Whether the bound is an upper one, else it is a lower one. A value equal to the bound keeps the limit.
        interval: Returns the ends of a timed quantity's 95 % interval in the bound's unit, from an undisturbed
            measurement and its samples of the time of one image in seconds; None for an exact quantity.
        run_deviation: Relative standard deviation of a timed quantity between processes, beyond its interval.
        scale: Divisor that converts the quantity to the bound's unit.
        shown_per: Divisor that converts a bound to the tables' unit.
    """

    name: str
    flag: str
    quantity: str
    label: str
    unit: str
    help: str
    maximum: bool = True
    interval: IntervalReader | None = None
    run_deviation: float = 0.0
    scale: float = 1.0
    shown_per: float = 1.0

    @property
    def measured(self) -> bool:
        """Return whether the quantity comes from a measurement; else it is counted on the architecture."""
        return self.quantity in _MEASURED

    def value(self, costs: CandidateCosts) -> float | None:
        """Return the candidate's value in the bound's unit; None if it is unknown."""
        holder = costs.measurement if self.measured else costs
        amount = None if holder is None else getattr(holder, self.quantity)
        return None if amount is None else float(amount) / self.scale

    def compliance(self, value: float | None, bound: float) -> Compliance:
        """Return the compliance of a value with a bound; no other code compares them."""
        if value is None or math.isnan(value):
            return Compliance.UNKNOWN
        within = value <= bound if self.maximum else value >= bound
        return Compliance.KEPT if within else Compliance.BROKEN

    def factor(self, value: float, bound: float) -> float:
        """Return the factor by which the value exceeds the bound; 1 or less keeps the limit."""
        return value / bound if self.maximum else bound / value


def _latency_interval(m: Measurement, latencies_s: Sequence[float]) -> tuple[float, float] | None:
    ends = order_statistic_interval(latencies_s)
    return None if ends is None else (1e3 * ends[0], 1e3 * ends[1])


_TENSORS = (
    "at most X MiB of tensors (weights, inputs and activations) at the peak of a forward pass of the measured batch,"
    " without PyTorch's caches and the CUDA context. On a CPU only the runtime eager reports it; on CUDA the runtimes"
    " eager, compiled and max-autotune-no-cudagraphs do"
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
            help="at most X milliseconds for one image, in the median", interval=_latency_interval,
            run_deviation=LATENCY_RUN_DEVIATION,
        ),
        Limit("max_memory_mib", "--max-memory-mib", "peak_memory_mib", "peak memory of tensors", "MiB", help=_TENSORS),
        Limit(
            "min_throughput_img_s", "--min-throughput", "throughput_img_s", "throughput", "images/s",
            help="at least X images/s at the measured batch", maximum=False,
            interval=lambda m, latencies_s: throughput_interval(m), run_deviation=THROUGHPUT_RUN_DEVIATION,
        ),
    )
}  # fmt: skip


def add_limit_flags(parser: argparse.ArgumentParser, description: str) -> None:
    """Add the options of all limits as a group.

    Args:
        parser: A command's parser.
        description: Says what the command does with the limits.
    """
    group = parser.add_argument_group("limits", description)
    for limit in LIMITS.values():
        help_text = f"{limit.help} (default: no limit)"
        group.add_argument(limit.flag, dest=limit.name, type=reader(Bound), metavar="X", help=help_text)


def given_limits(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Return the limits among a command's arguments; LimitError for a bound that is no positive number."""
    limits = {name: arguments[name] for name in LIMITS if arguments.get(name) is not None}
    check_bounds(limits)
    return limits


def check_bounds(limits: Mapping[str, float]) -> None:
    """Raise LimitError for an unknown limit and for a bound that is no positive number."""
    for name, bound in limits.items():
        if name not in LIMITS:
            raise LimitError(f"limits: unknown {name!r}; choose from: {', '.join(LIMITS)}")
        if problem := misfit(bound, Bound):
            raise LimitError(f"{LIMITS[name].flag}: {problem}")


def excesses(costs: CandidateCosts, limits: Mapping[str, float]) -> dict[str, float]:
    """Return by how much a candidate exceeds each limit, as a share of the bound; 0 or less keeps it.

    An unknown quantity exceeds its limit by `UNKNOWN_EXCESS`, because such a candidate is infeasible. Limits on
    measured quantities are skipped until there is a measurement.
    """
    found = {}
    for limit, bound, value, compliance in _checked(costs, limits):
        unknown = compliance is Compliance.UNKNOWN
        found[limit.name] = UNKNOWN_EXCESS if unknown or value is None else limit.factor(value, bound) - 1.0
    return found


def broken_limit(costs: CandidateCosts, limits: Mapping[str, float]) -> str | None:
    """Return a line about the first limit that a candidate breaks or whose quantity is unknown; else None.

    Limits on measured quantities are skipped until there is a measurement.
    """
    for limit, bound, value, compliance in _checked(costs, limits):
        if compliance is not Compliance.KEPT:
            amount = "unknown" if compliance is Compliance.UNKNOWN else f"{value:.4g}"
            return f"{limit.flag.removeprefix('--')}: {amount} against a limit of {bound:.4g}"
    return None


def _checked(
    costs: CandidateCosts, limits: Mapping[str, float]
) -> Iterator[tuple[Limit, float, float | None, Compliance]]:
    """Yield each limit that can be checked now, with its bound, the candidate's value and compliance."""
    for name, bound in limits.items():
        limit = LIMITS[name]
        if not limit.measured or costs.measurement is not None:
            value = limit.value(costs)
            yield limit, bound, value, limit.compliance(value, bound)
