"""Copies of run folders, of studies in a file and in a real PostgreSQL."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nas.copy.__main__ import main
from nas.search.config_file import FILE_NAME, config_text, read_options
from nas.select.__main__ import main as select
from nas.storage.store import Store, read_study
from nas.study.loop import StudyLoop
from nas.study.records import TrialState
from tests.nas.analysis.builders import remeasured, retrained
from tests.nas.study.builders import search_config
from tests.nas.study.searches import drive, new_store, reopen, started

CONFIG = search_config(budget=6, baselines=("eradio_pico",), limits={"max_params": 1e9})


@pytest.fixture
def run(tmp_path: Path, database: str | None) -> Path:
    """A search that is interrupted in the middle, with a running trial, a retraining and a remeasurement."""
    folder = tmp_path / f"{'file' if database is None else 'server'}-{os.getpid()}-{tmp_path.name}"
    with new_store(folder, CONFIG, database) as store:
        loop = StudyLoop(store)
        drive(loop, stop_after=4)
        started(loop)
        store.save_remeasurement(remeasured({1: 2.0}))
        store.save_retraining(retrained(1, {1: 0.5})[0])
    run_table = {"workers": 3} | ({} if database is None else {"storage": database})
    (folder / FILE_NAME).write_text(config_text(CONFIG.to_dict(), run_table))
    (folder / "weights").mkdir()
    (folder / "weights" / "a.safetensors").write_bytes(b"weights")
    (folder / "weights" / "b.safetensors.1-a.tmp").write_bytes(b"half")
    return folder


def test_a_copy_is_the_same_study_and_needs_no_database(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(run, read_only=True) as store:
        all_records = store.read_all()
        trials = store._study.get_trials()
    assert main([str(run), "--out", str(tmp_path / "to" / "copy")]) == 0
    out = tmp_path / "to" / "copy"
    assert "with 5 trials" in capsys.readouterr().out
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with Store.open(out, read_only=True) as store:
        assert store.read_all() == all_records
        copied = store._study.get_trials()
    fields = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "constraints")
    fields += ("datetime_start", "datetime_complete", "intermediate_values")
    for name in fields:
        assert [getattr(trial, name) for trial in copied] == [getattr(trial, name) for trial in trials], name
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "config.toml", "study.db", "weights/a.safetensors",
    ]  # fmt: skip
    options = read_options(out / FILE_NAME)
    assert "storage" not in options
    assert options["workers"] == 3
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["copy"]
    assert select([str(out)]) == 0


def test_a_copy_is_searched_on_by_itself(run: Path, tmp_path: Path) -> None:
    """Its running trial has no living driver, and the next proposal follows from the same trials."""
    out = tmp_path / "copy"
    assert main([str(run), "--out", str(out)]) == 0
    for folder in (run, out):
        with reopen(folder) as store:
            drive(StudyLoop(store))
    ends = [[(t.number, t.state, t.arch_id, t.final_score) for t in read_study(each).trials] for each in (run, out)]
    assert ends[0] == ends[1]
    assert {state for _, state, _, _ in ends[0]} <= {TrialState.COMPLETE, TrialState.STOPPED, TrialState.DUPLICATE}


def test_a_study_with_a_living_driver_is_not_copied(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with reopen(run) as store:
        assert StudyLoop(store).next_trial() is not None
        assert main([str(run), "--out", str(tmp_path / "copy")]) == 2
    assert f"error: process {os.getpid()} on " in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not (tmp_path / "copy").exists()
    assert main([str(run), "--out", str(tmp_path / "copy")]) == 0


def test_a_folder_in_which_a_command_works_is_not_copied(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run / "retraining.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([str(run), "--out", str(tmp_path / "copy")]) == 2
    assert "another command works in" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_a_study_that_changes_meanwhile_leaves_no_copy(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = Store.content

    def changed_before(store: Store) -> str:
        if store._location.run_dir == run:
            with Store.open(run) as other:
                other.save_remeasurement(remeasured({1: 3.0}, name="later"))
        return content(store)

    monkeypatch.setattr(Store, "content", changed_before)
    assert main([str(run), "--out", str(tmp_path / "copy")]) == 2
    assert "the study has changed meanwhile" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


@pytest.mark.parametrize(
    ("out", "message"),
    [("RUN/copy", "is in the run folder itself"), ("full", "has files"), ("full/file", "is a file")],
)
def test_a_wrong_place_is_refused(out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with new_store(tmp_path / "RUN", CONFIG):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    try:
        code: object = main([str(tmp_path / "RUN"), "--out", str(tmp_path / out)])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


def test_a_study_with_a_state_that_no_trial_can_have_is_not_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_store(tmp_path / "run", CONFIG) as store:
        drive(StudyLoop(store), stop_after=1)
    with closing(sqlite3.connect(tmp_path / "run" / "study.db")) as database, database:
        database.execute("UPDATE trials SET state = 'LOST'")
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "copy")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_links_are_followed_once(tmp_path: Path) -> None:
    """Weights may lie on another disk; a link to a folder that contains it has no end."""
    with new_store(tmp_path / "run", CONFIG):
        pass
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "run" / "weights").symlink_to(tmp_path / "disk")
    (tmp_path / "run" / "again").symlink_to(tmp_path / "run")
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "copy")]) == 0
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["study.db", "weights"]
    assert not (tmp_path / "copy" / "weights").is_symlink()
    assert (tmp_path / "copy" / "weights" / "a.safetensors").read_bytes() == b"weights"
