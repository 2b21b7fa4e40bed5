"""Export a study as one flat table for pandas, R and spreadsheets: one row per trial, typed columns, units in names."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.extras import install_command
from nas.study.records import Measurement, RungResult, StudyRecord, TrialRecord
from reports.summary import StudySummary

if TYPE_CHECKING:
    import pandas as pd

    from nas.analysis.evidence import StudyEvidence

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters that make a spreadsheet run a text (OWASP, CSV injection)
# Names of a measurement's columns, where they are not those of its fields; the page's CSV has them, too.
UNITS = {"batch": "batch_images", "requested_batch": "requested_batch_images", "resolution": "resolution_px",
         "seconds": "measuring_s", "ratio": "times_reference", "ratio_low": "times_reference_low",
         "ratio_high": "times_reference_high", "notes": "notes_json", "conditions": "conditions_json"}  # fmt: skip
TEXT, WHOLE, NUMBER, BOOLEAN = "string", "Int64", "float64", "boolean"
# The type of each column of a trial, and how its value is read from the trial and the numbers of the front.
TRIAL_COLUMNS: dict[str, tuple[str, Callable[[TrialRecord, Collection[int]], Any]]] = {
    "number": (WHOLE, lambda t, front: None if t.scale else t.number),
    "name": (TEXT, lambda t, front: t.name),
    "arch_id": (TEXT, lambda t, front: t.arch_id),
    "baseline": (TEXT, lambda t, front: t.baseline),
    "scale": (TEXT, lambda t, front: t.scale),
    "state": (TEXT, lambda t, front: t.state.value),
    "on_front": (BOOLEAN, lambda t, front: t.number in front),
    "reason": (TEXT, lambda t, front: t.reason),
    "failure": (TEXT, lambda t, front: t.failure and t.failure.value),
    "tries": (WHOLE, lambda t, front: t.tries),
    "worker": (TEXT, lambda t, front: t.worker),
    "started_s": (NUMBER, lambda t, front: t.started_s),
    "finished_s": (NUMBER, lambda t, front: t.finished_s),
    "params": (WHOLE, lambda t, front: t.params),
    "macs": (WHOLE, lambda t, front: t.macs),
    "spec_json": (TEXT, lambda t, front: json.dumps(t.spec, sort_keys=True)),
    "score": (NUMBER, lambda t, front: t.rungs[-1].score if t.rungs else None),
    "score_rung": (WHOLE, lambda t, front: t.rungs[-1].rung if t.rungs else None),
    "score_steps": (WHOLE, lambda t, front: t.rungs[-1].steps if t.rungs else None),
}
MEASUREMENT_COLUMNS = {
    f"measurement/{UNITS.get(f.name, f.name)}": {"int": WHOLE, "float": NUMBER}.get(str(f.type).split(" ")[0], TEXT)
    for f in fields(Measurement)
    if f.name != "stages_s"  # each stage has a column
}

EVIDENCE_COLUMNS = {
    "measurement/remeasurement": TEXT,
    "retrained/score": NUMBER,
    "retrained/steps": WHOLE,
    "retrained/scores_by_seed_json": TEXT,
}


class DataFrameError(ValueError):
    """The table cannot be written; the message is for people."""


def trial_frame(study: StudyRecord, summary: StudySummary, evidence: StudyEvidence | None = None) -> pd.DataFrame:
    """Return a table with one row per trial in the order of their numbers; values that a trial lacks are missing.

    The comparison networks come last: they have a name in `scale`, and neither number nor score.
    `score` is the distillation score at the last rung reached (`score_rung`): compare it only between trials of the
    same rung. Columns by teacher and head (`score/hed/spatial`), loss, metric, measurement, stage and what the
    sampler expected (`nas.study.records.Expectation`) have a prefix. Lists and specs are JSON.

    With `evidence`, `measurement/remeasurement` names the remeasurement that the timing is of, where it is not the
    search's, and columns with the prefix `retrained/` have the mean score of the longer trainings and each seed's.
    """
    import pandas as pd  # the page, which shares the names of the columns, needs no pandas

    front = {s.trial.number for s in summary.front}
    trials = (*sorted(study.trials, key=lambda t: t.number), *study.scale)
    rows = [_row(t, front) | (_evidence(t, evidence) if evidence else {}) for t in trials]
    types = {name: dtype for name, (dtype, _) in TRIAL_COLUMNS.items()} | MEASUREMENT_COLUMNS
    if evidence is not None:
        types |= EVIDENCE_COLUMNS
    others = dict.fromkeys(name for row in rows for name in row if name not in types)  # in order of appearance
    types |= {name: WHOLE if name.endswith("/steps") else NUMBER for name in others}
    return pd.DataFrame({name: pd.array([row.get(name) for row in rows], dtype=t) for name, t in types.items()})


def save_csv(frame: pd.DataFrame, file: Path) -> Path:
    """Write the table as CSV (UTF-8, commas, quoted texts) and return the path.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    texts = {name: column.map(_harmless, na_action="ignore") for name, column in frame.select_dtypes("string").items()}
    frame.assign(**texts).to_csv(file, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return file


def save_parquet(frame: pd.DataFrame, file: Path) -> Path:
    """Write the table as Parquet, exact and with types, and return the path.

    Raises:
        DataFrameError: pyarrow is missing.
    """
    try:
        frame.to_parquet(file, engine="pyarrow", index=False)
    except ImportError as error:
        raise DataFrameError(f"--parquet: needs pyarrow: {install_command('parquet')}") from error
    return file


def _row(trial: TrialRecord, front: Collection[int]) -> dict[str, Any]:
    return {
        **{name: value(trial, front) for name, (_, value) in TRIAL_COLUMNS.items()},
        **_scores(trial),
        **(_measurement(trial.measurement) if trial.measurement else {}),
        **({f"expected/{name}": value for name, value in vars(trial.expected).items()} if trial.expected else {}),
    }


def _evidence(trial: TrialRecord, evidence: StudyEvidence) -> dict[str, Any]:
    candidates = evidence.retraining.candidates if evidence.retraining else ()
    again = next((c for c in candidates if c.trial.number == trial.number and c.mean is not None), None)
    retrained = {} if again is None else {
        "retrained/score": again.mean,
        "retrained/steps": again.steps,
        "retrained/scores_by_seed_json": json.dumps(again.scores, sort_keys=True),
    }  # fmt: skip
    return {"measurement/remeasurement": evidence.remeasured.get(trial.number)} | retrained


def _scores(trial: TrialRecord) -> dict[str, Any]:
    if not trial.rungs:
        return {}
    last = trial.rungs[-1]
    row: dict[str, Any] = {}
    for rung in trial.rungs:
        row |= _rung(rung)
    row |= {f"score/{teacher}/{head}": v for teacher, heads in last.teachers.items() for head, v in heads.items()}
    row |= {f"loss/{name}": value for name, value in last.losses.items()}
    return row | {f"metric/{name}": value for name, value in last.metrics.items()}


def _rung(rung: RungResult) -> dict[str, Any]:
    prefix = f"rung{rung.rung}/"
    return {f"{prefix}steps": rung.steps, f"{prefix}score": rung.score, f"{prefix}train_s": rung.seconds}


def _measurement(measurement: Measurement) -> dict[str, Any]:
    plain = {f.name: getattr(measurement, f.name) for f in fields(measurement)}
    stages_s: dict[str, float] = plain.pop("stages_s")
    plain |= {name: json.dumps(plain[name], sort_keys=True) for name in ("notes", "conditions")}
    named = {f"measurement/{UNITS.get(name, name)}": value for name, value in plain.items()}
    return named | {f"stage/{name}_s": seconds for name, seconds in stages_s.items()}


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
