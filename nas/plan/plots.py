"""Draw a simulated search, and the scores of a pilot."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from nas.analysis.rung_choice import MIN_TAU
from nas.backend.simulated import Doing, SimulatedSearch
from nas.numbers import plural
from nas.plan.pilot import Pilot

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
    axes.set_title(f"{plural(run.cluster.workers, 'worker')}, {run.utilization:.0%} used", loc="left")
    figure.legend(loc="outside lower center", ncols=len(_COLORS), frameon=False)
    figure.savefig(path)


def plot_pilot(pilot: Pilot, path: Path) -> None:
    """Draw the models' scores at the measured rungs, and how well each rung ranks them, in the file's format."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    scores, taus = figure.subplots(1, 2)
    middle = sorted(training.scores[-1] for training in pilot.trainings)[len(pilot.trainings) // 2]
    for training in pilot.trainings:
        color = _COLORS[Doing.TRAINING] if training.scores[-1] >= middle else _COLORS[Doing.STARTING]
        scores.plot(pilot.rungs, training.scores, marker=".", linewidth=1, color=color)
    scores.set_title(f"{len(pilot.trainings)} models; blue: the upper half in the end", loc="left")
    scores.set(ylabel="distillation score")
    known = [r for r in pilot.evidence if None not in (r.kendall.tau, r.kendall.low, r.kendall.high)]
    steps, tau = [r.steps for r in known], [r.kendall.tau for r in known]
    low, high = [r.kendall.low for r in known], [r.kendall.high for r in known]
    taus.vlines(steps, low, high, color=_COLORS[Doing.TRAINING])
    taus.plot(steps, tau, "o", color=_COLORS[Doing.TRAINING], label="score at the rung")
    taus.axhline(MIN_TAU, color=_COLORS[Doing.MEASURING], linewidth=1, label=f"asked for: {MIN_TAU:g}")
    if pilot.size.tau is not None:
        taus.axhline(pilot.size.tau, color=_COLORS[Doing.STARTING], linewidth=1, label="MACs, without training")
    taus.set_title(f"Kendall's tau to the order after {pilot.rungs[-1]} steps (95 %)", loc="left")
    taus.legend(frameon=False, loc="lower right")
    for axes in (scores, taus):
        axes.set(xlabel="training steps", xscale="log")
        axes.set_xticks(pilot.rungs, labels=[str(rung) for rung in pilot.rungs])
        axes.minorticks_off()
    figure.savefig(path)
