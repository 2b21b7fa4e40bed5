"""Compare two or more studies on one page: `backbone-nas compare RUN_A RUN_B [--out FILE]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nas.cli import PAGE_SUFFIXES, PROGRAM, OneLineParser, exit_code, file_to_write
from nas.terminal import write_line
from reports.compare import MAX_STUDIES

COMPARISON_FILE = "comparison.html"
NOTHING_WRITTEN = "no page was written"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line on stderr for bad input."""
    return exit_code(lambda: _compare(arguments), NOTHING_WRITTEN)


def _compare(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    runs: list[Path] = options.runs
    out: Path = options.out
    if not 2 <= len(runs) <= MAX_STUDIES:
        parser().error(f"RUN: {len(runs)} given: must be 2 to {MAX_STUDIES}")
    places = [run.resolve() for run in runs]
    if twice := [str(run) for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        parser().error(f"RUN: {twice[-1]!r} is named twice")
    # These import what takes seconds, as optuna and pandas: not for --help or a bad flag.
    from reports.compare.comparison import compare_studies
    from reports.compare.comparison_page import write_comparison
    from reports.evidence_data import read_evidence

    write_comparison(compare_studies([read_evidence(run).study for run in runs]), out)
    write_line(out)
    return 0


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} compare",
        description="Compare two or more studies on one page: Pareto fronts, hypervolumes, shared architectures.",
        epilog="examples:\n  backbone-nas compare runs/known-cost runs/random\n"
        "  backbone-nas compare runs/h100 runs/laptop --out gpus.html",
    )
    built.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=f"folders of 2 to {MAX_STUDIES} searches")
    text = f"file of the page (default: {COMPARISON_FILE})"
    built.add_argument(
        "--out", type=file_to_write(*PAGE_SUFFIXES), metavar="FILE", default=Path(COMPARISON_FILE), help=text
    )
    return built


if __name__ == "__main__":
    sys.exit(main())
