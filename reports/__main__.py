"""Rebuild a study's report, draw its figures for a paper, export its trials: `backbone-nas report RUN`."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import PAGE_SUFFIXES, PROGRAM, OneLineParser, exit_code, file_to_write, folder_to_write
from nas.flags import add_run
from nas.terminal import write_line

if TYPE_CHECKING:
    from nas.study.records import StudyRecord


@dataclass(frozen=True)
class ReportOptions:
    """Options of the command; a path of None is not written.

    Raises:
        ValueError: an option needs another one.
    """

    run: Path
    out: Path | None
    figures: Path | None
    behind: Path | None
    csv: Path | None
    parquet: Path | None
    open: bool

    def __post_init__(self) -> None:
        if self.behind is not None and self.figures is None:
            raise ValueError("--behind: only for figures; add --figures DIR, or remove it")
        if self.csv is not None and self.csv.resolve() == (self.run / "history.csv").resolve():
            raise ValueError(f"--csv: {str(self.csv)!r} is the history of this training; choose another file")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line on stderr for bad input."""
    return exit_code(lambda: _report(ReportOptions(**vars(parser().parse_args(arguments)))), "the study is unchanged")


def _check_comparable(study: StudyRecord, behind: StudyRecord) -> tuple[str, ...]:
    """Return in sentences what forbids to say that a model of one study dominates one of the other.

    Args:
        study: study of the figure, A in the sentences.
        behind: study whose front is drawn behind, B in the sentences.

    Raises:
        ValueError: one figure cannot show both fronts, as `backbone-nas compare` finds.
    """
    from reports.compare.comparison import compare_studies

    found = compare_studies([study, behind]).comparability
    if not found.same_axes:
        why = (*found.score, *found.throughput)[0]
        raise ValueError(f"--behind: one figure cannot show both fronts (A: RUN, B: this one): {why}")
    return found.measurement


def _report(options: ReportOptions) -> int:
    # These import what takes seconds, as optuna and pandas: not for --help or a bad flag.
    from reports.dataframe import save_csv, save_parquet, trial_frame
    from reports.evidence_data import read_evidence, retraining_results
    from reports.headline import result_line
    from reports.page import REPORT_FILE, write_page
    from reports.paper_figures import draw, save
    from reports.summary import summarize

    out = options.out or options.run / REPORT_FILE
    evidence = read_evidence(options.run)
    behind = read_evidence(options.behind).study if options.behind else None
    cautions = _check_comparable(evidence.study, behind) if behind else ()
    write_page(evidence, out, options.run)
    study, summary = evidence.study, summarize(evidence.study, evidence)
    figures = draw(study, summary, retraining_results(evidence), behind) if options.figures else {}
    written = save(figures, options.figures) if options.figures else []
    written += [save_csv(trial_frame(study, summary, evidence), options.csv)] if options.csv else []
    written += [save_parquet(trial_frame(study, summary, evidence), options.parquet)] if options.parquet else []
    write_line(out)
    for path in written:
        write_line(path)
    if missing := [name for name, figure in figures.items() if figure is None]:
        write_line(f"not drawn for lack of data: {', '.join(missing)}")
    for caution in cautions:
        write_line(f"--behind: {caution}")
    write_line(result_line(study.info, summary))
    if options.open:
        webbrowser.open(out.resolve().as_uri())
    return 0


def parser() -> OneLineParser:
    """Build the parser."""
    built = OneLineParser(
        prog=f"{PROGRAM} report",
        description="Rebuild the HTML report of a study, draw its figures for a paper, export its trials as a table.",
        epilog="examples:\n  backbone-nas report runs/mine --open\n  backbone-nas report runs/mine --figures figures\n"
        "  backbone-nas report runs/mine --figures figures --behind runs/random\n"
        "  backbone-nas report runs/mine --csv trials.csv --parquet trials.parquet",
    )
    none = "(default: not written)"
    add_run(built.add_argument)
    built.add_argument(
        "--out",
        type=file_to_write(*PAGE_SUFFIXES),
        metavar="FILE",
        help="file of the report (default: RUN/report.html)",
    )
    built.add_argument(
        "--figures", type=folder_to_write, metavar="DIR", help=f"write figures as PDF, PNG and SVG {none}"
    )
    built.add_argument(
        "--behind",
        type=Path,
        metavar="RUN",
        help="with --figures: draw the front of another study in gray behind this one, such as that of a random "
        "search; a study that compare shows in no common chart is refused (default: none)",
    )
    built.add_argument(
        "--csv", type=file_to_write(".csv"), metavar="FILE", help=f"write the trials as CSV, one per row {none}"
    )
    built.add_argument(
        "--parquet",
        type=file_to_write(".parquet", ".pq"),
        metavar="FILE",
        help=f"write the trials as Parquet, exact and typed; needs pyarrow {none}",
    )
    built.add_argument("--open", action="store_true", help="open the report in the browser (default: no)")
    return built


if __name__ == "__main__":
    raise SystemExit(main())
