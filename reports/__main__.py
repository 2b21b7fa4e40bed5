"""Rebuild a study's report: `python -m reports RUN [--out FILE] [--figures DIR] [--open]`."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from nas.command import BAD_INPUT, OneLineParser, one_line
from nas.store import StoreError, read_study
from reports.page import REPORT_FILE, write_page
from reports.plates import save_figures
from reports.points import prepare
from reports.sentences import one_line as result_line
from reports.summary import summarize


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 0, or 2 with one line on stderr for what a person can mend."""
    options = _parser().parse_args(arguments)
    out: Path = options.out or options.run / REPORT_FILE
    try:
        study = read_study(options.run)
        write_page(study, out, options.run)
        summary = summarize(study)
        figures = save_figures(prepare(study, summary), options.figures) if options.figures else []
    except (StoreError, OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(out)
    for path in figures:
        print(path)
    print(result_line(summary))
    if options.open:
        webbrowser.open(out.resolve().as_uri())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m reports",
        description="Rebuild the HTML report of a study.",
        epilog="examples:\n  python -m reports runs/mine --open\n  python -m reports runs/mine --figures figures",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a search, as runs/2025-01-31-name")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"where to write the page (default: RUN/{REPORT_FILE})"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the figures as PNG, SVG and PDF as well")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    return parser


if __name__ == "__main__":
    sys.exit(main())
