"""Who serves or migrates a label book has it to themselves: a lock that ends with the process, however that ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from rallytrace.errors import InputError, MissingDependency
from rallytrace.files import output_errors

SERVER_KEY = 7_255_948  # of PostgreSQL's advisory locks, which each database has of its own; any fixed number


class Hold:
    """What is held of a book, until `close`."""

    def __init__(self, handles: list[int], session: Connection | None) -> None:
        self._handles = handles
        self._session = session

    def close(self) -> None:
        """Another may hold the book from now on."""
        while self._handles:
            os.close(self._handles.pop())
        if self._session is not None:
            self._session.close()
        self._session = None


def hold(url: URL, folder: Path | None = None) -> Hold:
    """Holds the book at `url`, and the project in `folder`. Raises InputError where another process does."""
    paths = set() if folder is None else {folder.resolve() / ".lock"}
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        paths.add(_lock_of(Path(url.database or "").resolve()))
    taken = Hold([], None)
    try:
        for path in sorted(paths):
            taken = Hold([*taken._handles, *_locked_file(path)], None)
        if url.get_backend_name() == "postgresql":
            taken = Hold(taken._handles, _locked_session(url))
    except BaseException:
        taken.close()
        raise
    return taken


def _lock_of(book: Path) -> Path:
    """Beside the book; that of a project's own book is the project's."""
    return book.with_name(".lock" if book.name == "book.sqlite" else f".{book.name}.lock")


def _locked_file(path: Path) -> list[int]:
    """Where the system has no such lock: nothing."""
    try:
        import fcntl
    except ImportError:
        return []
    with output_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise InputError(f"{path.parent} is open in another rallytrace label: use that one, or end it") from None
    return [handle]


def _locked_session(url: URL) -> Connection:
    """A session of its own: PostgreSQL gives its lock up where it ends."""
    shown = url.render_as_string(hide_password=True)
    engine = postgresql_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        session = engine.connect()
        taken = bool(session.scalar(text(f"SELECT pg_try_advisory_lock({SERVER_KEY})")))
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise InputError(f"cannot open the label book {shown}: {reason}; check the server") from error
    if not taken:
        session.close()
        raise InputError(
            f"the label book {shown} is open in another rallytrace label, maybe on another machine: "
            "use that one, or end it"
        )
    return session


def postgresql_engine(url: URL, **options: Any) -> Engine:
    """Raises MissingDependency without psycopg."""
    try:
        return create_engine(url, **options)
    except ImportError as error:
        raise MissingDependency(
            f"PostgreSQL needs psycopg ({error}); install it with: {Path(sys.executable).name} -m pip install "
            "'rallytrace[postgresql]'"
        ) from error
