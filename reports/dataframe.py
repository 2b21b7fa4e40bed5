"""Export a study as one flat table for pandas, R and spreadsheets: one row per trial, typed columns, units in names."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Mapping
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
# Names of columns of a measurement or expectation that are not those of its fields; the page's CSV has them, too.
UNITS = {"arm": "runtime", "batch": "batch_images", "requested_batch": "requested_batch_images",
         "resolution": "resolution_px", "seconds": "measuring_s", "ratio": "times_reference",
         "ratio_low": "times_reference_low", "ratio_high": "times_reference_high", "notes": "notes_json",
         "conditions": "conditions_json"}  # fmt: skip
TEXT, WHOLE, NUMBER, BOOLEAN = "string", "Int64", "float64", "boolean"
# Each column of a trial: its type, its meaning, and how its value is read from the trial and the numbers of the front.
TRIAL_COLUMNS: dict[str, tuple[str, str, Callable[[TrialRecord, Collection[int]], Any]]] = {
    "number": (WHOLE, "trial number; none for a comparison network", lambda t, front: None if t.scale else t.number),
    "name": (TEXT, "name of a baseline or comparison network, or `trial N`", lambda t, front: t.name),
    "arch_id": (TEXT, "hash of the architecture; of a network of timm its name", lambda t, front: t.arch_id),
    "baseline": (TEXT, "name of a baseline", lambda t, front: t.baseline),
    "scale": (TEXT, "name of a comparison network, which is measured and not trained", lambda t, front: t.scale),
    "state": (TEXT, "[state of the trial](run_folder.md#trial-states)", lambda t, front: t.state.value),
    "on_front": (BOOLEAN, "whether it is on the Pareto front", lambda t, front: t.number in front),
    "reason": (TEXT, "why it is infeasible, failed or early-stopped", lambda t, front: t.reason),
    "failure": (TEXT, "kind of its last failure", lambda t, front: t.failure and t.failure.value),
    "tries": (WHOLE, "number of runs; a retry after a failure counts", lambda t, front: t.tries),
    "worker": (TEXT, "worker process of the last run, as NODE:PROCESS", lambda t, front: t.worker),
    "started_s": (NUMBER, "start of the last run, in seconds since the study's start", lambda t, front: t.started_s),
    "finished_s": (
        NUMBER,
        "its end on the same clock, which adds up all sessions",
        lambda t, front: t.finished_s,
    ),
    "params": (WHOLE, "number of parameters", lambda t, front: t.params),
    "macs": (WHOLE, "multiply-accumulates for one image of the study's size", lambda t, front: t.macs),
    "spec_json": (TEXT, "the architecture, as JSON", lambda t, front: json.dumps(t.spec, sort_keys=True)),
    "score": (
        NUMBER,
        "distillation score at the last rung reached: compare it only between trials of the same rung",
        lambda t, front: t.rungs[-1].score if t.rungs else None,
    ),
    "score_rung": (WHOLE, "that rung, 0 for the first one", lambda t, front: t.rungs[-1].rung if t.rungs else None),
    "score_steps": (WHOLE, "training steps at that rung", lambda t, front: t.rungs[-1].steps if t.rungs else None),
}
MEASUREMENT_COLUMNS = {
    f"measurement/{UNITS.get(f.name, f.name)}": {"int": WHOLE, "float": NUMBER}.get(str(f.type).split(" ")[0], TEXT)
    for f in fields(Measurement)
    if f.name != "stages_s"  # each stage has a column
}
# Columns whose names depend on the study, with type and meaning; those of `Expectation` have the prefix `expected/`.
NAMED_COLUMNS = {
    "rung0/steps": (WHOLE, "training steps at the first rung; `rung1/`, `rung2/`, ... are the next ones"),
    "rung0/score": (NUMBER, "distillation score at that rung"),
    "rung0/train_score": (NUMBER, "distillation score on at most 128 train images at that rung"),
    "rung0/train_s": (NUMBER, "seconds of the steps since the rung before, with the evaluation"),
    "score/TEACHER/HEAD": (
        NUMBER,
        "explained variance of a teacher's `spatial` or `summary`, at the last rung reached",
    ),
    "loss/TEACHER/HEAD": (NUMBER, "mean training loss over the last third of that rung's steps"),
    "metric/NAME": (NUMBER, "[downstream metric](downstream_metrics.md) at that rung, 0 to 1"),
    "stage/NAME_s": (NUMBER, "seconds of a stage, or of the rest, for a batch in eager mode"),
}
EVIDENCE_COLUMNS = {
    "measurement/remeasurement": (TEXT, "remeasurement that the timing is of; none: the search's"),
    "retrained/score": (NUMBER, "mean score of the longer trainings, over seeds"),
    "retrained/steps": (WHOLE, "steps of each of them"),
    "retrained/scores_by_seed_json": (TEXT, "score of each seed, as JSON"),
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
    types = {name: dtype for name, (dtype, *_) in TRIAL_COLUMNS.items()} | MEASUREMENT_COLUMNS
    if evidence is not None:
        types |= {name: dtype for name, (dtype, _) in EVIDENCE_COLUMNS.items()}
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
        **{name: value(trial, front) for name, (*_, value) in TRIAL_COLUMNS.items()},
        **_scores(trial),
        **(_measurement(trial.measurement) if trial.measurement else {}),
        **(_in_units("expected/", vars(trial.expected)) if trial.expected else {}),
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
    values = {"steps": rung.steps, "score": rung.score, "train_score": rung.train_score, "train_s": rung.seconds}
    return {prefix + name: value for name, value in values.items()}


def _measurement(measurement: Measurement) -> dict[str, Any]:
    plain = {f.name: getattr(measurement, f.name) for f in fields(measurement)}
    stages_s: dict[str, float] = plain.pop("stages_s")
    plain |= {name: json.dumps(plain[name], sort_keys=True) for name in ("notes", "conditions")}
    return _in_units("measurement/", plain) | {f"stage/{name}_s": seconds for name, seconds in stages_s.items()}


def _in_units(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{UNITS.get(name, name)}": value for name, value in values.items()}


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
