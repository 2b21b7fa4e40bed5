"""Draw the share of the true hypervolume by evaluations: the median of each sampler, and the spread of the best two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas.validation import ConfigError

COLORS = ("#0072b2", "#8a9099", "#c77a00", "#007f5f", "#b8470b")  # Okabe and Ito's palette for color-blind readers
LINES = ("-", ":", "--", "-.", (0, (1, 1)))
STYLE = {"text.parse_math": False, "svg.hashsalt": "replay", "font.size": 9, "svg.fonttype": "none"}
LOWEST_SHARE = 0.6  # on the axis
BANDS = 2  # more of them hide each other
NAMES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet-16-120",
    "tpe": "TPE", "nsga2": "NSGA-II", "gp": "GPSampler", "nasbench201": "NAS-Bench-201",
    "hybrid": "hybrid backbones",
}  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture in the format of the file's suffix.

    Raises:
        ConfigError: The file cannot be written.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        samplers = result["samplers"]
        best = sorted(samplers, key=lambda name: -samplers[name]["median"][-1])[:BANDS]
        for i, (name, curve) in enumerate(samplers.items()):
            # No two of 25 samplers have both in common.
            color, line = COLORS[i % len(COLORS)], LINES[(i + i // len(COLORS)) % len(LINES)]
            x = curve["evaluations"]
            if name in best:
                axes.fill_between(x, curve["p5"], curve["p95"], color=color, alpha=0.15, linewidth=0)
            axes.plot(x, curve["median"], color=color, linestyle=line, linewidth=1.8, label=NAMES.get(name, name))
        axes.set_ylim(LOWEST_SHARE, 1.0)
        axes.set_xlim(0, max(len(curve["evaluations"]) for curve in samplers.values()))
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("evaluated architectures")
        axes.set_ylabel("share of the true hypervolume")
        bench, dataset = (NAMES.get(result[key], result[key]) for key in ("bench", "dataset"))
        axes.set_title(
            f"{bench}, {dataset}, {result['latency']}\n"
            f"lines: median of {result['seeds']} seeds; bands: 5th to 95th percentile",
            fontsize=9,
            loc="left",
        )
        axes.legend(loc="lower right", frameon=False)
        try:
            figure.savefig(path, dpi=200)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--plot: cannot write {str(path)!r}: {error}") from error
