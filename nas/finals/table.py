"""The finalists' standings for the terminal, and as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from nas.finals.agreement import Correlation, correlations
from nas.finals.standing import Row, Standings
from nas.records import Study

FELL, JOINED, ASIDE = "red", "green", "dim"
ASSUMED = (
    "chance: of being on the front among the finalists, if quality is normal over seeds with one scatter for all, the "
    "logarithm of a speed is normal with its interval, and nets are independent; other images are not in it"
)


def show(study: Study, s: Standings, console: Console) -> None:
    """The table of nets, fastest first; rank correlations; what it means and what was assumed."""
    console.print(_nets(s))
    console.print(_taus(correlations(s, study.info.rung_steps[-1])))
    for line in lines(study, s):
        console.print(line, highlight=False, markup=False)


def lines(study: Study, s: Standings) -> list[str]:
    """What became of the front, and how sure it is."""
    found = [r for r in s.rows if not r.trial.baseline]
    fell = [r for r in found if r.was_on_front and r.chance is not None and not r.on_front]
    joined = [r for r in found if not r.was_on_front and r.on_front]
    open_ = [r for r in found if r.chance is None]
    before = sum(r.was_on_front for r in found)
    front = f"front: of {before} before {_count(fell, 'fell off', 'none')}; {_count(joined, 'joined', 'none')}"
    front += f"; {_count(open_, 'without a number', '')}" if open_ else ""
    told = sum(r.chance or 0.0 for r in found)
    said = [front, f"expected size of the front: {told:.1f}", _scatter(s)]
    if s.before is not None:
        last = study.info.rung_steps[-1]
        said.append(f"seed scatter at the study's last rung ({last} steps): {s.before.sd:.4f}")
    places = dict.fromkeys(f"{m.device}, {m.arm}, batch {m.batch}" for r in s.both if (m := r.measurement))
    return [*said, *(f"measured on {place}" for place in places), ASSUMED]


def to_json(study: Study, s: Standings) -> dict[str, Any]:
    """All that `show` says, as plain data."""
    return {
        "study": study.info.name,
        "steps": s.steps,
        "seeds": list(s.seeds),
        "nets": [_plain(row, s) for row in s.rows],
        "scatter": asdict(s.scatter),
        "scatter_at_last_rung": s.before and asdict(s.before),
        "correlations": [asdict(c) for c in correlations(s, study.info.rung_steps[-1])],
        "notes": lines(study, s),
    }


def fate(row: Row) -> str:
    """What became of its place on the front."""
    if row.trial.baseline:
        return "baseline"
    if row.chance is None:
        return row.reason or "not trained"
    was, now = row.was_on_front, row.on_front
    return {(True, True): "stayed", (True, False): "fell off", (False, True): "joined", (False, False): "not on it"}[
        was, now
    ]


def _nets(s: Standings) -> Table:
    title = f"finalists: {s.steps} steps, seeds {', '.join(map(str, s.seeds))}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", "net", "study", "seeds", "mean quality", "ratio", "chance"):
        table.add_column(name, justify="left" if name == "net" else "right", no_wrap=True)
    table.add_column("front")
    for row in s.rows:
        table.add_row(*_cells(row, s), style=_style(row))
    return table


def _cells(row: Row, s: Standings) -> tuple[str, ...]:
    t, m, n = row.trial, row.measurement, len(row.qualities)
    return (
        str(t.number),
        t.baseline or t.arch_id[:8],
        f"{t.final_score:.3f}",
        str(n),
        "-" if row.mean is None else f"{row.mean:.4f} ± {s.scatter.half_width(n):.4f}",
        "-" if m is None else f"{m.ratio:.2f} [{m.ratio_low:.2f}, {m.ratio_high:.2f}]",
        "" if row.chance is None else f"{row.chance:.2f}",
        fate(row),
    )


def _style(row: Row) -> str:
    if row.trial.baseline or row.chance is None or not (row.was_on_front or row.on_front):
        return ASIDE
    return FELL if not row.on_front else "" if row.was_on_front else JOINED


def _taus(found: tuple[Correlation, ...]) -> Table:
    table = Table(title="order by quality", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("between", "nets", "Kendall's tau-b", "95 % interval"):
        table.add_column(name, justify="left" if name == "between" else "right")
    for c in found:
        tau = "-" if c.tau is None else f"{c.tau:.2f}"
        table.add_row(c.label, str(c.nets), tau, "-" if c.low is None else f"{c.low:.2f} to {c.high:.2f}")
    return table


def _scatter(s: Standings) -> str:
    if not s.scatter.measured:
        return f"seed scatter: {s.scatter.sd:.4f}, taken over from another study: no net has two seeds here yet"
    how = f"standard deviation, pooled, {s.scatter.degrees} degrees of freedom"
    return f"seed scatter after {s.steps} steps: {s.scatter.sd:.4f} ({how})"


def _count(rows: list[Row], what: str, none: str) -> str:
    if not rows:
        return f"{none} {what}"
    return f"{len(rows)} {what} ({', '.join(str(n) for n in sorted(r.trial.number for r in rows))})"


def _plain(row: Row, s: Standings) -> dict[str, Any]:
    t, n = row.trial, len(row.qualities)
    return {
        "trial": t.number,
        "arch_id": t.arch_id,
        "net": t.name,
        "baseline": t.baseline,
        "quality_of_study": t.final_score,
        "qualities": {str(seed): value for seed, value in row.qualities.items()},
        "quality": row.mean,
        "half_width": s.scatter.half_width(n) if n else None,
        "measurement": row.measurement and row.measurement.to_dict(),
        "chance": row.chance,
        "on_front": {"before": row.was_on_front, "now": row.on_front},
        "fate": fate(row),
        "failures": {str(f.seed): f.reason for f in row.trainings if f.reason},
        "reason": row.reason,
    }
