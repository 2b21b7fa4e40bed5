"""Draw profiles: compared networks, sweeps, a roofline, compared runtimes, the distributions of a space."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from nas.analysis.point_labels import label_points
from nas.measure import Arm
from nas.measure.runtime_traits import RUNTIMES
from nas.profile.profiles import Profile, Sweep
from nas.profile.runtime_comparison import RuntimeRow, RuntimesProfile
from nas.profile.space_sample import QUANTITIES, SpaceProfile
from nas.study.limits import LIMITS
from nas.study.records import Measurement
from nas.study.timing_doubts import WRONG_OUTPUT, compared_ratio_interval, throughput_interval

PANEL_INCHES = (5.0, 3.9)
DPI = 200
COLORS = ("#0072b2", "#c77a00", "#007f5f", "#a8557f", "#4b5563", "#b8470b")
STYLE = {"text.parse_math": False, "svg.hashsalt": "profile", "font.size": 9, "svg.fonttype": "none"}
RUNTIME_COLORS = dict(zip(RUNTIMES, itertools.cycle(COLORS), strict=False))  # the same in every picture
WIDTH_INCHES, ROW_INCHES, HEADER_INCHES = 7.5, 0.24, 0.75  # of the picture of runtimes
LOG_SPAN = 4.0  # highest over lowest ratio, above which the axis is logarithmic and has enough ticks

Panel = Callable[[Any], None]


def plot_networks(profiles: Sequence[Profile], path: Path) -> bool:
    """Draw throughput over GMACs and parameters of several networks or the roofline of one, and all sweeps.

    Returns:
        Whether there is anything to draw; else no file is written.
    """
    timed = [p for p in profiles if p.measurement and p.measurement.verdict != WRONG_OUTPUT]
    panels: list[Panel] = []
    if len(timed) > 1:
        panels.append(lambda axes: _scatter(axes, timed, "GMACs of one image", lambda p: p.counts.macs / 1e9))
        panels.append(lambda axes: _scatter(axes, timed, "parameters, millions", lambda p: p.counts.params / 1e6))
    elif profiles and profiles[0].roofline and not profiles[0].sweeps:
        panels.append(lambda axes: _roofline(axes, profiles[0]))
    for kind, label in (("batch", "images per call"), ("resolution", "input size, px")):
        swept = [(p.arch, p.sweeps[kind]) for p in profiles if kind in p.sweeps and p.sweeps[kind].points]
        if swept:
            panels.append(lambda axes, swept=swept, kind=kind, label=label: _sweep(axes, swept, kind, label))  # type: ignore[misc]
    if panels:
        first = timed[0].measurement if timed else None
        _draw(panels, f"{first.device}; {first.arm}" if first else "", path)
    return bool(panels)


def plot_space(profile: SpaceProfile, path: Path) -> bool:
    """Draw a histogram of each counted or measured quantity, with the limits; return whether there is any."""
    panels: list[Panel] = [
        lambda axes, name=name: _histogram(axes, profile, name)  # type: ignore[misc]
        for name in QUANTITIES
        if profile.values(name)
    ]
    r = profile.request
    if panels:
        _draw(panels, f"space {r.space_name}, {len(profile.specs)} specs, seed {r.seed}, {r.sample_px} px", path)
    return bool(panels)


def _draw(panels: Sequence[Panel], title: str, path: Path) -> None:
    across = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    down = -(-len(panels) // across)
    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL_INCHES[0] * across, PANEL_INCHES[1] * down + 0.3), layout="constrained", dpi=DPI)
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=8, color="0.35")
        for i in range(1, len(panels) + 1):
            axes = figure.add_subplot(down, across, i)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="0.92", linewidth=0.6)
            axes.set_axisbelow(True)
        for axes, panel in zip(figure.axes, panels, strict=True):  # after all exist: the layout places their labels
            panel(axes)
        figure.savefig(path, dpi=DPI)


def _scatter(axes: Any, profiles: Sequence[Profile], label: str, cost: Callable[[Profile], float]) -> None:
    points, whiskers = [], []
    for i, p in enumerate(profiles):
        m = p.measurement
        assert m is not None
        value = m.throughput_img_s
        low, high = throughput_interval(m) or (value, value)
        axes.errorbar(
            cost(p), value, yerr=[[value - low], [high - value]], fmt="o", markersize=5, color=COLORS[i % len(COLORS)]
        )
        points.append((cost(p), value, p.arch))
        whiskers.append((low, high))
    axes.set_xlabel(f"{label}, lower is better")
    sizes = {f"batch {p.batch}, {p.resolution} px" for p in profiles}
    axes.set_ylabel(f"images/s ({'; '.join(sorted(sizes))})" if len(sizes) == 1 else "images/s (sizes differ)")
    log_axis(axes, "x", [x for x, _, _ in points])
    log_axis(axes, "y", [y for ends in whiskers for y in ends])
    label_points(axes, points, whiskers)


def _sweep(axes: Any, swept: Sequence[tuple[str, Sweep]], kind: str, label: str) -> None:
    sizes: set[int] = set()
    rates: list[float] = []
    for i, (arch, sweep) in enumerate(swept):
        x = [getattr(point, kind) for point in sweep.points]
        y = [point.throughput_img_s for point in sweep.points]
        low = np.array([point.throughput_low_img_s for point in sweep.points], dtype=float)  # NaN, not drawn, for None
        high = np.array([point.throughput_high_img_s for point in sweep.points], dtype=float)
        color = COLORS[i % len(COLORS)]
        axes.plot(x, y, "o-", markersize=4, linewidth=1.3, color=color, label=arch)
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        doubtful = [j for j, point in enumerate(sweep.points) if point.doubt]
        axes.plot([x[j] for j in doubtful], [y[j] for j in doubtful], "x", markersize=9, color=color)
        sizes |= set(x)
        rates += y
    axes.set_xlabel(label)
    fixed_sizes = {point.resolution if kind == "batch" else point.batch for _, sweep in swept for point in sweep.points}
    unit = "{} px" if kind == "batch" else "batch {}"
    axes.set_ylabel(f"images/s, {' or '.join(unit.format(size) for size in sorted(fixed_sizes))}")
    log_axis(axes, "x", list(map(float, sizes)))
    log_axis(axes, "y", rates)
    axes.set_xticks(_spread(sorted(sizes)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    doubts = dict.fromkeys(point.doubt for _, sweep in swept for point in sweep.points if point.doubt)
    if doubts:
        axes.plot([], [], "x", markersize=9, color="0.3", label=f"doubtful: {' or '.join(doubts)}")
    axes.legend(frameon=False, fontsize=8)


def _spread(sizes: Sequence[int]) -> list[int]:
    """Return the sizes whose labels don't overlap on a logarithmic axis."""
    labeled: list[int] = []
    for size in sizes:
        if not labeled or np.log(size / labeled[-1]) > np.log(sizes[-1] / sizes[0]) / 12:
            labeled.append(size)
    return labeled


def _roofline(axes: Any, p: Profile) -> None:
    assert p.roofline is not None
    c = p.roofline.ceilings
    rows = [r for r in p.stages if r.macs and r.moved_bytes]
    if not rows:
        return
    points = [(r.macs * p.batch / r.moved_bytes, r.macs * p.batch / (r.time_ms * 1e6), r.name) for r in rows]
    memory, cache = c.gbytes_s[-1][1], max(rate for _, rate in c.gbytes_s)
    edges = [
        min(*(x for x, _, _ in points), c.gmacs_s / cache) / 1.5,
        max(*(x for x, _, _ in points), c.gmacs_s / memory) * 2,
    ]
    x = np.geomspace(edges[0], edges[1], 200)
    axes.plot(x, np.minimum(x * memory, c.gmacs_s), color="0.2", label=f"memory {memory:.0f} GB/s")
    axes.plot(x, np.minimum(x * cache, c.gmacs_s), ":", color="0.5", label=f"caches {cache:.0f} GB/s")
    axes.axhline(c.gmacs_s, color="0.2", linewidth=0.8, label=f"compute {c.gmacs_s:.0f} GMAC/s")
    if c.product_gmacs_s < c.gmacs_s:
        label = f"matrix products, without TF32: {c.product_gmacs_s:.0f} GMAC/s"
        axes.axhline(c.product_gmacs_s, color="0.5", linewidth=0.8, label=label)
    shares = [900 * r.share for r in rows]
    axes.scatter(
        [a for a, _, _ in points], [b for _, b, _ in points], s=shares, alpha=0.35, color=COLORS[0], linewidths=0
    )
    axes.scatter(
        [a for a, _, _ in points], [b for _, b, _ in points], s=14, color=COLORS[0], label="stage (area: time)"
    )
    axes.set_xlabel(f"MACs per moved byte ({p.arch}, batch {p.batch}, {p.resolution} px)")
    axes.set_ylabel("GMAC/s")
    log_axis(axes, "x", edges, 1.0)
    log_axis(axes, "y", [*(b for _, b, _ in points), c.gmacs_s], 1.6)
    axes.legend(frameon=False, fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    label_points(axes, points)


def _histogram(axes: Any, profile: SpaceProfile, quantity: str) -> None:
    label, unit, divisor = QUANTITIES[quantity]
    values = [v / divisor for v in profile.values(quantity)]
    count = min(24, 3 + round(2 * len(values) ** 0.5))
    bins = np.geomspace(min(values), max(values), count) if max(values) > min(values) else 1
    axes.hist(values, bins=bins, color=COLORS[0], alpha=0.75, edgecolor="white", linewidth=0.4)
    quartiles = np.quantile(values, (0.25, 0.5, 0.75))
    for value, style, name in zip(quartiles, (":", "-", ":"), ("quartiles", "median", None), strict=True):
        axes.axvline(value, color="0.2", linestyle=style, linewidth=1, label=name)
    limits = [
        bound * LIMITS[name].scale / divisor
        for name, bound in profile.request.limits.items()
        if LIMITS[name].quantity == quantity
    ]
    for limit in limits:
        axes.axvline(limit, color=COLORS[5], linewidth=1.8, label="limit")
    log_axis(axes, "x", [*values, *limits], 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(f"{label}, {unit}")
    axes.set_ylabel("specs")
    axes.legend(frameon=False, fontsize=8)


def log_axis(axes: Any, which: str, values: Sequence[float], margin: float = 1.35) -> None:
    """Make an axis logarithmic, around positive values and with plain numbers as ticks."""
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(min(values) / margin, max(values) * margin)
    span = max(values) * margin**2 / min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 200 else (1,), numticks=12))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))


def plot_runtimes(profiles: Sequence[RuntimesProfile], base: Arm, path: Path) -> bool:
    """Draw one panel for each network, all on one axis.

    Args:
        profiles: Profiles of the networks.
        base: Arm that completes the names of runtimes.
        path: Picture file.

    Returns:
        Whether any network was measured; else no file is written.
    """
    measured = [p for p in profiles if p.first]
    if not measured:
        return False
    rows = [len(p.rows) for p in measured]
    heights = [HEADER_INCHES + ROW_INCHES * count for count in rows]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.5), layout="constrained", dpi=DPI)
        FigureCanvasAgg(figure)
        device = measured[0].environment["device_name"]
        figure.suptitle(f"{device}; words that a runtime's name omits: {base}", fontsize=8, color="0.35")
        panels = list(figure.subplots(len(measured), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        for axes, p in zip(panels, measured, strict=True):
            _panel(axes, p)
        _scale(panels, measured)
        figure.savefig(path, dpi=DPI)
    return True


def _panel(axes: Any, p: RuntimesProfile) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    if p.noise is not None:
        axes.axvspan(1 / (1 + p.noise), 1 + p.noise, color="0.88", linewidth=0)
    axes.axvline(1, color="0.4", linewidth=0.8)
    for y, row in enumerate(p.by_runtime):
        _row(axes, p, y, row)
    axes.set_yticks(range(len(p.rows)), [row.name for row in p.by_runtime])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(p.rows) - 0.4, -0.6)
    axes.set_title(f"{p.arch}, batch {p.batch}, {p.resolution} px", fontsize=9, loc="left")


def _row(axes: Any, p: RuntimesProfile, y: int, row: RuntimeRow) -> None:
    """Draw a point with whiskers, open where it is a tie, and write the throughput at the margin."""
    m = row.measurement
    right = f"{m.throughput_img_s:.4g} img/s" if m else ("can't run here" if row.impossible else "failed")
    axes.annotate(right, (1.0, y), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                  va="center", fontsize=8, color="0.25" if m else "0.55")  # fmt: skip
    if m is None:
        return
    color = RUNTIME_COLORS[row.arm.runtime]
    low, high = _drawn_ends(m)
    whisker = [[m.ratio - low], [high - m.ratio]]
    axes.errorbar(m.ratio, y, xerr=whisker, fmt="o", markersize=6, capsize=3, color=color,
                  markerfacecolor="white" if p.tie(row) else color)  # fmt: skip


def _drawn_ends(m: Measurement) -> tuple[float, float]:
    return compared_ratio_interval(m) or (m.ratio, m.ratio)


def _scale(panels: Sequence[Any], profiles: Sequence[RuntimesProfile]) -> None:
    """Scale the axis that all panels share."""
    results = [row.measurement for p in profiles for row in p.rows if row.measurement]
    noise = 1 + max(p.noise or 0.0 for p in profiles)
    ends = [end for m in results for end in _drawn_ends(m)]
    low, high = min(1 / noise, *ends), max(noise, *ends)
    bottom = panels[-1]
    if high / low > LOG_SPAN:
        log_axis(bottom, "x", [low, high], 1.05)
    else:
        margin = 0.04 * (high - low) or 0.04
        bottom.set_xlim(low - margin, high + margin)
    names = {p.first.name for p in profiles if p.first}
    first = names.pop() if len(names) == 1 else "the first runtime"
    bottom.set_xlabel(f"throughput over that of {first}, with 95 % intervals; gray: noise of an A/A pair; open: tie")
