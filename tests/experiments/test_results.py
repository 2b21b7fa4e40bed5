"""Published tables follow from the committed curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments/results"
CURVES = json.loads((RESULTS / "replay_curves.json").read_text())


@pytest.mark.parametrize("pair", CURVES, ids=lambda pair: f"{pair['dataset']}-{pair['latency']}")
def test_medians_and_percentiles_are_those_of_the_curves(pair: dict[str, object]) -> None:
    published = json.loads((RESULTS / "replay.json").read_text()).values()
    keys = ("dataset", "latency", "seeds", "workers", "knowledge")
    (table,) = [t for t in published if t["rungs"] == 1 and all(t[key] == pair[key] for key in keys)]
    for sampler, summary in table["samplers"].items():
        shares = np.array(pair["curves"][sampler])[:, np.array(summary["evaluations"]) - 1]
        for name, q in (("p5", 5), ("median", 50), ("p95", 95)):
            assert np.percentile(shares, q, axis=0) == pytest.approx(summary[name], abs=2e-5)


def test_headline_of_the_replay_page_is_that_of_the_curves() -> None:
    page = (ROOT / "docs/results/replay.md").read_text()
    (pair,) = [pair for pair in CURVES if (pair["dataset"], pair["latency"]) == ("cifar10", "titan_rtx_256_ms")]
    shares = np.array(pair["curves"]["known-cost"])[:, 199]
    assert f"**{np.median(shares):.3f} / {np.percentile(shares, 5):.3f}**" in page
