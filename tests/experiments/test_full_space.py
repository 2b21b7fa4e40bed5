"""The pages have the figures of the first search of `full`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from experiments.distillation.parallel import load_rows
from experiments.full_space import FITTED, ROWS, complete, report
from experiments.hybrid_findings import agreement

DOCS = Path(__file__).parents[2] / "docs"
ROW = load_rows(ROWS)


def test_the_table_of_models_is_that_of_the_rows() -> None:
    page = (DOCS / "results/index.md").read_text()
    done = {row["baseline"] or f"trial {row['number']}": row for row in complete(ROW)}
    shown = ("trial 32", "eradio_nano", "trial 35", "trial 34", "trial 25", "eradio_pico", "trial 15")
    titles = {name: name for name in shown} | {"eradio_nano, windows of 4": "eradio_windows_of_4-922c1d93"}
    for title, name in titles.items():
        row = done[name]
        ratio = "{:.2f}x ({:.2f} to {:.2f})".format(*row["ratio"])
        sizes = f"{row['macs'] / 1e6:.0f} | {row['params'] / 1e6:.2f}"
        cells = f"| {sizes} | {row['scores'][-1]:.3f} | {ratio} |"
        (line,) = [line for line in page.splitlines() if line.endswith(cells)]
        assert line.startswith(f"| {title} | ")


def test_the_pilots_taus_are_those_of_the_rows() -> None:
    taus = agreement(np.array([row["scores"] for row in ROW if row["of"] == "pilot"]))
    cells = " | ".join("{:.2f} ({:.2f} to {:.2f})".format(*tau) for tau in taus)
    assert f"| tau | {cells} |" in (DOCS / "results/index.md").read_text()


def test_speeds_at_equal_score_and_counts_are_those_that_the_command_prints(capsys) -> None:
    report(ROW)
    printed, page = capsys.readouterr().out.partition(FITTED)[0], (DOCS / "results/index.md").read_text()
    for name, times in (("eradio_windows_of_4-922c1d93", 1.07), ("eradio_nano", 1.09), ("eradio_pico", 3.40)):
        assert f"scores at least as high as {name}: {times:.2f} times as fast" in printed
        assert f"{times:.2f} times as" in " ".join(page.split())
    (luck,) = re.findall(r"as high as eradio_pico: .* lead by 0\.009, .*: (\S+) times as fast", printed)
    assert f"two seeds may differ by (95 %, with the noise of `laptop`), is {luck} times as fast" in " ".join(
        page.split()
    )
    findings = " ".join((DOCS / "findings.md").read_text().split())
    assert "one 3.4 times as fast as eradio_pico with a lead of 0.002" in findings
    assert f"the fastest that leads by as much is {float(luck):.1f} times as fast" in findings
    assert "front: 7 of 15 that were trained to the end" in printed
    assert "with attention: 0 of the front, 5 of the 43 trained" in printed


def test_the_second_search_is_that_of_the_rows(capsys) -> None:
    report(ROW)
    printed, page = capsys.readouterr().out.partition(FITTED)[2], (DOCS / "results/index.md").read_text()
    done = {row["baseline"] or f"trial {row['number']}": row for row in complete(ROW, FITTED)}
    for name in ("trial 39", "trial 36", "eradio_nano", "eradio_pico", "trial 28"):
        row = done[name]
        sizes = f"{row['macs'] / 1e6:.0f} | {row['params'] / 1e6:.2f}"
        ratio = "{:.2f}x ({:.2f} to {:.2f})".format(*row["ratio"])
        cells = f"| {sizes} | {row['scores'][-1]:.3f} | {ratio} |"
        (line,) = [line for line in page.splitlines() if line.endswith(cells)]
        assert line.startswith(f"| {name} | ")
    speeds = dict(re.findall(r"as high as (\w+)[\w-]*: (\S+) times as fast;", printed))
    assert speeds == {"eradio_windows_of_4": "1.21", "eradio_nano": "1.27", "eradio_pico": "0.97"}
    words, findings = " ".join(page.split()), " ".join((DOCS / "findings.md").read_text().split())
    lead = done["trial 36"]["scores"][-1] - done["eradio_nano"]["scores"][-1]
    assert f"a lead of {lead:.3f} in score that is 1.27 times as fast as eradio_nano (1.21 times" in words
    assert f"a lead of {lead:.3f} that is 1.27 times as fast as eradio_nano" in findings
    assert "front: 10 of 16 that were trained to the end" in printed
    assert "with attention: 1 of the front, 7 of the 43 trained" in printed
