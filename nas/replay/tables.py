"""Print the share of the true hypervolume that samplers reach."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nas.study.config import KNOWN_COST
from nas.terminal import stdout_console, write_line

ROWS = (10, 20, 30, 50, 100, 150, 200, 300, 500, 1000, 2000)  # evaluated architectures


def show(result: dict[str, Any]) -> None:
    """Print the samplers' shares by evaluated architectures, and the reference of the hypervolume."""
    scored = f"{result['dataset']} and {result['latency']}"
    write_line(f"Share of the true hypervolume by evaluated architectures, {scored}:")
    write_line(f"median and 5th to 95th percentile of {result['seeds']} seeds")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("evaluated", justify="right")
    for name in result["samplers"]:
        table.add_column(name, no_wrap=True)
    length = max(len(curve["evaluations"]) for curve in result["samplers"].values())
    for n in sorted({n for n in ROWS if n <= length} | {length}):
        cells = (
            f"{curve['median'][n - 1]:.3f} {curve['p5'][n - 1]:.2f}-{curve['p95'][n - 1]:.2f}"
            if n <= len(curve["evaluations"])
            else "-"  # one of its searches found no new architecture
            for curve in result["samplers"].values()
        )
        table.add_row(str(n), *cells)
    stdout_console().print(table)
    write_line(_caption(result))


def _caption(result: dict[str, Any]) -> str:
    at = result["reference"]
    if result["bench"] == "hybrid":
        spent = ", ".join(f"{name} {value:.0f}" for name, value in result["full_trainings"].items())
        return (
            f"Reference point: a score of {at['accuracy']:g} and {at['cost']:g} {at['unit']}.\nAn evaluation draws one "
            "of an architecture's trainings and timings; shares are by their means.\n"
            f"Training spent, in full trainings: {spent}."
        )
    text = f"Reference point: {at['accuracy']:g} % and {at['cost']:g} {at['unit']}; both axes are linear."
    if KNOWN_COST in result["samplers"]:
        known = f" and of its features: {', '.join(result['knowledge'])}" if result["knowledge"] else ""
        text += f"\n{KNOWN_COST} knows the cost of every architecture{known}."
    return text
