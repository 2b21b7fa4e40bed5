"""The pages have the tables of leads that last, and the program's lead is one that did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.score_lead import (
    bin_cells,
    choose,
    leads_of_searches,
    recommended_after,
    retrained_searches,
    speedups,
    tables,
)
from nas.analysis import LASTING_LEAD, SMALL_SHORTFALL

ROOT = Path(__file__).parents[2]
INDEX = (ROOT / "docs/results/index.md").read_text()
WORDS = " ".join(INDEX.split())


def test_the_page_has_every_table_of_the_command() -> None:
    lines = INDEX.splitlines()
    assert [line for line in tables(retrained_searches()) if line not in lines] == []


def test_the_leads_that_the_program_trusts_lasted_in_every_retrained_search() -> None:
    searches = list(retrained_searches().values())
    after = [later for lead, later in leads_of_searches(searches) if lead >= LASTING_LEAD]
    assert len(after) >= 80
    assert min(after) >= 0
    assert f"{len(after)} of {len(after)} |" in INDEX
    assert bin_cells(leads_of_searches(searches))[0] == "6 of 13", "small leads do not last"


def test_only_candidates_just_below_the_best_baseline_made_up_for_it() -> None:
    found = leads_of_searches(list(retrained_searches().values()))
    near = [later >= 0 for lead, later in found if -SMALL_SHORTFALL <= lead < 0]
    far = [later >= 0 for lead, later in found if lead < -SMALL_SHORTFALL]
    words = {1: "one", 4: "four", 5: "five"}
    led, one = words[sum(near)], words[sum(far)]
    shortfall = f"scored at most {SMALL_SHORTFALL} less than the best baseline"
    assert f"of {len(near)} candidates that {shortfall}, {led} led" in WORDS
    assert f"of {len(far)} that scored still less, {one} did" in WORDS


def test_the_pages_count_the_shortlists_of_the_searches_that_were_retrained_in_full() -> None:
    found = [recommended_after(rows) for rows in retrained_searches().values()]
    same = sum(every == few for _, every, few in found)
    assert (same, len(found)) == (10, 11)
    assert "In ten of eleven searches, retraining it alone would have recommended the same model" in WORDS
    counts = [len(shortlist) for shortlist, *_ in found]
    how_to = " ".join((ROOT / "docs/how-to/retrain_and_select.md").read_text().split())
    assert "In ten of the eleven searches that we retrained in full" in how_to
    (low, high) = re.findall(
        r"\[(\d) to (\d) of \d+ to \d+ candidates\]\(../results/index.md#which-lead-lasts\)", how_to
    )[0]
    assert (int(low), int(high)) == (min(counts), max(counts))


def row(trial: int, before: float, after: float, ratio: float, baseline: str | None = None) -> dict[str, Any]:
    return {
        "trial": trial, "baseline": baseline, "score_of_study": before, "score": after, "ratio": ratio,
        "stopped_after": None,
    }  # fmt: skip


def test_a_lead_is_that_over_the_best_baseline_of_each_training() -> None:
    rows = {
        "candidates": [
            row(0, 0.5, 0.6, 1.0, "a"),
            row(1, 0.4, 0.7, 1.0, "b"),
            row(2, 0.51, 0.69, 4.0),
            row(3, 0.55, 0.8, 2.0),
        ]
    }
    chosen = choose(rows, 0.0)
    assert chosen is not None
    assert (chosen.number, chosen.speedup) == (2, 4.0)
    assert chosen.lead_after == pytest.approx(-0.01)
    assert recommended_after(rows) == ([2, 3], 3, 3)
    assert speedups(rows) == (4.0, None, 2.0)
    none = {"candidates": [row(0, 0.5, 0.6, 1.0, "a"), row(2, 0.51, 0.59, 4.0)]}
    assert choose(none, 0.04) is None
    assert recommended_after(none) == ([2], None, None)
    assert speedups(none) == (4.0, None, None)
