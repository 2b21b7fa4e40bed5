"""Compare two or more studies on one page: `python -m reports.compare RUN_A RUN_B [--out FILE]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.cli import OneLineParser, exit_code
from nas.storage.store import read_study
from nas.study.redaction import public_text
from reports.compare.comparison import MAX_STUDIES, compare_studies
from reports.compare.comparison_page import write_comparison

COMPARISON_FILE = "comparison.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line on stderr for bad input."""
    return exit_code(lambda: _compare(arguments), public_text)


def _compare(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    runs: list[Path] = options.runs
    out: Path = options.out
    if not 2 <= len(runs) <= MAX_STUDIES:
        parser.error(f"RUN: {len(runs)} given: must be 2 to {MAX_STUDIES}")
    write_comparison(compare_studies([read_study(run) for run in runs]), out)
    print(out)
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m reports.compare",
        description="Compare two or more studies on one page: Pareto fronts, hypervolumes, shared architectures.",
        epilog="examples:\n  python -m reports.compare runs/known-cost runs/random\n"
        "  python -m reports.compare runs/h100 runs/laptop --out gpus.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=f"folders of 2 to {MAX_STUDIES} searches")
    text = f"file of the page (default: {COMPARISON_FILE})"
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path(COMPARISON_FILE), help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
