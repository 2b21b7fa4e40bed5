"""Draw docs/hybrid_table.png: throughput and score of every architecture of the published table, and their front.

    python -m experiments.hybrid_picture

Takes seconds. Reads nas/replay/hybrid_table.json.gz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.hybrid_findings import Row, first_evaluations, has_attention
from nas.replay.hybrid_rows import read_rows
from nas.replay.plots import COLORS, STYLE
from nas.study.pareto import front

PICTURE = Path(__file__).parents[1] / "docs" / "hybrid_table.png"
MARKERS = {"convolutions alone": (COLORS[2], "^"), "with attention": (COLORS[0], "o")}


def draw(rows: list[Row], path: Path) -> None:
    """Write the picture.

    Args:
        rows: One evaluation of each architecture.
        path: File to write.
    """
    points = np.array([(row["ratio"][0], row["scores"][-1]) for row in rows])
    attends = np.array([has_attention(row) for row in rows])
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for (name, (color, marker)), chosen in zip(MARKERS.items(), (~attends, attends), strict=True):
            label = f"{name} ({chosen.sum()})"
            axes.scatter(*points[chosen].T, s=14, color=color, marker=marker, alpha=0.55, linewidth=0, label=label)
        best = points[sorted(front(points), key=lambda i: points[i, 0])]
        axes.step(*best.T, where="pre", color="0.25", linewidth=1.2, label=f"Pareto front ({len(best)})")
        for row in rows:
            if row["source"] == "baseline":
                at = (row["ratio"][0], row["scores"][-1])
                axes.scatter(*at, s=46, color="white", edgecolor="black", marker="D", zorder=3)
        axes.scatter([], [], s=46, color="white", edgecolor="black", marker="D", label="E-RADIO baselines (ours)")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("throughput, in multiples of eradio_pico's (two CPU cores, batch 16, 64 px)")
        axes.set_ylabel("distillation score after 270 steps")
        axes.legend(loc="lower left", frameon=False)
        figure.savefig(path, dpi=200)


def main() -> None:
    """Draw the picture."""
    draw(first_evaluations(read_rows()), PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
