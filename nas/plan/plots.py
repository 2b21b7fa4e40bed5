"""The simulated search as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from nas.backend.simulated import Doing, SimulatedSearch

_COLOURS = {
    Doing.TRAINING: "#4477aa",
    Doing.MEASURING: "#ee6677",
    Doing.STARTING: "#bbbbbb",
    Doing.DRIVER: "#ccbb44",
    Doing.DEVICE: "#aa3377",
}
_MOST = 64  # rows that can be told apart


def gantt(run: SimulatedSearch, path: Path) -> None:
    """Draw the time of the first workers, a row each; the file's ending says the format."""
    workers = min(_MOST, run.cluster.workers)
    figure = Figure(figsize=(10, 1.5 + 0.14 * workers), layout="constrained")
    axes = figure.add_subplot()
    for doing, colour in _COLOURS.items():
        rows: dict[int, list[tuple[float, float]]] = {}
        for span in run.spans:
            if span.doing is doing and span.worker < workers:
                rows.setdefault(span.worker, []).append((span.begin_s / 60, (span.end_s - span.begin_s) / 60))
        for worker, bars in rows.items():
            axes.broken_barh(bars, (worker - 0.45, 0.9), color=colour, linewidth=0)
        axes.bar(0, 0, color=colour, label=doing.value)
    axes.set(xlabel="minutes", ylabel="worker", xlim=(0, run.wall_s / 60), ylim=(workers - 0.5, -0.5))
    axes.set_title(f"{run.cluster.workers} workers, {run.utilisation:.0%} used", loc="left")
    figure.legend(loc="outside lower center", ncols=len(_COLOURS), frameon=False)
    figure.savefig(path)
