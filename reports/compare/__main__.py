"""Compare two or more studies on one page: `backbone-nas compare RUN_A RUN_B [--out FILE]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nas.cli import OneLineParser, exit_code
from nas.flags import Page, parse_as, parser_of
from nas.terminal import write_line
from nas.validation import ConfigError, Flag, checked
from reports.compare import MAX_STUDIES

COMPARISON_FILE = "comparison.html"
NOTHING_WRITTEN = "no page was written"
_EXAMPLES = """examples:
  backbone-nas compare runs/known-cost runs/random
  backbone-nas compare runs/h100 runs/laptop --out gpus.html"""


@checked
@dataclass(frozen=True)
class CompareSettings:
    """Settings of one ``backbone-nas compare`` command."""

    runs: Annotated[
        tuple[Path, ...],
        Flag(f"folders of 2 to {MAX_STUDIES} searches", names=("RUN",), more={"nargs": "+", "type": Path}),
    ]
    out: Annotated[Page, Flag("file of the page", "FILE")] = Path(COMPARISON_FILE)

    def __post_init__(self) -> None:
        if not 2 <= len(self.runs) <= MAX_STUDIES:
            raise ConfigError(f"RUN: {len(self.runs)} given: must be 2 to {MAX_STUDIES}")
        places = [run.resolve() for run in self.runs]
        if twice := [str(run) for run, place in zip(self.runs, places, strict=True) if places.count(place) > 1]:
            raise ConfigError(f"RUN: {twice[-1]!r} is named twice")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 with one line on stderr for bad input."""
    return exit_code(lambda: _compare(parse_as(CompareSettings, parser(), arguments)), NOTHING_WRITTEN)


def _compare(settings: CompareSettings) -> int:
    # These import what takes seconds, as optuna and pandas: not for --help or a bad flag.
    from reports.compare.comparison import compare_studies
    from reports.compare.comparison_page import write_comparison
    from reports.evidence_data import read_evidence

    write_comparison(compare_studies([read_evidence(run).study for run in settings.runs]), settings.out)
    write_line(settings.out)
    return 0


def parser() -> OneLineParser:
    """Build the parser."""
    about = "Compare two or more studies on one page: Pareto fronts, hypervolumes, shared architectures."
    return parser_of(CompareSettings, "compare", about, _EXAMPLES)


if __name__ == "__main__":
    sys.exit(main())
