"""Where a study lies, what is written at once, whose trials are whose: SQLite and a real PostgreSQL."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from sqlalchemy import event, text
from sqlalchemy.pool import Pool

from experiments.benchmarks.postgres import PASSWORD, Server
from nas.samplers import make_sampler
from nas.search.live_report import LiveReport
from nas.storage import errors
from nas.storage import liveness as presence
from nas.storage import location as place
from nas.storage.database import Database
from nas.storage.store import Store, StoreError, read_study
from nas.study.config import SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import FORMAT, TrialState
from search_space import SPACES
from tests.nas.storage.postgres import running_server
from tests.nas.study.builders import OBJECTIVES, search_config, study_info
from tests.nas.study.test_loop import drive, new_store, work


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("postgres").url if request.param == "postgresql" else None


def create(folder: Path, database: str | None, **settings: object) -> Store:
    config = search_config(**{"baselines": (), "sampler": "random", **settings})
    return Store.create(folder, study_info(config), sampler_of(config), database)


def reopen(folder: Path) -> Store:
    return Store.open(folder, sampler_of(SearchConfig.from_dict(Store.open(folder).info.config)))


def sampler_of(config: SearchConfig) -> object:
    return make_sampler(config, SPACES[config.space], OBJECTIVES)


def belongs_to(store: Store, number: int, driver: str) -> None:
    with store.exclusive():
        store._database.put(store._id(number), "driver", driver)


@pytest.mark.parametrize("sampler", ["evolution", "nsga2", "tpe"])
def test_a_study_in_postgresql_is_the_same_as_in_a_file(tmp_path: Path, postgres: Server, sampler: str) -> None:
    for name, database in ((f"file-{sampler}", None), (f"server-{sampler}", postgres.url)):
        drive(StudyLoop(create(tmp_path / name, database, budget=30, sampler=sampler)))
    file, server = (
        [replace(t, finished_s=None) for t in read_study(tmp_path / f"{name}-{sampler}").trials]
        for name in ("file", "server")
    )
    assert file == server


def test_several_studies_live_in_one_database(tmp_path: Path, postgres: Server) -> None:
    for name, budget in (("one", 3), ("two", 2)):
        drive(StudyLoop(create(tmp_path / name, postgres.url, budget=budget)))
    assert [len(read_study(tmp_path / name).trials) for name in ("one", "two")] == [3, 2]
    with pytest.raises(StoreError, match=r"already holds a study 'one'"):
        create(tmp_path / "elsewhere" / "one", postgres.url)


def test_what_a_kill_left_of_a_beginning_is_no_study(tmp_path: Path, database: str | None) -> None:
    """The folder's note, or the tables of the file, and nothing in them yet."""
    beginning = place.StudyLocation.new(tmp_path / "begun", database)
    beginning.write()
    Database(beginning)
    drive(StudyLoop(create(tmp_path / "begun", database, budget=1)))
    assert len(read_study(tmp_path / "begun").trials) == 1
    with pytest.raises(StoreError, match=r"already holds a study.* --resume"):
        create(tmp_path / "begun", database)
    with pytest.raises(StoreError, match=r"already holds a study.* --resume"):
        create(tmp_path / "begun", None if database else "postgresql://u@h/n")


def test_the_password_is_in_no_file_and_no_message(tmp_path: Path, postgres: Server) -> None:
    secret = postgres.url.replace("nas@", f"nas:{PASSWORD}@")
    drive(StudyLoop(create(tmp_path / "secret", secret, budget=1)))
    written = (tmp_path / "secret" / "study.json").read_text()
    assert json.loads(written) == {"database": postgres.url, "study": "secret"}
    assert PASSWORD not in postgres.dump()
    wrong = postgres.url.replace("nas@", "nas:hunter2@")
    with pytest.raises(StoreError, match="password authentication failed") as failure:
        Store.find_room(tmp_path / "new", wrong)
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("postgres://u:s3cret@h:1/n", "postgresql://u@h:1/n"),
        ("postgresql://u:s3cret@h/n?sslmode=require", "postgresql://u@h/n?sslmode=require"),
        ("postgresql+psycopg://u@h/n?password=s3cret", "postgresql://u@h/n"),
    ],
)
def test_a_database_is_named_without_passwords(given: str, clean: str) -> None:
    assert place.without_password(given) == clean


@pytest.mark.parametrize(
    "url", ["mysql://u:s3cret@h/n", "postgresql://u:s3cret@h", "s3cret", "postgresql://u:s3cret@h:x/n"]
)
def test_other_urls_are_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError, match="must be like postgresql://USER@HOST:PORT/NAME") as failure:
        Store.find_room(tmp_path, url)
    assert "s3cret" not in str(failure.value)


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'backbone-nas\[postgres\]'"):
        Store.find_room(tmp_path, "postgresql://u@h/n")


def test_a_study_is_looked_for_where_its_folder_says(tmp_path: Path, postgres: Server) -> None:
    create(tmp_path / "there", postgres.url)
    other = postgres.url.replace("/nas", "/other")
    with pytest.raises(StoreError, match=r"the study lies in .*/nas, not in .*/other"):
        Store.open(tmp_path / "there", database=other)
    (tmp_path / "there" / "study.json").write_text('{"database": "postgresql://')
    with pytest.raises(StoreError, match="does not say where the study is"):
        Store.open(tmp_path / "there")


def test_what_fails_in_the_middle_is_not_written_at_all(tmp_path: Path, database: str | None) -> None:
    store = create(tmp_path / "middle", database)
    choices = SPACES["micro"].choices()

    def fail() -> None:
        with store.exclusive():
            store.ask(choices)
            store.ask(choices)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert reopen(tmp_path / "middle")._study.get_trials() == []
    number, params = store.ask(choices)
    assert number == 0
    (trial,) = store._study.get_trials()  # Optuna's cache had two of them
    assert trial.params == params


def test_changes_are_told_once_and_running_trials_when_asked_for(tmp_path: Path, database: str | None) -> None:
    mine, other = create(tmp_path / "told", database, budget=3), reopen(tmp_path / "told")
    loop = StudyLoop(other)
    record = loop.next_trial()
    assert record is not None
    assert [(t.number, t.state) for t, _ in mine.changes()] == [(0, TrialState.RUNNING)]
    assert mine.changes() == []
    work(loop, record)
    assert mine.changes() == []
    assert [t for t, _ in mine.changes(running=[0])] == [loop.trials[0]]


def test_a_trial_that_was_taken_over_is_not_written_by_who_had_it(tmp_path: Path, database: str | None) -> None:
    loop = StudyLoop(store := create(tmp_path / "fenced", database, budget=1))
    record = loop.next_trial()
    assert record is not None
    belongs_to(store, record.number, "elsewhere:1:aa")
    assert not loop.report(replace(record, state=TrialState.FAILED, reason="late"))
    assert loop.running == 0
    assert [t.state for t in store.trials()] == [TrialState.RUNNING]


def test_a_record_that_was_stored_before_the_answer_was_lost_is_stored_once(
    tmp_path: Path, database: str | None
) -> None:
    loop = StudyLoop(store := create(tmp_path / "answer", database, budget=1))
    drive(loop)
    assert store.save(loop.trials[0])
    assert not store.save(replace(loop.trials[0], reason="another"))
    assert store.trials() == (loop.trials[0],)


def test_a_driver_whose_lock_is_missing_is_dead_after_a_while(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GRACE_S", 1.5)
    loop = StudyLoop(store := create(tmp_path / "while", postgres.url, budget=1))
    record = loop.next_trial()
    assert record is not None
    belongs_to(store, record.number, "elsewhere:1:aa")
    other = StudyLoop(reopen(tmp_path / "while"))
    assert other.next_trial() is None, "it may be on its way back"
    while (again := other.next_trial()) is None:
        assert not other.finished
    assert again.number == record.number


def test_a_driver_whose_process_is_gone_from_this_machine_is_dead_at_once(tmp_path: Path, database: str | None) -> None:
    over = subprocess.Popen(["true"])
    over.wait()
    loop = StudyLoop(store := create(tmp_path / "gone", database, budget=1))
    record = loop.next_trial()
    assert record is not None
    belongs_to(store, record.number, f"{socket.gethostname()}:{over.pid}:aa")
    assert StudyLoop(reopen(tmp_path / "gone")).next_trial() == record


def test_drivers_of_two_machines_on_one_file_are_refused(tmp_path: Path) -> None:
    create(tmp_path, None)
    (tmp_path / "drivers").mkdir()
    with FileLock(tmp_path / "drivers" / "elsewhere:1:aa"), pytest.raises(StoreError, match="elsewhere works on this"):
        StudyLoop(reopen(tmp_path))
    drive(StudyLoop(reopen(tmp_path)), stop_after=1)


def test_a_database_that_stays_away_ends_the_session_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "PATIENCE_S", 1.0)
    with running_server() as server:
        loop = StudyLoop(store := create(tmp_path / "away", server.url, budget=3))
        record, said = loop.next_trial(), list[str]()
        assert record is not None
        store.notify = said.append
        server.kill()
        with pytest.raises(StoreError, match=r"was away for 1 s .*; go on with --resume .*away") as failure:
            loop.report(replace(record, state=TrialState.FAILED, reason="x"))
        assert "\n" not in str(failure.value)
        assert len(said) == 1
        server.start()
        second = StudyLoop(reopen(tmp_path / "away"))
        drive(second)
        assert second.trials[record.number].state is not TrialState.FAILED
        assert second.evaluated == 3


def test_an_outage_in_the_middle_of_a_transaction_is_one_also_where_optuna_tries_another_query(
    tmp_path: Path, postgres: Server
) -> None:
    store = create(tmp_path / "cut", postgres.url, budget=3)
    drive(StudyLoop(store), stop_after=1)
    store = reopen(tmp_path / "cut")

    cut: list[int] = []

    def cutting(connection, cursor, statement, parameters, context, executemany) -> None:
        """Ends the connection between the study's query and that for its trials."""
        if "FROM trials" in statement and not cut:
            cut.append(connection.connection.dbapi_connection.info.backend_pid)
            with store._database.engine.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": cut[0]})

    def cut_and_read() -> None:
        with store.exclusive():
            event.listen(store._database.engine, "before_cursor_execute", cutting)
            store._study.get_trials()

    with pytest.raises(errors.DatabaseUnavailable):
        cut_and_read()
    assert cut
    assert store.trials(), "what comes next has a connection of its own"


@pytest.mark.parametrize("written", [1, FORMAT + 1, None])
def test_a_study_of_another_format_is_refused(written: int | None, tmp_path: Path) -> None:
    store = create(tmp_path, None)
    store._study.set_user_attr("info", {**store.info.to_dict(), "format": written, "unheard": 1})
    with pytest.raises(StoreError, match=f"format {written}"):
        read_study(tmp_path)


def test_a_second_command_raises_the_budget_of_a_driver_at_work(tmp_path: Path) -> None:
    loop = StudyLoop(create(tmp_path, None, budget=2))
    drive(loop, stop_after=1)
    reopen(tmp_path).update_info(lambda info: replace(info, config={**info.config, "budget": 5}))
    drive(loop)
    assert loop.evaluated == 5


def test_new_store_is_a_file_by_default(tmp_path: Path) -> None:
    new_store(tmp_path, search_config())
    assert (tmp_path / "study.db").is_file()
    assert not (tmp_path / "study.json").exists()


@pytest.fixture
def connections() -> Iterator[list[int]]:
    """The number of connections to databases that are open, as the one item of a list."""
    count = [0]

    def opened(*_: object) -> None:
        count[0] += 1

    def closed(*_: object) -> None:
        count[0] -= 1

    events = {"connect": opened, "close": closed, "close_detached": closed}
    for name, heard in events.items():
        event.listen(Pool, name, heard)
    yield count
    for name, heard in events.items():
        event.remove(Pool, name, heard)


def test_no_connection_stays_open(tmp_path: Path, database: str | None, connections: list[int]) -> None:
    folder = tmp_path / "connections"
    with create(folder, database) as store:
        store.register_driver()
        assert connections[0] > 0
    assert connections == [0]
    read_study(folder)
    with pytest.raises(StoreError):
        Store.find_room(folder, database)
    with pytest.raises(StoreError):
        create(folder, database)
    assert connections == [0]


@pytest.mark.parametrize("content", [b"", b"no database"])
def test_no_connection_stays_open_to_what_is_no_study(tmp_path: Path, content: bytes, connections: list[int]) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(StoreError):
        read_study(tmp_path)
    assert connections == [0]


def test_a_report_while_the_search_runs_leaves_no_connection_open(tmp_path: Path, connections: list[int]) -> None:
    with create(tmp_path / "run", None) as store:
        loop = StudyLoop(store)
        record = loop.next_trial()
        assert record is not None
        times = iter(range(0, 10_000, 1000))
        live = LiveReport(tmp_path / "run", lambda loop, record: None, lambda line: None, lambda: next(times))
        before = connections[0]
        for _ in range(3):
            live(loop, replace(record, state=TrialState.COMPLETE))
        assert connections[0] == before
