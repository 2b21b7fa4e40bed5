"""Print a plan as tables, or return it as JSON data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nas.numbers import clock, format_bytes
from nas.plan.forecast import Forecast, PlanFigure
from nas.plan.search_plan import SearchPlan
from nas.redaction import public_word
from nas.study.config import SearchConfig

_SOURCES = (
    "source: measured = on this machine, for this plan; derived = from settings, counts and measured numbers; simulated"
    " = by the simulation; assumed = from a flag or a default"
)


def show(plan: SearchPlan, console: Console) -> None:
    """Print the figures, the clusters and the notes of a plan."""
    figures = Table(title=f"Plan for {plan.device}", title_justify="left", box=SIMPLE_HEAD)
    for column in ("quantity", "value", "source", "note"):
        figures.add_column(column, justify="right" if column == "value" else "left", overflow="fold")
    for figure in plan.figures:
        figures.add_row(figure.label, text(figure), figure.basis.value, figure.note)
    console.print(figures)
    console.print(_SOURCES)
    console.print()
    console.print(table_of("Simulated clusters", [_cells(plan, forecast) for forecast in plan.forecasts]))
    for note in plan.notes:
        console.print(f"- {note}")


def table_of(title: str, rows: Sequence[Mapping[str, str]], bold: int | None = None) -> Table:
    """Return a table of rows that have the same columns.

    Args:
        title: Its title.
        rows: The cells of each row, by column.
        bold: Number of the row that stands out.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for number, row in enumerate(rows):
        table.add_row(*row.values(), style="bold" if number == bold else "")
    return table


def _cells(plan: SearchPlan, forecast: Forecast) -> dict[str, str]:
    run, teachers_s, usd = forecast.simulated, forecast.teachers_s, plan.usd(forecast)
    cells = {
        "devices": f"{forecast.devices}" + (" (here)" if forecast.planned and plan.settings.here else ""),
        "workers": str(run.cluster.workers),
        "teachers": "unknown" if teachers_s is None else seconds(teachers_s),
        "search": seconds(run.wall_s),
    }
    if forecast.race_s is not None:
        cells["race"] = seconds(forecast.race_s)
    cells["device-\nhours"] = _rounded(forecast.device_hours)
    if usd is not None:
        cells["USD"] = _rounded(usd)
    if forecast.fits is not None:
        cells[f"budget in\n{plan.settings.max_hours:g} h"] = f"{'about ' * forecast.extrapolated}{forecast.fits:,}"
    cells["workers\nbusy"] = f"{run.utilization:.0%}"
    return cells | {"trials at\neach rung": " ".join(map(str, run.reached))}


def _rounded(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}"


def text(figure: PlanFigure) -> str:
    """Return a figure's value with its unit and its range."""
    if figure.value is None:
        return "unknown"
    value = _value(figure.value, figure.unit)
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({_value(figure.low, figure.unit)} to {_value(figure.high, figure.unit)})"


def _value(value: float, unit: str) -> str:
    if unit in ("bytes", "bytes/s"):
        return format_bytes(value) + unit.removeprefix("bytes")
    if unit == "s":
        return seconds(value)
    return f"{value:,.4g}" if value % 1 else f"{value:,.0f}"


def seconds(value: float) -> str:
    """Format seconds, as 12.3 ms, 4.56 s, 1:23:45 or 12.3 h."""
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    return clock(value) if value < 36000 else f"{value / 3600:,.3g} h"


def public_settings(config: SearchConfig) -> dict[str, Any]:
    """Return the settings as plain data, without the secrets of the data set's URL."""
    return config.to_dict() | {"data": public_word(config.data)}


def as_json(plan: SearchPlan) -> dict[str, Any]:
    """Return plain JSON data, with times in seconds and sizes in bytes."""
    return {
        "settings": public_settings(plan.settings.config),
        "device": plan.device,
        "here": plan.settings.here,
        "figures": {figure.key: asdict(figure) for figure in plan.figures},
        "clusters": [_cluster(plan, forecast) for forecast in plan.forecasts],
        "max_hours": plan.settings.max_hours,
        "notes": list(plan.notes),
    }


def _cluster(plan: SearchPlan, forecast: Forecast) -> dict[str, Any]:
    run = forecast.simulated
    return {
        "devices": forecast.devices,
        "planned": forecast.planned,
        "workers": run.cluster.workers,
        "teachers_s": forecast.teachers_s,
        "search_s": run.wall_s,
        "race_s": forecast.race_s,
        "device_hours": forecast.device_hours,
        "usd": plan.usd(forecast),
        "utilization": run.utilization,
        "reached": list(run.reached),
        "worker_seconds": {doing.value: spent for doing, spent in run.spent.items()},
        "driver_s": run.driver_s,
        "fits": forecast.fits,
        "fits_is_extrapolated": forecast.extrapolated,
    }
