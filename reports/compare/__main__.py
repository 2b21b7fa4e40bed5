"""Lay studies side by side: `python -m reports.compare RUN_A RUN_B [--out FILE]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.command import OneLineParser, exit_code
from nas.store import read_study
from reports.compare.page import write_comparison
from reports.compare.sides import MOST_STUDIES, side_by_side

COMPARISON_FILE = "comparison.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 0, or 2 with one line on stderr for what a person can mend."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 2 <= len(options.runs) <= MOST_STUDIES:
        parser.error(f"RUN: {len(options.runs)} given: must be 2 to {MOST_STUDIES}")
    return exit_code(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    comparison = side_by_side([read_study(run) for run in options.runs])
    write_comparison(comparison, options.out)
    print(options.out)
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m reports.compare",
        description="Lay two or more studies side by side on one page: fronts, hypervolumes, nets that they share.",
        epilog="examples:\n  python -m reports.compare runs/known-cost runs/random\n"
        "  python -m reports.compare runs/h100 runs/laptop --out gpus.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a search; two or more")
    words = f"where to write the page (default: {COMPARISON_FILE})"
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path(COMPARISON_FILE), help=words)
    return parser


if __name__ == "__main__":
    sys.exit(main())
