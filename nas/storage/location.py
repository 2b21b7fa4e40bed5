"""Where a study lies: a SQLite file in its run folder, or a PostgreSQL database that the folder names.

The folder never holds a password: libpq takes it from ~/.pgpass or PGPASSWORD, or a command is given it in its URL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from nas.files import atomic_write
from nas.storage.errors import StoreError

STUDY_FILE = "study.db"
PLACE_FILE = "study.json"
_SECRETS = ("password", "sslpassword")
_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


@dataclass(frozen=True)
class StudyLocation:
    """The study `study` in the database `url`, or without one the only study in `run_dir`/study.db."""

    run_dir: Path
    url: URL | None = None
    study: str = ""

    @classmethod
    def of(cls, run_dir: Path, database: str | None = None) -> StudyLocation:
        """Where the study of `run_dir` lies; `database` is where a caller believes it does, with a password.

        Raises:
            StoreError: there is no study, or it lies elsewhere.
        """
        if not run_dir.is_dir():
            raise StoreError(f"no such run folder: {str(run_dir)!r}")
        given = None if database is None else database_url(database)
        if not (run_dir / PLACE_FILE).is_file():
            if not (run_dir / STUDY_FILE).is_file():
                raise StoreError(f"{str(run_dir)!r} holds no study ({STUDY_FILE} is missing)")
            if given is not None:
                raise StoreError(f"--database: the study lies in {run_dir / STUDY_FILE}, not in {public(given)}")
            return cls(run_dir)
        try:
            written = json.loads((run_dir / PLACE_FILE).read_text())
            url, study = database_url(written["database"]), str(written["study"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{run_dir / PLACE_FILE} does not say where the study is: {error}") from error
        if given is not None and public(given) != public(url):
            raise StoreError(f"--database: the study lies in {public(url)}, not in {public(given)}")
        return cls(run_dir, url if given is None else given, study)

    @classmethod
    def new(cls, run_dir: Path, database: str | None = None) -> StudyLocation:
        """Where a new study of `run_dir` is to lie; StoreError where the folder says that one lies elsewhere."""
        place = cls(run_dir) if database is None else cls(run_dir, database_url(database), run_dir.resolve().name)
        written = run_dir / PLACE_FILE
        elsewhere = written.exists() and written.read_text() != place.note
        if elsewhere or (place.url is not None and (run_dir / STUDY_FILE).exists()):
            raise StoreError(f"{run_dir} already holds a study; {place.ways_out}")
        return place

    @property
    def ways_out(self) -> str:
        """What to do where there is a study already."""
        return f"go on with --resume {self.run_dir}, or choose another --run"

    @property
    def note(self) -> str:
        """What the folder says where the study is not in it."""
        return json.dumps({"database": public(self.url), "study": self.study}, indent=2) + "\n" if self.url else ""

    def write(self) -> None:
        """Makes the folder, with its note."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if self.note:
            atomic_write(self.run_dir / PLACE_FILE, self.note, sync=True)

    def __str__(self) -> str:
        return str(self.run_dir / STUDY_FILE) if self.url is None else public(self.url)


def holds_study(run_dir: Path) -> bool:
    """Whether a study was begun in this folder."""
    return any((run_dir / name).exists() for name in (STUDY_FILE, PLACE_FILE))


def database_url(text: str) -> URL:
    """The URL, password included; StoreError where it is none of a PostgreSQL database, or its driver is missing."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in _SCHEMES or not url.database:
        raise StoreError("--database: must be like postgresql://USER@HOST:PORT/NAME")  # no echo: it may hold a password
    if find_spec("psycopg") is None:
        raise StoreError("--database: the package psycopg is missing; pip install 'backbone-nas[postgres]'")
    return url.set(drivername="postgresql+psycopg")


def password_of(text: str) -> str | None:
    """What a database URL should not tell."""
    url = database_url(text)
    return str(url.password or url.query.get("password") or "") or None


def public(url: URL) -> str:
    """The URL without its secrets."""
    bare = url.set(drivername="postgresql")._replace(password=None).difference_update_query(_SECRETS)
    return bare.render_as_string(hide_password=False)


def without_password(text: str) -> str:
    """Return the URL of a database without its secrets; StoreError as `database_url`."""
    return public(database_url(text))
