"""Print a plan as tables, or return it as JSON data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nas.backend.simulated import Doing, SimulatedSearch
from nas.numbers import clock, format_bytes
from nas.plan.forecast import Forecast, PlanFigure, SearchPlan
from nas.redaction import public_word
from nas.study.config import SearchConfig

_MARKS = {
    Doing.TRAINING: "█",
    Doing.MEASURING: "▓",
    Doing.STARTING: "s",
    Doing.DRIVER: "d",
    Doing.DEVICE: "w",
    Doing.TAIL: "·",
}
_SOURCES = (
    "source: measured = on this machine, for this plan; derived = from settings, counts and measured numbers; simulated"
    " = by the simulation; assumed = from a flag or a default"
)
_BAR = 16


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
    console.print(_clusters(plan))
    legend = ", ".join(f"{mark} {doing.value}" for doing, mark in _MARKS.items())
    console.print(f"worker time: {legend}")
    for note in plan.notes:
        console.print(f"- {note}")


def _clusters(plan: SearchPlan) -> Table:
    table = Table(title="Simulated clusters", title_justify="left", box=SIMPLE_HEAD)
    columns = ["devices", "workers", "teachers", "search"]
    columns += ["race"] if any(forecast.race_s is not None for forecast in plan.forecasts) else []
    columns += ["device-\nhours"]
    columns += ["USD"] if plan.usd_per_hour is not None else []
    columns += [f"budget in\n{plan.max_hours:g} h"] if plan.max_hours is not None else []
    for column in (*columns, "workers\nbusy", "trials at\neach rung"):
        table.add_column(column, justify="right")
    table.add_column("worker time", no_wrap=True)
    for forecast in plan.forecasts:
        run = forecast.simulated
        row = [
            f"{forecast.devices}" + (" (here)" if forecast.planned and plan.here else ""),
            str(run.cluster.workers),
            "unknown" if forecast.teachers_s is None else seconds(forecast.teachers_s),
            seconds(run.wall_s),
            *([] if forecast.race_s is None else [seconds(forecast.race_s)]),
            _rounded(forecast.device_hours),
            *([_rounded(plan.usd_per_hour * forecast.device_hours)] if plan.usd_per_hour is not None else []),
            *([_fits(forecast)] if plan.max_hours is not None else []),
            f"{run.utilization:.0%}",
            " ".join(map(str, run.reached)),
            bar(run),
        ]
        table.add_row(*row)
    return table


def _fits(forecast: Forecast) -> str:
    return f"{'about ' if forecast.extrapolated else ''}{forecast.fits:,}"


def _rounded(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}"


def bar(run: SimulatedSearch) -> str:
    """Return a bar of `_BAR` marks that shows how the workers spend their time."""
    whole, done, marks = sum(run.spent.values()), 0.0, ""
    for doing, mark in _MARKS.items():
        done += run.spent[doing]
        marks += mark * (round(_BAR * done / whole) - len(marks)) if whole else ""
    return marks


def text(figure: PlanFigure) -> str:
    """Return a figure's value with its unit and its range."""
    if figure.value is None:
        return "unknown"
    value = _value(figure.value, figure.unit)
    if figure.low is None:
        return value
    ends = [_value(end, figure.unit) for end in (figure.low, figure.high) if end is not None]
    return f"{value} ({' to '.join(ends)})" if len(ends) == 2 else f"{value} (low {ends[0]})"


def _value(value: float, unit: str) -> str:
    if unit in ("bytes", "bytes/s"):
        return format_bytes(value) + unit.removeprefix("bytes")
    return seconds(value) if unit == "s" else f"{value:,.4g}" if value % 1 else f"{value:,.0f}"


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


def as_json(plan: SearchPlan, settings: dict[str, Any]) -> dict[str, Any]:
    """Return plain JSON data, with times in seconds and sizes in bytes."""
    return {
        "settings": settings,
        "device": plan.device,
        "here": plan.here,
        "figures": {figure.key: _plain(figure) for figure in plan.figures},
        "clusters": [_cluster(forecast, plan.usd_per_hour) for forecast in plan.forecasts],
        "max_hours": plan.max_hours,
        "notes": list(plan.notes),
    }


def _plain(figure: PlanFigure) -> dict[str, Any]:
    return {key: value for key, value in asdict(figure).items() if key != "key"}


def _cluster(forecast: Forecast, usd_per_hour: float | None) -> dict[str, Any]:
    run = forecast.simulated
    return {
        "devices": forecast.devices,
        "planned": forecast.planned,
        "workers": run.cluster.workers,
        "teachers_s": forecast.teachers_s,
        "search_s": run.wall_s,
        "race_s": forecast.race_s,
        "device_hours": forecast.device_hours,
        "usd": None if usd_per_hour is None else usd_per_hour * forecast.device_hours,
        "utilization": run.utilization,
        "reached": list(run.reached),
        "worker_seconds": {doing.value: spent for doing, spent in run.spent.items()},
        "driver_s": run.driver_s,
        "fits": forecast.fits,
        "fits_is_extrapolated": forecast.extrapolated,
    }
