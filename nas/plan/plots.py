"""Draw a simulated search."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from nas.backend.simulated import Doing, SimulatedSearch

_COLORS = {
    Doing.TRAINING: "#4477aa",
    Doing.MEASURING: "#ee6677",
    Doing.STARTING: "#bbbbbb",
    Doing.DRIVER: "#ccbb44",
    Doing.DEVICE: "#aa3377",
}
_MAX_ROWS = 64  # more could not be read


def gantt(run: SimulatedSearch, path: Path) -> None:
    """Draw the time of the first workers, one row each, in the format of the file's suffix."""
    workers = min(_MAX_ROWS, run.cluster.workers)
    figure = Figure(figsize=(10, 1.5 + 0.14 * workers), layout="constrained")
    axes = figure.add_subplot()
    for doing, color in _COLORS.items():
        rows: dict[int, list[tuple[float, float]]] = {}
        for span in run.spans:
            if span.doing is doing and span.worker < workers:
                rows.setdefault(span.worker, []).append((span.begin_s / 60, (span.end_s - span.begin_s) / 60))
        for worker, bars in rows.items():
            axes.broken_barh(bars, (worker - 0.45, 0.9), color=color, linewidth=0)
        axes.bar(0, 0, color=color, label=doing.value)
    axes.set(xlabel="minutes", ylabel="worker", xlim=(0, run.wall_s / 60), ylim=(workers - 0.5, -0.5))
    axes.set_title(f"{run.cluster.workers} workers, {run.utilization:.0%} used", loc="left")
    figure.legend(loc="outside lower center", ncols=len(_COLORS), frameon=False)
    figure.savefig(path)
