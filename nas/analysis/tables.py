"""An answer for the terminal, and as one JSON object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from nas.querying.answer import FINALS, Answer, Limits, Net
from nas.querying.limits import EXACT
from nas.records import Study
from nas.reranking.selection import is_baseline, net_name
from search_space import ArchSpec
from search_space.outline import outline

# By a limit's name: what it bounds, its unit, and what of the unit one is.
WORDS: dict[str, tuple[str, str, float]] = {
    "max_latency_ms": ("latency of one image", "ms", 1.0),
    "min_throughput_img_s": ("throughput", "images/s", 1.0),
    "max_params": ("parameters", "M", 1e6),
    "max_gmacs": ("multiply-accumulates", "G", 1.0),
    "max_memory_mib": ("peak memory", "MiB", 1.0),
}
ROWS = 12  # runners-up in the table; the JSON has all

Weights = Callable[[Net], Sequence[Path]]


def show(a: Answer, limits: Limits, weights: Weights, console: Console) -> None:
    """The answer, or what comes nearest; runners-up; notes."""
    net = a.best or a.nearest
    if a.best is None:
        console.print(nothing(a, limits), style="bold", highlight=False, markup=False)
    if net is not None:
        _show_net(a, net, limits, console)
        for path in weights(net):
            console.print(f"weights: {path}", highlight=False, markup=False, soft_wrap=True)
    if a.best is not None:
        console.print(confidence(a), highlight=False, markup=False)
    if a.runners_up:
        console.print(_rivals(a))
    for line in notes(a, limits):
        console.print(line, highlight=False, markup=False)


def to_json(study: Study, a: Answer, limits: Limits, weights: Weights) -> dict[str, Any]:
    """All that `show` says, as plain data."""

    def told(net: Net | None) -> dict[str, Any] | None:
        if net is None:
            return None
        return _plain(a, net, limits) | {"weights": [str(path) for path in weights(net)]}

    return {
        "study": study.info.name,
        "limits": dict(limits),
        "basis": a.basis,
        "steps": a.steps,
        "seed_scatter": asdict(a.scatter),
        "fitting": a.fitting,
        "compared": a.compared,
        "left_out_at_lower_rungs": a.left_out,
        "best": told(a.best),
        "runners_up": [told(net) for net in a.runners_up],
        "nearest": told(a.nearest),
        "alone": {name: told(net) for name, net in a.alone.items()},
        "notes": notes(a, limits),
    }


def nothing(a: Answer, limits: Limits) -> str:
    """That nothing fits, and what would."""
    said = f"none of {a.compared} nets keeps the limits"
    if a.nearest is None:
        return f"{said}, and what they bound is not known of any net"
    gives = ", ".join(
        f"{flag(name)} by {100 * (factor - 1):.1f} % ({_shown(name, a.nearest.known[name].value)})"
        for name, factor in a.nearest.gives(limits).items()
    )
    return f"{said}; the nearest would if this gave: {gives}"


def confidence(a: Answer) -> str:
    """How sure the answer is."""
    assert a.best is not None
    best, keeps = _percent(a.best.chance_best), _percent(a.best.chance_to_keep)
    return f"confidence: {best} that it is the best of the {a.fitting} that fit; {keeps} that it keeps the limits"


def notes(a: Answer, limits: Limits) -> list[str]:
    """What a reader should know beside the numbers."""
    who = "finalists' means" if a.basis == FINALS else "one training a net"
    said = [f"compared by {who} after {a.steps} steps; no net is compared across lengths of training"]
    source = "taken over from another study; nas.finals measures it"
    if a.scatter.measured:
        source = f"measured here, {a.scatter.degrees} degrees of freedom"
    said.append(f"a seed moves quality by {a.scatter.sd:.4f} (standard deviation; {source})")
    if a.left_out:
        said.append(f"left out: {_nets(a.left_out)} within the limits, stopped at lower rungs")
    if a.beside:
        said.append(f"not asked: {_nets(a.beside)} within the limits that {_are(a.beside)} no finalist")
    said += [_alone_line(name, limits[name], net) for name, net in a.alone.items() if len(limits) > 1]
    if a.best is not None and a.best.chance_to_keep is None:
        unknown = [n for n, b in limits.items() if n not in EXACT and a.best.known[n].chance(b) is None]
        said.append(f"no interval is kept of: {', '.join(WORDS[n][0] for n in unknown)}")
    if (net := a.best or a.nearest) is not None:
        m = net.measurement
        doubt = "" if m.verdict == "ok" else f"; verdict of the measurement: {m.verdict}"
        said.append(f"measured on {m.device}, {m.arm}, batch {m.batch}{doubt}")
    return said


def flag(name: str) -> str:
    """The option of a limit."""
    return "--" + name.removesuffix("_img_s").replace("_", "-")


def _show_net(a: Answer, net: Net, limits: Limits, console: Console) -> None:
    title = f"trial {net.trial.number}, {net.trial.arch_id}"
    if is_baseline(net.trial):
        title += f": the baseline {net_name(net.trial)}"
    console.print(title, style="bold", highlight=False, markup=False)
    console.print(_outline(net), highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "value", "95 % interval", "limit", "keeps it"):
        table.add_column(name, justify="left" if not name else "right")
    half, m = a.scatter.half_width(net.seeds), net.measurement
    seeds = f" (mean of {net.seeds} seeds)" if net.seeds > 1 else ""
    table.add_row(f"quality{seeds}", f"{net.quality:.4f}", f"{net.quality - half:.4f} to {net.quality + half:.4f}")
    table.add_row(f"throughput / {m.reference}'s", f"{m.ratio:.3f}", f"{m.ratio_low:.3f} to {m.ratio_high:.3f}")
    for name, (what, unit, _) in WORDS.items():
        if name in net.known or name in limits:
            table.add_row(f"{what}, {unit}", *_row(net, name, limits.get(name)))
    console.print(table)


def _row(net: Net, name: str, bound: float | None) -> tuple[str, ...]:
    q = net.known.get(name)
    if q is None:
        return "unknown", "", "" if bound is None else _number(name, bound), ""
    interval = "" if q.low is None or q.high is None else f"{_number(name, q.low)} to {_number(name, q.high)}"
    if bound is None:
        return _number(name, q.value), interval, "", ""
    chance = q.chance(bound)
    kept = ("yes" if q.kept(bound) else "no") if chance is None else _percent(chance)
    return _number(name, q.value), interval, _number(name, bound), kept


def _rivals(a: Answer) -> Table:
    title = f"not told apart from it in quality: {len(a.runners_up)}"
    if len(a.runners_up) > ROWS:
        title += f", the likeliest {ROWS}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", "net", "quality", "ratio", "best", "keeps"):
        table.add_column(name, justify="left" if name == "net" else "right")
    for net in a.runners_up[:ROWS]:
        name = net_name(net.trial) if is_baseline(net.trial) else net.trial.arch_id
        chances = _percent(net.chance_best), _percent(net.chance_to_keep)
        table.add_row(str(net.trial.number), name, f"{net.quality:.4f}", f"{net.measurement.ratio:.2f}", *chances)
    return table


def _plain(a: Answer, net: Net, limits: Limits) -> dict[str, Any]:
    t = net.trial
    return {
        "trial": t.number,
        "arch_id": t.arch_id,
        "net": net_name(t),
        "baseline": is_baseline(t),
        "outline": _outline(net),
        "spec": t.spec,
        "quality": net.quality,
        "half_width": a.scatter.half_width(net.seeds),
        "seeds": net.seeds,
        "measurement": net.measurement.to_dict(),
        "limits": {name: _against(net, name, bound) for name, bound in limits.items()},
        "chance_best": net.chance_best,
        "chance_to_keep": net.chance_to_keep,
    }


def _against(net: Net, name: str, bound: float) -> Mapping[str, float | bool | None]:
    q = net.known.get(name)
    if q is None:
        return {"bound": bound, "value": None, "low": None, "high": None, "chance": None, "gives": None}
    known = {"bound": bound, "value": q.value, "low": q.low, "high": q.high}
    return known | {"chance": q.chance(bound), "gives": q.give(bound)}


def _alone_line(name: str, bound: float, net: Net | None) -> str:
    limit = f"{flag(name)} {_number(name, bound)} alone"
    if net is None:
        return f"{limit}: no net keeps it"
    value = _shown(name, net.known[name].value)
    return f"{limit}: trial {net.trial.number}, quality {net.quality:.4f}, {value}"


def _outline(net: Net) -> str:
    return outline(ArchSpec.from_dict(net.trial.spec))


def _number(name: str, value: float) -> str:
    return f"{value / WORDS[name][2]:.4g}"


def _shown(name: str, value: float) -> str:
    return f"{_number(name, value)} {WORDS[name][1]}"


def _percent(chance: float | None) -> str:
    """Only what is certain is 0 or 100 %."""
    if chance is None:
        return "unknown"
    whole = f"{chance:.0%}"
    if whole == "100%" and chance < 1:
        return ">99%"
    return "<1%" if whole == "0%" and chance > 0 else whole


def _nets(n: int) -> str:
    return f"{n} net" if n == 1 else f"{n} nets"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
