"""A comparison for the terminal, and as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.records import Measurement, Rerank, Study
from nas.reranking.comparison import Comparison, Row
from nas.reranking.plane import Standing
from nas.reranking.wording import change, front_line, meaning, notes, order_line, volume_line

GONE, NEW, NEAR, ASIDE = "red", "green", "yellow", "dim"


def show(study: Study, rerank: Rerank, c: Comparison, console: Console) -> None:
    """The table of nets, fastest before first; the lines under it; the meaning last."""
    console.print(_table(rerank, c))
    for line in (order_line(c.agreement), front_line(c), volume_line(c), *notes(study, rerank, c)):
        console.print(line, highlight=False, markup=False)
    console.print(Text(meaning(c), style="bold"))


def to_json(study: Study, rerank: Rerank, c: Comparison) -> dict[str, Any]:
    """All that `show` says, as plain data; what was measured is there whole."""
    fronts = {name: getattr(c, name) for name in ("stayed", "tied", "left", "lost", "joined")}
    about = {key: value for key, value in rerank.to_dict().items() if key not in ("measurements", "unmeasured")}
    return {
        "study": study.info.name,
        **about,
        "nets": [_plain(row) for row in c.rows],
        "agreement": asdict(c.agreement),
        "front": {name: [row.trial.number for row in rows] for name, rows in fronts.items()},
        "hypervolume": {"before": c.volume_before, "now": c.volume_now},
        "not_tried": c.left_out,
        "notes": notes(study, rerank, c),
        "meaning": meaning(c),
    }


def _table(rerank: Rerank, c: Comparison) -> Table:
    title = f"{rerank.name}: throughput over {rerank.setting['reference']}'s, before and now"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", "net", "quality", "ratio before", "ratio now", "rank"):
        table.add_column(name, justify="left" if name == "net" else "right", no_wrap=True)
    table.add_column("front")
    table.add_column("verdict")
    for row in c.rows:
        table.add_row(*_cells(row), style=_style(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    t, m = row.trial, row.measurement
    return (
        str(t.number),
        t.baseline or t.arch_id[:8],
        f"{t.final_score:.3f}",
        _ratio(t.measurement),
        _ratio(m),
        "" if row.now is None else f"{row.rank_before} → {row.rank_now}",
        change(row),
        row.reason or (m.verdict if m else ""),
    )


def _ratio(m: Measurement | None) -> str:
    return "-" if m is None else f"{m.ratio:.2f} [{m.ratio_low:.2f}, {m.ratio_high:.2f}]"


def _style(row: Row) -> str:
    """By what became of its place on the front."""
    was, now = row.before.standing is Standing.FRONT, row.now.standing if row.now else None
    if row.trial.baseline or (not was and now is not Standing.FRONT):
        return ASIDE
    if now is Standing.FRONT:
        return "" if was else NEW
    return NEAR if now is Standing.TIED else GONE


def _plain(row: Row) -> dict[str, Any]:
    t = row.trial
    before, now = t.measurement, row.measurement
    return {
        "trial": t.number,
        "arch_id": t.arch_id,
        "net": t.name,
        "baseline": t.baseline,
        "quality": t.final_score,
        "before": before and before.to_dict(),
        "now": now and now.to_dict(),
        "rank": {"before": row.rank_before, "now": row.rank_now},
        "place": {"before": asdict(row.before), "now": row.now and asdict(row.now)},
        "change": change(row),
        "reason": row.reason,
    }
