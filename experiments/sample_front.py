"""Draw docs/front.png, the front of the sample report and its retrained models, from docs/sample_report.html.

    python -m experiments.pictures front.png

The study itself is not kept: the page has what its charts show.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from matplotlib import rc_context

from reports.figure_data import CandidatePoint, ComparisonNetwork
from reports.paper_front import FrontAdditions, front_figure
from reports.paper_style import DPI, STYLE

REPORT = Path(__file__).parents[1] / "docs" / "sample_report.html"
SEEDS, STEPS = 3, 2700
BASELINES = "E-RADIO-style 64 px baselines"


def page_data(report: Path = REPORT) -> dict[str, Any]:
    """Return the data of a report's page: the inverse of `reports.formatting.packed_json`."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text(), re.DOTALL)
    assert found is not None
    packed = json.loads(found[1])

    def unpack(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        head, *items = value
        if head == -1:
            return [unpack(item) for item in items]
        names = packed["keys"][head]
        return dict(zip(names, [*map(unpack, items), *[None] * (len(names) - len(items))], strict=True))

    data: dict[str, Any] = unpack(packed["data"])
    return data


def draw_front(path: Path) -> None:
    """Draw the front without early-stopped candidates, as `backbone-nas report --figures` does."""
    data = page_data()
    sets, layers = data["datasets"], data["charts"]["front"]["layer"]
    x, y = (next(e[axis] for layer in layers if "title" in (e := layer["encoding"]).get(axis, {})) for axis in "xy")
    low, high = ([float(each) for each in re.findall(r"[\d.]+", end["expr"])][1] for end in y["scale"]["domain"])
    ratios = tuple(x["scale"]["domain"])
    scale = [ComparisonNetwork(each["name"], each["ratio"], True) for each in sets["scale"]]
    shown = SimpleNamespace(
        points=[CandidatePoint(**point) for point in sets["points"]],
        single=None,
        staircase=[(each["ratio"], each["score"]) for each in sets["staircase"]],
        scale=[each for each in scale if ratios[0] < each.ratio < ratios[1]],
        score_range=(low, high),
        ratio_range=ratios,
        throughput=SimpleNamespace(log=True),
        throughput_title=x["title"][0],
        score=SimpleNamespace(label="explained variance of the teachers' spatial features"),
    )
    assert all(math.isfinite(end) for end in (*ratios, low, high))
    retraining = {"steps": STEPS, "candidates": [{"scores": dict.fromkeys(map(str, range(SEEDS)), 0.0)}]}
    with rc_context(STYLE):
        figure = front_figure(shown, sets["retraining"], FrontAdditions(BASELINES, retraining))  # type: ignore[arg-type]
        assert figure is not None
        figure.savefig(path, dpi=DPI)
