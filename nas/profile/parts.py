"""A network's stages and layers: what each does, how long it takes, how near it comes to the device's ceilings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.measure.counts.operators import Operator
from nas.measure.roofline import Ceilings, bound
from nas.profile.records import Row


@dataclass(frozen=True)
class Work:
    """What a part of the network does in one call, apart from any device."""

    name: str
    params: int
    operators: tuple[Operator, ...]


def stage_work(parts: Sequence[tuple[str, str, int]], found: Sequence[Operator]) -> list[Work]:
    """Work of parts given as (label, qualified module name, parameters)."""
    return [
        Work(label, params, tuple(o for o in found if o.module == name or o.module.startswith(f"{name}.")))
        for label, name, params in parts
    ]


def layer_work(found: Sequence[Operator]) -> list[Work]:
    """Work of every module's own operators, those of the modules inside it left out, in the order they first run."""
    by_module: dict[str, list[Operator]] = {}
    for operator in found:
        by_module.setdefault(operator.module, []).append(operator)
    return [Work(name, sum(o.params for o in own), tuple(own)) for name, own in by_module.items()]


def rows(
    work: Sequence[Work], times_s: Mapping[str, float], whole_s: float, batch: int, ceilings: Ceilings, pieces: int = 1
) -> tuple[Row, ...]:
    """The table's lines, of work timed in calls of `batch` images that take `whole_s`.

    pieces: in how many the network may cut the batch; what one of them touches decides how fast bytes can move.
    """
    return tuple(_row(w, times_s[w.name], whole_s, batch, ceilings, pieces) for w in work)


def _row(work: Work, seconds: float, whole_s: float, batch: int, ceilings: Ceilings, pieces: int) -> Row:
    limit = bound([(o.macs, o.moved_bytes, o.touched_bytes // pieces) for o in work.operators], ceilings)
    return Row(
        name=work.name,
        params=work.params,
        macs=sum(o.macs for o in work.operators) // batch,
        activations=sum(o.written for o in work.operators) // batch,
        activation_bytes=sum(o.written_bytes for o in work.operators) // batch,
        moved_bytes=sum(o.moved_bytes for o in work.operators),
        time_ms=seconds * 1e3,
        share=seconds / whole_s,
        bound=limit.kind,
        attainable_ms=limit.attainable_s * 1e3,
        utilisation=limit.attainable_s / seconds,
    )
