"""``backbone-nas select RUN --max-latency-ms 13``: show the best candidate within limits, and its confidence."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas.cli import OneLineParser, exit_code
from nas.flags import RUN, parser_of, shared
from nas.study.limits import LIMITS, add_limit_flags, given_limits
from nas.terminal import stdout_console, write_line
from nas.validation import Flag, checked

if TYPE_CHECKING:
    from nas.analysis.retraining import RetrainingSummary
    from nas.analysis.selecting import MeasuredCandidate

NOTHING_FITS = 1  # exit code

_EXAMPLES = """examples:
  backbone-nas select runs/mine --max-latency-ms 13
  backbone-nas select runs/mine --min-throughput 2000 --max-params 1e6
  backbone-nas select runs/mine --remeasurement t4 --min-throughput 2000
  backbone-nas select runs/mine --max-memory-mib 24 --json | jq .best.spec > best.json

Candidates are compared by their scores at the study's last rung. If `backbone-nas retrain` has retrained the best of
them, the retrained candidates are compared by their mean scores over seeds instead. Of several timings of a candidate
in the search's setting, the newest one that can be trusted counts. With --remeasurement, those of `backbone-nas
remeasure --name NAME` alone count, on whatever device. Candidates that were early-stopped at lower rungs are not
compared. If no candidate is within the limits, the exit code is 1, and the nearest candidate is shown.
"""


@checked
@dataclass(frozen=True)
class SelectSettings:
    """Settings of one ``backbone-nas select`` command."""

    run: Annotated[Path, RUN]
    limits: dict[str, float] = field(default_factory=dict)  # by name, as in SearchConfig.limits
    json: Annotated[bool, shared("json")] = False
    remeasurement: Annotated[
        str | None,
        Flag(
            "compare the models by the timings of this remeasurement alone, and leave out those that it did not time",
            "NAME",
            "the timings in the search's setting",
        ),
    ] = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; it is NOTHING_FITS where no candidate is within the limits."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: select(parse(words)), "the study is unchanged")


def select(settings: SelectSettings) -> int:
    """Show the answer; return 0 or NOTHING_FITS."""
    from nas.analysis.evidence import gather_evidence
    from nas.analysis.run_files import all_weight_files, recorded_latencies
    from nas.analysis.selecting import answer, answer_json
    from nas.analysis.tables import show_answer
    from nas.storage.store import (
        Store,
    )  # all of these import what takes seconds, as optuna: not for --help or a bad flag

    with Store.open(settings.run, read_only=True) as store:
        evidence = gather_evidence(*store.read_all(), only=settings.remeasurement)

    def weights(candidate: MeasuredCandidate) -> list[Path]:
        steps = evidence.retraining.steps if evidence.retraining else 0
        return all_weight_files(settings.run, candidate.trial.arch_id, steps, _seeds(evidence.retraining, candidate))

    a = answer(evidence, settings.limits, recorded_latencies(settings.run))
    if settings.json:
        write_line(json.dumps(answer_json(evidence.study, a, settings.limits, weights), indent=2))
    else:
        show_answer(a, settings.limits, weights, stdout_console())
    return 0 if a.best else NOTHING_FITS


def _seeds(summary: RetrainingSummary | None, candidate: MeasuredCandidate) -> list[int]:
    """Return the seeds that a candidate was retrained with."""
    retrained = summary.candidates if summary else ()
    return [seed for c in retrained if c.trial.number == candidate.trial.number for seed in c.scores]


def parse(words: Sequence[str]) -> SelectSettings:
    """Return the settings of a command line; SystemExit(2) or ConfigError, one line, where it is wrong."""
    options = vars(parser().parse_args(words))
    others = {name: value for name, value in options.items() if name not in LIMITS}
    return SelectSettings(**others, limits=given_limits(options))


def parser() -> OneLineParser:
    """Build the parser."""
    about = (
        "Show the best candidate of a study within limits, the confidence in it, and the candidates that are not "
        "significantly worse; where none is within the limits, show the nearest one."
    )
    built = parser_of(SelectSettings, "select", about, _EXAMPLES)
    add_limit_flags(built, "A candidate with an unknown value is not within the limit.")
    return built


if __name__ == "__main__":
    raise SystemExit(main())
