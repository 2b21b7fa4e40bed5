"""Rebuild a study's report, draw its figures for a paper, export it: `python -m reports RUN`."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from nas.command import OneLineParser, exit_code
from nas.store import read_study
from reports.export import save_csv, save_parquet, table
from reports.page import REPORT_FILE, write_page
from reports.plates import draw, save
from reports.sentences import one_line as result_line
from reports.summary import summarize


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 0, or 2 with one line on stderr for what a person can mend."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _report(options))


def _report(options: argparse.Namespace) -> int:
    out: Path = options.out or options.run / REPORT_FILE
    study = read_study(options.run)
    write_page(study, out, options.run)
    summary = summarize(study)
    figures = draw(study, summary) if options.figures else {}
    written = save(figures, options.figures) if options.figures else []
    written += [save_csv(table(study, summary), options.csv)] if options.csv else []
    written += [save_parquet(table(study, summary), options.parquet)] if options.parquet else []
    print(out)
    for path in written:
        print(path)
    if missing := [name for name, figure in figures.items() if figure is None]:
        print(f"not drawn, for want of data: {', '.join(missing)}")
    print(result_line(summary))
    if options.open:
        webbrowser.open(out.resolve().as_uri())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m reports",
        description="Rebuild the HTML report of a study; draw its figures for a paper, export its trials as a table.",
        epilog="examples:\n  python -m reports runs/mine --open\n  python -m reports runs/mine --figures figures\n"
        "  python -m reports runs/mine --csv trials.csv --parquet trials.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a search, as runs/2025-01-31-name")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"where to write the page (default: RUN/{REPORT_FILE})"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw the figures for a paper as PDF, PNG and SVG")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the trials as CSV, a row each")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="the same, exact and typed; needs pyarrow")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
