"""The location of a study: a SQLite file in its run folder, or another database that the folder names.

The folder never holds a password: libpq reads it from ~/.pgpass or PGPASSWORD, or a command gets it in a URL. Drivers
of MySQL read it from an option file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from nas.extras import install_command
from nas.files import atomic_write, parse_json
from nas.redaction import public_word
from nas.run_folder import LOGS
from nas.storage.errors import StoreError

STUDY_FILE = "study.db"
LOCATION_FILE = "study.json"
_BACKENDS = ("postgresql", "mysql", "mariadb", "sqlite")  # those of Optuna
_OPTION_FILE = "?read_default_file=FILE"


@dataclass(frozen=True)
class StudyLocation:
    """The location of a study.

    Attributes:
        run_dir: Run folder.
        url: Database; None for the SQLite file in the run folder.
        study: Name of the study in the database of the URL.
    """

    run_dir: Path
    url: URL | None = None
    study: str = ""

    @classmethod
    def of(cls, run_dir: Path, database: str | None = None) -> StudyLocation:
        """Return the location of the study of a run folder.

        Args:
            run_dir: Run folder.
            database: URL of the study's database, which may have a password; None for the one that the folder names.

        Raises:
            StoreError: There is no study, or it is not in `database`.
        """
        if not run_dir.is_dir():
            raise StoreError(f"no such run folder: {str(run_dir)!r}")
        requested = None if database is None else database_url(database)
        if not (run_dir / LOCATION_FILE).is_file():
            if not (run_dir / STUDY_FILE).is_file():
                raise StoreError(_missing(run_dir))
            if requested is not None:
                raise StoreError(f"--storage: the study is in {run_dir / STUDY_FILE}, not in {_redacted(requested)}")
            return cls(run_dir)
        try:
            stored = parse_json((run_dir / LOCATION_FILE).read_bytes())
            url, study = database_url(stored["database"]), str(stored["study"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{run_dir / LOCATION_FILE} does not name the study's database: {error}") from error
        if requested is not None and _redacted(requested) != _redacted(url):
            raise StoreError(f"--storage: the study is in {_redacted(url)}, not in {_redacted(requested)}")
        return cls(run_dir, url if requested is None else requested, study)

    @classmethod
    def new(cls, run_dir: Path, database: str | None = None) -> StudyLocation:
        """Return the location for a new study of a run folder; StoreError if the folder has another study."""
        location = cls(run_dir) if database is None else cls(run_dir, database_url(database), run_dir.resolve().name)
        stored = run_dir / LOCATION_FILE
        elsewhere = stored.exists() and stored.read_text() != location.file_content
        if elsewhere or (location.url is not None and (run_dir / STUDY_FILE).exists()):
            raise StoreError(f"{run_dir} already holds a study; {location.advice}")
        return location

    @property
    def file(self) -> Path | None:
        """Return the SQLite file; None for the database of a server."""
        if self.url is None:
            return self.run_dir.resolve() / STUDY_FILE
        return Path(str(self.url.database)) if self.url.get_backend_name() == "sqlite" else None

    @property
    def advice(self) -> str:
        """Return advice for a user whose new study would be a second one."""
        return f"continue it with --resume {self.run_dir}, or choose another --run"

    @property
    def file_content(self) -> str:
        """Return the text of the folder's file that names the database; empty for a SQLite study."""
        return json.dumps({"database": _redacted(self.url), "study": self.study}, indent=2) + "\n" if self.url else ""

    def write(self) -> None:
        """Create the run folder, with the file that names the database."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if self.file_content:
            atomic_write(self.run_dir / LOCATION_FILE, self.file_content, sync=True)

    def __str__(self) -> str:
        return str(self.run_dir / STUDY_FILE) if self.url is None else _redacted(self.url)


def holds_study(run_dir: Path) -> bool:
    """Return whether the folder has a study."""
    return any((run_dir / name).exists() for name in (STUDY_FILE, LOCATION_FILE))


def _missing(run_dir: Path) -> str:
    """Say why a folder has no study: its search has not got that far, or it is none of a search."""
    if (run_dir / LOGS / "search.log").is_file():
        advice = "if it has ended, type its command again: there is nothing to resume"
        return f"the search in {run_dir} has no finished trial yet; {advice}"
    runs = sorted(file.parent.name for name in (STUDY_FILE, LOCATION_FILE) for file in run_dir.glob(f"*/{name}"))
    hint = f"; it has run folders, such as {str(run_dir / runs[-1])!r}" if runs else "; name the run folder of a search"
    return f"{str(run_dir)!r} holds no study ({STUDY_FILE} is missing){hint}"


def database_url(text: str) -> URL:
    """Parse the URL of a database, password included; StoreError if it is invalid or its driver is missing."""
    url = _parsed(text)
    try:
        url.get_dialect().import_dbapi()
    except ImportError as error:
        advice = install_command("postgres") if error.name == "psycopg" else "install it, or name another driver"
        raise StoreError(f"--storage: the package {error.name} is missing; {advice}") from error
    return url


def _parsed(text: str) -> URL:
    try:
        url = make_url(text.replace("postgres://", "postgresql://", 1))
        url.get_dialect()
    except (ArgumentError, ValueError):
        url = None
    backend = "" if url is None else url.get_backend_name()
    # No message quotes the text. A second @ would leave the end of a password in the host or in the user.
    ambiguous = url is not None and (text.count("@") > 1 or ":" in (url.username or "") or text.split() != [text])
    if url is None or ambiguous or backend not in _BACKENDS or not url.database:
        advice = "; in a user or a password, write @ as %40 and : as %3A" if "@" in text else ""
        raise StoreError(f"--storage: must be like postgresql://USER@HOST:PORT/NAME or sqlite:///FILE{advice}")
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return url.set(database=str(Path(url.database).resolve()))
    if url.password or {"password", "passwd"} & set(url.query):
        raise StoreError(f"--storage: the password of a MySQL user belongs in an option file: {_OPTION_FILE}")
    return url


def password_of(text: str) -> str | None:
    """Return the password in the URL of a database, None without one; StoreError if the URL is invalid."""
    url = _parsed(text)
    return str(url.password or url.query.get("password") or "") or None


def _redacted(url: URL) -> str:
    """Format a URL without its secrets."""
    name = url.drivername.removesuffix("+psycopg")
    return public_word(url.set(drivername=name).render_as_string(hide_password=False))


def without_password(text: str) -> str:
    """Return the URL of a database without its secrets; StoreError if it is invalid."""
    return _redacted(_parsed(text))
