"""The pages have the tables on the noise of seeds and of timings that the commands print."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import lead_coverage, seed_intervals, timing_repeats
from nas.analysis.noise import BELIEVED_DEGREES
from nas.study.timing_doubts import LATENCY_RUN_DEVIATION, RUN_DEVIATION, THROUGHPUT_RUN_DEVIATION

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_second_timings_is_what_the_command_prints() -> None:
    page = (DOCS / "explanation/throughput.md").read_text().splitlines()
    table = timing_repeats.table()
    assert [line for line in table if line not in page] == []
    outside, left = (sorted(int(line.split("|")[i].strip(" %")) for line in table[2:]) for i in (6, 7))
    findings, index = (" ".join((DOCS / name).read_text().split()) for name in ("findings.md", "results/index.md"))
    assert f"{outside[0]} to {outside[-1]} % differ by more than both intervals allow" in findings
    assert f"leave {left[0]} to {left[-1]} % of the pairs outside" in findings
    assert f"they call {outside[0]} to {outside[-1]} % different from themselves" in index
    every = [pair for pairs in timing_repeats.sets().values() for pair in pairs]
    text = " ".join((DOCS / "explanation/throughput.md").read_text().split())
    assert f"{100 * timing_repeats.share_outside(every, RUN_DEVIATION):.1f} % of all their pairs remain outside" in text
    between = sorted(float(line.split("|")[5].removesuffix(" % ")) for line in table[2:])
    middle = between[(len(between) - 1) // 2], between[len(between) // 2]
    assert middle[0] - 0.1 <= 100 * RUN_DEVIATION <= middle[1] + 0.1


def test_the_chance_to_keep_a_limit_takes_the_deviations_of_the_table() -> None:
    page, table = (DOCS / "explanation/throughput.md").read_text().splitlines(), timing_repeats.absolute_table()
    assert [line for line in table if line not in page] == []
    deviations = [float(line.split("|")[3].removesuffix(" % ")) / 100 for line in table[3:]]
    assert deviations == pytest.approx([THROUGHPUT_RUN_DEVIATION, LATENCY_RUN_DEVIATION], abs=0.003)


def test_the_tables_on_intervals_of_scores_are_what_the_command_prints() -> None:
    page = (DOCS / "results/index.md").read_text().splitlines()
    tables = [line for line in seed_intervals.tables() if line]
    assert [line for line in tables if line not in page] == []
    (sd, _), (of_candidates, _) = (
        seed_intervals.kinds()[f"{kind}, images of CIFAR-10"] for kind in ("baselines", "candidates")
    )
    assert sd > 2 * of_candidates, "baselines scatter more"
    degrees = [float(line.split("|")[7]) for line in tables if line.startswith("| `")]
    assert min(degrees) <= BELIEVED_DEGREES < max(degrees)


def test_the_leads_by_all_seeds_and_the_deviation_of_fronts_are_what_the_command_prints() -> None:
    index, metrics = (
        " ".join((DOCS / page).read_text().split()) for page in ("results/index.md", "reference/metrics.md")
    )
    first, second = (line.split(" | ")[2].removesuffix(" |") for line in seed_intervals.shared_baseline()[2:])
    assert f"seeds of eradio_nano on these images they are {first} and {second}" in index
    deviation, interval = seed_intervals.search_length().split(": ")[1].split(",")[0].split(" (")
    assert f"models after 270 steps is {deviation} (95 %: {interval.removesuffix(')')};" in metrics


def test_intervals_of_leads_hold_and_a_baseline_far_off_breaks_them() -> None:
    rng = np.random.default_rng(0)
    candidates, baselines = rng.normal(0.5, 0.002, (25, 3)), rng.normal(0.5, 0.002, (3, 3))
    assert lead_coverage.held(candidates, baselines) == (True, True)
    assert lead_coverage.held(candidates, baselines + np.array([[0.05], [0.0], [0.0]])) == (False, False)
