"""The store of a study on SQLite and a real PostgreSQL: its location, transactions, and the drivers of trials."""

from __future__ import annotations

import _thread
import json
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import NullPool, Pool

from experiments.benchmarks.postgres import PASSWORD, Server
from nas.storage import errors, location
from nas.storage.database import Database
from nas.storage.errors import StoreError
from nas.storage.locks import only_command
from nas.storage.store import Store, read_study
from nas.study.loop import StudyLoop
from nas.study.records import FORMAT, Remeasurement, Retraining, TrialState
from search_space import SPACES
from tests.nas.storage.postgres import running_server
from tests.nas.study.builders import measurement, rung, search_config
from tests.nas.study.searches import BrokenSampler, drive, new_store, reopen, started
from tests.waiting import until


def create(folder: Path, database: str | None, **settings: object) -> Store:
    return new_store(folder, search_config(**{"baselines": (), "sampler": "random", **settings}), database)


@pytest.mark.parametrize(
    "sampler", ["evolution", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nsga2", "tpe"))]
)
def test_a_study_is_the_same_in_every_database(tmp_path: Path, postgres: Server, sampler: str) -> None:
    databases = {"file": None, "server": postgres.url, "named": f"sqlite:///{tmp_path}/all.db"}
    for name, database in databases.items():
        drive(StudyLoop(create(tmp_path / f"{name}-{sampler}", database, budget=20, sampler=sampler)))
    file, server, named = (
        [replace(t, started_s=None, finished_s=None) for t in read_study(tmp_path / f"{name}-{sampler}").trials]
        for name in databases
    )
    assert file == server == named


def test_no_password_of_mysql_is_taken(tmp_path: Path) -> None:
    for url in ("mysql+pymysql://u:s3cret@h/n", "mariadb+pymysql://u@h/n?passwd=s3cret"):
        with pytest.raises(StoreError, match="option file") as refusal:
            Store.check_free(tmp_path, url)
        assert "s3cret" not in str(refusal.value)


def test_several_studies_live_in_one_database(tmp_path: Path, postgres: Server) -> None:
    for name, budget in (("one", 3), ("two", 2)):
        drive(StudyLoop(create(tmp_path / name, postgres.url, budget=budget)))
    assert [len(read_study(tmp_path / name).trials) for name in ("one", "two")] == [3, 2]
    with pytest.raises(StoreError, match=r"already holds a study 'one'; .* choose a --run") as refusal:
        create(tmp_path / "elsewhere" / "one", postgres.url)
    assert "--resume" not in str(refusal.value), "that folder has nothing to resume"


def test_the_remains_of_a_killed_creation_are_no_study(tmp_path: Path, database: str | None) -> None:
    """The folder's file that names the database, or the empty tables."""
    beginning = location.StudyLocation.new(tmp_path / "begun", database)
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
        Store.check_free(tmp_path / "new", wrong)
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("postgres://u:s3cret@h:1/n", "postgresql://u@h:1/n"),
        ("postgresql://u:s3cret@h/n?sslmode=require", "postgresql://u@h/n?sslmode=require"),
        ("postgresql+psycopg://u@h/n?password=s3cret", "postgresql://u@h/n"),
        ("postgresql://u@h/n?PASSWORD=s3cret&SSLpassword=s3cret", "postgresql://u@h/n"),
        ("mysql+pymysql://u@h/n?charset=utf8mb4", "mysql+pymysql://u@h/n?charset=utf8mb4"),
    ],
)
def test_a_database_is_named_without_passwords(url: str, public: str) -> None:
    assert location.without_password(url) == public


@pytest.mark.parametrize(
    "url",
    [
        "mssql://u:s3cret@h/n",
        "s3cret",
        "postgresql://u:s3cret@h:x/n",
        "postgresql://u:A@s3cret@h/n",
        "postgresql://u%3As3cret@h/n",
        "postgresql://u:A@B/s3cret@h/n",
    ],
)
def test_other_urls_are_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError, match="must be like postgresql://USER@HOST:PORT/NAME") as failure:
        Store.check_free(tmp_path, url)
    assert "s3cret" not in str(failure.value)


def test_a_study_is_opened_from_the_database_that_its_folder_names(tmp_path: Path, postgres: Server) -> None:
    create(tmp_path / "there", postgres.url)
    other = postgres.url.replace("/nas", "/other")
    with pytest.raises(StoreError, match=r"--storage: .*/nas, not in .*/other"):
        Store.open(tmp_path / "there", database=other)
    (tmp_path / "there" / "study.json").write_text('{"database": "postgresql://')
    with pytest.raises(StoreError, match=r"study\.json"):
        Store.open(tmp_path / "there")


def test_a_failed_transaction_writes_nothing(tmp_path: Path, database: str | None) -> None:
    store = create(tmp_path / "middle", database)
    choices = SPACES["micro"].choices()

    def fail() -> None:
        with store.transaction():
            store.ask(choices)
            store.ask(choices)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert reopen(tmp_path / "middle")._study.get_trials() == []
    number, params, _ = store.ask(choices)
    assert number == 0
    (trial,) = store._study.get_trials()  # Optuna's cache had two of them
    assert trial.params == params


def test_limits_are_constraints_of_optuna(tmp_path: Path, database: str | None) -> None:
    """An infeasible trial is one for Optuna and its dashboard too, whoever opens the study."""
    config = search_config(budget=3, limits={"max_params": 100.0, "max_latency_ms": 2.0}, baselines=("eradio_pico",))
    with new_store(tmp_path / "run", config, database) as store:
        loop = StudyLoop(store)
        expected = {}
        for params, latency_ms in ((50, 1.0), (50, 1.0), (150, None), (50, 3.0), (100, 2.0), (80, 0.5)):
            trial = replace(started(loop), params=params, macs=1)
            if latency_ms is not None:
                trial = replace(trial, measurement=replace(measurement(1.0), latency_ms=latency_ms))
            within = trial.baseline or (params <= 100 and latency_ms is not None and latency_ms <= 2)
            if not within:
                loop.report(replace(trial, state=TrialState.INFEASIBLE, reason="limit"))
            else:
                for index in range(len(loop.info.rung_steps)):
                    last = index == len(loop.info.rung_steps) - 1
                    state = TrialState.COMPLETE if last else TrialState.RUNNING
                    trial = replace(trial, rungs=(*trial.rungs, rung(index, 0.1 * params)), state=state)
                    if not loop.report(trial):
                        break
            expected[trial.number] = {"max_params": params / 100 - 1}  # of baselines too: GPSampler needs equally many
            if latency_ms is not None:
                expected[trial.number]["max_latency_ms"] = latency_ms / 2 - 1
        study = optuna.load_study(study_name=store._study.study_name, storage=store._study._storage)
        trials, best = study.trials, study.best_trials
    assert {t.number: t.constraints for t in trials} == expected
    infeasible = {t.number for t in trials if any(value > 0 for value in t.constraints.values())}
    assert len(infeasible) == 2
    assert infeasible == {t.number for t in trials if t.user_attrs["record"]["state"] == "infeasible"}
    assert best
    assert not infeasible & {t.number for t in best}


def test_a_record_that_was_stored_before_the_answer_was_lost_is_stored_once(
    tmp_path: Path, database: str | None
) -> None:
    loop = StudyLoop(store := create(tmp_path / "answer", database, budget=1))
    drive(loop)
    store.save(loop.trials[0])
    assert store.trials() == (loop.trials[0],)


def test_a_machine_that_disappears_is_noticed_within_half_a_minute(tmp_path: Path, postgres: Server) -> None:
    """That of the database by its drivers, and that of a driver by the database."""
    with create(tmp_path / "lost", postgres.url) as store, store._database.engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        with socket.socket(fileno=os.dup(raw.fileno())) as client:
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            idle_s, interval_s, count = (client.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names)
            unanswered_ms = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert 0 < idle_s + interval_s * count <= 30
        assert 0 < unanswered_ms <= 30_000
        assert connection.execute(text("SHOW tcp_user_timeout")).scalar() == "25000"


def test_a_database_that_stays_unavailable_ends_the_session_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "PATIENCE_S", 1.0)
    with running_server() as server:
        loop = StudyLoop(store := create(tmp_path / "away", server.url, budget=3))
        record, notices = started(loop), list[str]()
        store.notify = notices.append
        server.kill()
        with pytest.raises(StoreError, match=r"unavailable for 1 s .*; continue with --resume .*away") as failure:
            loop.report(replace(record, state=TrialState.FAILED, reason="x"))
        assert "\n" not in str(failure.value)
        assert len(notices) == 1
        server.start()
        second = StudyLoop(reopen(tmp_path / "away"))
        drive(second)
        assert second.trials[record.number].state is not TrialState.FAILED
        assert second.evaluated == 3


@pytest.mark.slow
def test_a_server_that_takes_no_writes_is_one_that_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover the connection may lead to a standby; a new one leads to the server that takes writes."""
    monkeypatch.setattr(errors, "PATIENCE_S", 1.0)

    def let_write(url: str, setting: str) -> None:
        engine = create_engine(
            url.replace("postgresql:", "postgresql+psycopg:"),
            connect_args={"options": "-c default_transaction_read_only=off"},
        )
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
            admin.execute(text(f"ALTER SYSTEM SET default_transaction_read_only = {setting}"))
            admin.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        # The server reloads after the answer. It has told every session when it lets in a new one by the new setting.
        until(lambda: fresh_setting(url) == setting)

    def fresh_setting(url: str) -> str:
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
        with engine.connect() as connection:
            return str(connection.execute(text("SHOW default_transaction_read_only")).scalar_one())

    with running_server() as server:
        loop = StudyLoop(store := create(tmp_path / "standby", server.url, budget=3))
        record = started(loop)
        let_write(server.url, "on")
        with pytest.raises(StoreError, match=r"unavailable for 1 s .*read-only transaction"):
            loop.report(replace(record, state=TrialState.FAILED, reason="x"))
        let_write(server.url, "off")
        assert store.trials()
        drive(again := StudyLoop(reopen(tmp_path / "standby")))
        assert again.evaluated == 3


def test_a_restart_of_the_database_ends_no_command_that_saves_results(tmp_path: Path) -> None:
    """A retraining is saved hours after the last call: its connection is then one to a server that is gone."""
    training = Retraining(number=0, seed=1, steps=10, created="", device="cpu", rungs=(rung(0, 0.5),))
    measured = Remeasurement(name="later", created="", command="", environment={}, setting={})
    with running_server() as server:
        store = create(tmp_path / "restarted", server.url, budget=1)
        store.notify = (notices := list[str]()).append
        drive(StudyLoop(store))
        for save in (lambda: store.save_retraining(training), lambda: store.save_remeasurement(measured)):
            server.kill()
            server.start()
            save()
        store.patient = False
        server.kill()
        server.start()
        assert store.retry_while_unavailable(lambda: store.info), "an interrupted search that stores its end"
        _, retrainings, remeasurements = store.read_all()
    assert (retrainings, remeasurements) == ((training,), (measured,))
    assert any("available again" in line for line in notices)


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
        with store.transaction():
            event.listen(store._database.engine, "before_cursor_execute", cutting)
            store._study.get_trials()

    with pytest.raises(errors.DatabaseUnavailable):
        cut_and_read()
    assert cut
    assert store.trials(), "the next call has a new connection"


@pytest.mark.parametrize("written", [1, FORMAT + 1, None])
def test_a_study_of_another_format_is_refused(written: int | None, tmp_path: Path) -> None:
    store = create(tmp_path, None)
    store._study.set_user_attr("info", {**store.info.to_dict(), "format": written, "unheard": 1})
    with pytest.raises(StoreError, match=f"format {written}"):
        read_study(tmp_path)


@pytest.fixture
def connections() -> Iterator[set[int]]:
    """The ids of the connections to databases that were opened in the test and are open.

    Connections of earlier tests do not count: the garbage collector may close one at any moment.
    """
    kept: dict[int, object] = {}  # keeps the connections alive, so that no id is used twice

    def opened(connection: object, *_: object) -> None:
        kept[id(connection)] = connection
        ids.add(id(connection))

    def closed(connection: object, *_: object) -> None:
        ids.discard(id(connection))

    ids: set[int] = set()
    events = {"connect": opened, "close": closed, "close_detached": closed}
    for name, heard in events.items():
        event.listen(Pool, name, heard)
    yield ids
    for name, heard in events.items():
        event.remove(Pool, name, heard)


def test_no_connection_stays_open(tmp_path: Path, database: str | None, connections: set[int]) -> None:
    folder = tmp_path / "connections"
    with create(folder, database) as store:
        assert store.info
        assert connections
    assert not connections
    read_study(folder)
    with pytest.raises(StoreError):
        Store.check_free(folder, database)
    with pytest.raises(StoreError):
        create(folder, database)
    assert not connections


def test_ctrl_c_within_a_statement_leaves_no_lock_while_its_traceback_lives(tmp_path: Path) -> None:
    store = new_store(tmp_path, search_config())
    event.listen(
        store._database.engine, "checkout", lambda raw, *_: raw.create_function("interrupt", 0, _thread.interrupt_main)
    )
    held = None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests by "&"
    try:
        with store.transaction():
            store._database.rows(text("SELECT interrupt()"), {})
    except KeyboardInterrupt as interrupt:
        held = interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    assert held is not None
    with closing(sqlite3.connect(tmp_path / "study.db", timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.rollback()
    assert store.ask({"x": (1, 2)}, {"x": 2}).params == {"x": 2}


def test_an_error_of_a_sampler_is_called_one_and_leaves_no_trial(tmp_path: Path) -> None:
    create(tmp_path, None).close()
    with Store.open(tmp_path, BrokenSampler()) as store:
        with pytest.raises(errors.SamplerError, match=r"^the sampler BrokenSampler failed: ValueError: no idea$"):
            StudyLoop(store).next_trial()
        assert store.trials() == ()
        assert store.info.name


def test_a_lock_that_is_a_link_is_refused_and_empties_no_file(tmp_path: Path) -> None:
    with create(tmp_path / "run", None) as store:
        (tmp_path / "mine").write_text("mine")
        (tmp_path / "run" / "study.lock").unlink()
        for name in ("study.lock", ".search.lock"):
            (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
        with pytest.raises(StoreError):
            store.update_info(lambda info: info)
        with pytest.raises(StoreError), only_command(tmp_path / "run" / ".search.lock", "busy"):
            pytest.fail("it has a lock that is a link")
    assert (tmp_path / "mine").read_text() == "mine"
