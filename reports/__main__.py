"""Rebuild a study's report, draw its figures for a paper, export its trials: `backbone-nas report RUN`."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from nas.cli import OneLineParser, exit_code
from nas.flags import RUN, Page, file_to_write, parse_as, parser_of
from nas.terminal import write_line
from nas.validation import ConfigError, Flag, checked

if TYPE_CHECKING:
    from nas.study.records import StudyRecord

_EXAMPLES = """examples:
  backbone-nas report runs/mine --open
  backbone-nas report runs/mine --figures figures
  backbone-nas report runs/mine --figures figures --behind runs/random
  backbone-nas report runs/mine --csv trials.csv --parquet trials.parquet"""


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError("is a file; name a folder")
    return path


@checked
@dataclass(frozen=True)
class ReportOptions:
    """Options of the command; a path of None is not written."""

    run: Annotated[Path, RUN]
    out: Annotated[Page | None, Flag("file of the report", "FILE", "RUN/report.html")] = None
    figures: Annotated[
        Annotated[Path, AfterValidator(_folder)] | None,
        Flag("write figures as PDF, PNG and SVG", "DIR", "not written"),
    ] = None
    behind: Annotated[
        Path | None,
        Flag(
            "with --figures: draw the front of another study in gray behind this one, such as that of a random search; "
            "a study that compare shows in no common chart is refused",
            "RUN",
        ),
    ] = None
    csv: Annotated[
        Annotated[Path, AfterValidator(file_to_write(".csv"))] | None,
        Flag("write the trials as CSV, one per row", "FILE", "not written"),
    ] = None
    parquet: Annotated[
        Annotated[Path, AfterValidator(file_to_write(".parquet", ".pq"))] | None,
        Flag("write the trials as Parquet, exact and typed; needs pyarrow", "FILE", "not written"),
    ] = None
    open: Annotated[bool, Flag("open the report in the browser")] = False

    def __post_init__(self) -> None:
        if self.behind is not None and self.figures is None:
            raise ConfigError("--behind: only for figures; add --figures DIR, or remove it")
        if self.csv is not None and self.csv.resolve() == (self.run / "history.csv").resolve():
            raise ConfigError(f"--csv: {str(self.csv)!r} is the history of this training; choose another file")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line on stderr for bad input."""
    return exit_code(lambda: _report(parse_as(ReportOptions, parser(), arguments)), "the study is unchanged")


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
    about = "Rebuild the HTML report of a study, draw its figures for a paper, export its trials as a table."
    return parser_of(ReportOptions, "report", about, _EXAMPLES)


if __name__ == "__main__":
    raise SystemExit(main())
