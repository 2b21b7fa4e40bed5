"""Rows of a study that a person has altered: a command works, or says in one line which row is wrong."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.select.__main__ import main as select
from nas.storage.errors import StoreError
from nas.storage.location import STUDY_FILE
from nas.storage.store import Store, read_study
from nas.study.records import TrialRecord, TrialState
from reports.__main__ import main as report
from tests.nas.analysis.builders import new_store, remeasured_for_retraining, retrained, small_study
from tests.nas.study.builders import record

TABLES = ("study_user_attributes", "trial_user_attributes")
KEYS = ("info", "record", "remeasurement:", "retraining:", "scale:")  # of our rows, or their beginning


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a study that was retrained and measured again."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with new_store(run, small_study()) as store:
        store.save_remeasurement(remeasured_for_retraining({0: 1.0, 2: 2.0}, {3: "no memory"}))
        for retraining in retrained(2, {1: 0.5, 2: 0.6}):
            store.save_retraining(retraining)
        store.save_scale(scaled())
    return (run / STUDY_FILE).read_bytes()


def scaled() -> TrialRecord:
    return replace(record(1, (), 3.0), number=-1, scale="timm:resnet18", state=TrialState.MEASURED)


def alter(run: Path, whole: bytes, table: str, row: int, value: Any) -> None:
    """Write the study with one row replaced, by text where the value is text."""
    run.mkdir(exist_ok=True)
    (run / STUDY_FILE).write_bytes(whole)
    with closing(sqlite3.connect(run / STUDY_FILE)) as database, database:
        database.execute(f"UPDATE {table} SET value_json = ? WHERE rowid = ?", (value, row))


def rows_of(run: Path, whole: bytes) -> list[tuple[str, int, str, Any, bool]]:
    """Return table, number, name, content of our rows, and whether the content was text in JSON."""
    run.mkdir(exist_ok=True)
    (run / STUDY_FILE).write_bytes(whole)
    rows = []
    with closing(sqlite3.connect(run / STUDY_FILE)) as database:
        for table in TABLES:
            for number, key, text in database.execute(f"SELECT rowid, key, value_json FROM {table}"):
                if key.startswith(KEYS):
                    content = json.loads(text)
                    inner = isinstance(content, str)
                    rows.append((table, number, key, json.loads(content) if inner else content, inner))
    return rows


def run_commands(run: Path, capsys: pytest.CaptureFixture[str], commands: list[Any]) -> list[str]:
    """Return the error line of each command, "" where it ended well."""
    lines = []
    for command in commands:
        capsys.readouterr()
        code, errors = command(), capsys.readouterr().err
        assert code in (0, 1, 2)
        assert errors.count("\n") == (code == 2), errors
        assert code != 2 or errors.startswith("error: ")
        lines.append(errors)
    return lines


@pytest.mark.parametrize(
    ("key", "place", "value", "said"),
    [
        ("info", (), None, "info: format None"),
        ("info", ("rung_steps",), [10, "x"], "info: rung_steps: 'x': must be a whole number"),
        ("info", ("config", "budget"), "many", "info: config: budget: 'many': must be a valid integer"),
        ("info", ("config", "specs"), {"w": {}}, "info: config: specs: w: spec: field 'stages' is missing"),
        ("record", ("spec", "stages"), 5, "record of trial 0: spec: stages: 5; need a list"),
        ("record", (), None, "record of trial 0: None: must be an object"),
        ("record", ("rungs", 0, "score"), "high", "record of trial 0: rungs: score: 'high': must be a number"),
        ("record", ("measurement", "ratio"), None, "record of trial 0: measurement: ratio: None: must be a number"),
        ("record", ("state",), "asleep", "record of trial 0: state: 'asleep' is not a valid TrialState"),
        ("record", ("number",), 3, "record of trial 0: number: 3: is another one"),
        ("record", ("measurement", "ratio"), 10**400, "record of trial 0: measurement: ratio: 1000.*must be a number"),
        ("remeasurement:", ("measurements", "0", "notes"), "x", "remeasurement:.*: measurements: notes: 'x': must be"),
        ("retraining:", ("seed",), "one", "retraining:90:2:1: seed: 'one': must be a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_row(
    whole: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    place: tuple[str | int, ...],
    value: Any,
    said: str,
) -> None:
    table, number, _, content, inner = next(r for r in rows_of(tmp_path / "run", whole) if r[2].startswith(key))
    changed = json.dumps(replaced(content, place, value))
    alter(tmp_path / "run", whole, table, number, json.dumps(changed) if inner else changed)
    (line,) = run_commands(tmp_path / "run", capsys, [lambda: select([str(tmp_path / "run")])])
    assert line.startswith(f"error: {tmp_path / 'run' / STUDY_FILE}: ")
    assert re.search(said, line), line


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, None, b"\x00\xff"], ids=["empty", "open", "deep", "null", "bytes"]
)
def test_a_row_that_is_no_json_is_one_line(
    whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: Any
) -> None:
    table, number, *_ = next(r for r in rows_of(tmp_path / "run", whole) if r[2] == "record")
    alter(tmp_path / "run", whole, table, number, text)
    (line,) = run_commands(tmp_path / "run", capsys, [lambda: select([str(tmp_path / "run")])])
    assert line


@pytest.mark.parametrize("arch_id", ["../../elsewhere/a", "/tmp/a"])
def test_a_study_whose_files_would_lie_elsewhere_is_only_read(whole: bytes, tmp_path: Path, arch_id: str) -> None:
    """A search or a training would write and delete files by such a name."""
    run = tmp_path / "run"
    table, number, _, content, _ = next(r for r in rows_of(run, whole) if r[2] == "record")
    alter(run, whole, table, number, json.dumps({**content, "arch_id": arch_id}))
    assert read_study(run).trials[0].arch_id == arch_id
    with Store.open(run) as store:
        for read in (store.trials, store.new_trials):
            with pytest.raises(StoreError, match=r"record of trial 0: arch_id: '.*': must be a name"):
                read()


def replaced(content: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """Return JSON content with another value at a place."""
    if not place:
        return value
    first, *rest = place
    if isinstance(content, list):
        return [replaced(item, tuple(rest), value) if i == first else item for i, item in enumerate(content)]
    return {**content, first: replaced(content[first], tuple(rest), value)}


def places(content: Any) -> list[tuple[str | int, ...]]:
    """Return the place of every value in JSON content."""
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [(), *((key, *place) for key, child in children for place in places(child))]


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 0, ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def check_altered(whole: bytes, run: Path, capsys: Any, data: st.DataObject, commands: list[Any]) -> None:
    table, number, _, content, inner = data.draw(st.sampled_from(rows_of(run, whole)))
    changed = json.dumps(replaced(content, data.draw(st.sampled_from(places(content))), data.draw(JUNK)))
    alter(run, whole, table, number, json.dumps(changed) if inner else changed)
    run_commands(run, capsys, commands)


FIXTURES = [HealthCheck.function_scoped_fixture]  # the folder is written anew by each example


@settings(max_examples=25, deadline=None, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_any_altered_value_is_used_or_refused_in_one_line(
    whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    run = tmp_path / "run"
    check_altered(whole, run, capsys, data, [lambda: select([str(run), "--max-latency-ms", "5"])])


@pytest.mark.slow
@pytest.mark.exhaustive
@settings(max_examples=50, deadline=None, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_any_altered_value_is_reported_or_refused_in_one_line(
    whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    run = tmp_path / "run"
    commands = [lambda: select([str(run), "--json"]), lambda: report([str(run), "--csv", f"{tmp_path}/t.csv"])]
    check_altered(whole, run, capsys, data, commands)
