"""The label book: one SQLite file (WAL) by default, PostgreSQL by URL; its schema, transactions and videos.

What the book acknowledged survives a killed process: SQLite writes with synchronous=FULL, a write is one transaction.
Writers of SQLite queue up (BEGIN IMMEDIATE); in PostgreSQL they lock the task that they change.
"""

from __future__ import annotations

import os
import stat
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from numpy.typing import NDArray
from sqlalchemy import Column, Connection, Engine, Select, create_engine, event, insert, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError

from rallytrace.errors import InputError, MissingDependency, OutputError
from rallytrace.label import schema
from rallytrace.label.backup import back_up, new_place
from rallytrace.label.holds import hold, postgresql_engine

MIGRATIONS = Path(__file__).parent / "migrations"
MAX_ROWS = 1000  # of any list
BUSY_MS = 30_000
PATIENCE_MS = 20  # for what can as well be written later
VIDEO_STATES = ("importing", "ready", "failed", "missing")

Row = TypeVar("Row")


class _Numbered(Protocol):
    @property
    def id(self) -> int: ...


Listed = TypeVar("Listed", bound=_Numbered)


class BookError(InputError):
    """A request that the book refuses; `code` says why to programs, the message to people."""

    code = "invalid"


class NotFound(BookError):
    """There is no such thing, or it is not for this user to see."""

    code = "not_found"


class NotAllowed(BookError):
    """The user's role does not allow it."""

    code = "forbidden"


class WrongState(BookError):
    """It cannot be done now: a task is claimed by another, submitted, approved."""

    code = "wrong_state"


def bounded_text(value: object, what: str, limit: int, *, lines: bool = False, empty: bool = False) -> str:
    """`value`, stripped, where it is a text of at most `limit` characters that any database and page can hold.

    Refused are control characters (except tabs and line ends, with `lines`), invisible marks that reorder what a
    reader sees, and lone surrogates. Raises BookError.
    """
    if not isinstance(value, str):
        raise BookError(f"{what} must be a text, got {type(value).__name__}")
    value = unicodedata.normalize("NFC", value).strip()
    if not (empty or value) or len(value) > limit:
        raise BookError(f"{what} has {len(value)} characters, expected {'up to' if empty else '1 to'} {limit}")
    allowed = "\n\r\t" if lines else ""
    # Cf joins emoji and scripts (U+200C, U+200D); the others of it turn the reading order or are invisible.
    bad = next(
        (c for c in value if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in allowed + "\u200c\u200d"), None
    )
    if bad is not None:
        raise BookError(f"{what} holds the character U+{ord(bad):04X}, expected readable text")
    return value


@dataclass(frozen=True, slots=True)
class Video:
    """A video of the project. `wh` is the upright size; sizes are None and 0 until it is imported."""

    id: int
    name: str
    path: str
    state: str  # importing, ready, failed, missing
    error: str
    progress: float  # of the import, 0 to 1
    sha256: str | None
    w: int | None
    h: int | None
    n_frames: int | None
    rate: str | None  # "30000/1001"


def as_row(kind: type[Row], row: Mapping[Any, Any]) -> Row:
    """The dataclass `kind` from the columns of `row` that carry the names of its fields."""
    return kind(**{field.name: row[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def every(page: Callable[[int], Sequence[Listed]]) -> Iterator[Listed]:
    """All rows of a list that comes in pages: `page(after)` gives those whose ids are greater."""
    after = 0
    while rows := page(after):
        yield from rows
        after = rows[-1].id


class LabelBook:
    """An open book; safe to share between threads. Another process opens its own. Made by `open_book`."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._writer = engine.execution_options(rallytrace_write=True)
        self._if_free = engine.execution_options(rallytrace_write=True, rallytrace_if_free=True)
        self.clock = clock

    def __repr__(self) -> str:
        return f"LabelBook({self.url!r})"

    @property
    def url(self) -> str:
        """Where the book is, without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def __enter__(self) -> LabelBook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives all connections back."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises OutputError where the database cannot be reached."""
        with _reachable(self.url), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed when the block ends well. Raises OutputError as `read`, or for a full disk."""
        with _reachable(self.url), self._writer.begin() as connection:
            yield connection

    def write_if_free(self, do: Callable[[Connection], object]) -> bool:
        """Calls `do` in a transaction, unless the book is locked by another or cannot be written now: then False.

        For what reading notes on its way, and must never wait or fail for.
        """
        try:
            with self._if_free.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {PATIENCE_MS}")
                do(connection)
        except (OperationalError, InterfaceError):
            return False
        return True

    def rows(self, kind: type[Row], query: Select[Any]) -> list[Row]:
        """All that `query` finds, as `kind`."""
        with self.read() as connection:
            return [as_row(kind, row) for row in connection.execute(query).mappings()]

    def row(self, kind: type[Row], query: Select[Any], what: str) -> Row:
        """The one that `query` finds. Raises NotFound, which names `what`."""
        found = self.rows(kind, query)
        if not found:
            raise NotFound(f"there is no {what}")
        return found[0]

    def page(self, kind: type[Row], query: Select[Any], key: Column[int], after: int, limit: int) -> list[Row]:
        """By `key`, those after `after`; at most MAX_ROWS."""
        return self.rows(kind, query.where(key > after).order_by(key).limit(max(1, min(limit, MAX_ROWS))))

    def add_video(self, name: str, path: Path | str) -> Video:
        """The video at `path` (or any URL), state importing; the one that is there where the path is known."""
        name = bounded_text(name, "the name of the video", 200)
        path = str(path)
        if len(path) > 4000 or "\0" in path or any(0xD800 <= ord(c) < 0xE000 for c in path):
            raise BookError(f"{path[:80]!r} cannot be kept: expected a path in UTF-8 of up to 4000 characters")
        values = {"name": name, "path": path, "state": "importing", "error": "", "progress": 0.0}
        known = select(schema.video.c.id).where(schema.video.c.path == path)
        try:
            with self.write() as connection:
                found = connection.scalar(known)
                if found is None:
                    found = inserted(connection, schema.video, values)
        except IntegrityError:  # another process added it in between
            with self.read() as connection:
                found = connection.execute(known).scalar_one()
        return self.video(found)

    def set_video_progress(self, video_id: int, progress: float) -> None:
        """How much of the import is done, 0 to 1."""
        self._update_video(video_id, {"progress": min(1.0, max(0.0, progress))})

    def set_video_ready(
        self, video_id: int, *, sha256: str, wh: tuple[int, int], rate: Fraction, pts_s: Sequence[float]
    ) -> Video:
        """The import is complete: `pts_s[i]` is the presentation time of frame i, in seconds."""
        pts = np.ascontiguousarray(pts_s, dtype="<f8")
        if pts.ndim != 1 or len(pts) < 1 or min(wh) < 1 or not np.isfinite(pts).all():
            raise BookError(f"video {video_id}: {pts.shape} times and size {wh}, expected at least one picture")
        values = {"sha256": sha256, "w": wh[0], "h": wh[1], "n_frames": len(pts), "rate": str(rate)}
        done = {"state": "ready", "error": "", "progress": 1.0, "pts": zlib.compress(pts.tobytes(), 6)}
        return self._update_video(video_id, values | done)

    def set_video_state(self, video_id: int, state: str, error: str = "") -> Video:
        """One of importing, ready, failed, missing, with the reason for the last two."""
        if state not in VIDEO_STATES:
            raise BookError(f"the state of a video is one of {', '.join(VIDEO_STATES)}, got {state!r}")
        return self._update_video(video_id, {"state": state, "error": error[:1000].replace("\0", "")})

    def note_video_state(self, found: Video, state: str, error: str = "") -> Video:
        """As `set_video_state`, for what reading notices: given, but not kept, where nothing can be written."""
        changed = replace(found, state=state, error=error[:1000].replace("\0", ""))
        values = {"state": state, "error": changed.error}
        change = update(schema.video).where(schema.video.c.id == found.id).values(values)
        self.write_if_free(lambda connection: connection.execute(change))
        return changed

    def _update_video(self, video_id: int, values: dict[str, Any]) -> Video:
        with self.write() as connection:
            connection.execute(update(schema.video).where(schema.video.c.id == video_id).values(values))
        return self.video(video_id)

    def video(self, video_id: int) -> Video:
        """Raises NotFound."""
        return self.row(Video, _VIDEOS.where(schema.video.c.id == video_id), f"video {video_id}")

    def videos(self, after: int = 0, limit: int = MAX_ROWS) -> list[Video]:
        """By id, those after `after`."""
        return self.page(Video, _VIDEOS, schema.video.c.id, after, limit)

    def frame_times(self, video_id: int) -> NDArray[np.float64]:
        """(n_frames,) presentation times in seconds; empty before the import is complete. Raises NotFound."""
        with self.read() as connection:
            row = connection.execute(select(schema.video.c.pts).where(schema.video.c.id == video_id)).first()
        if row is None:
            raise NotFound(f"there is no video {video_id}")
        return np.frombuffer(zlib.decompress(row.pts) if row.pts else b"", dtype="<f8").astype(np.float64)


_VIDEOS = select(*(schema.video.c[field.name] for field in fields(Video)))


def inserted(connection: Connection, table: Any, values: dict[str, Any]) -> int:
    """The id of the new row."""
    return int(connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one())


@contextmanager
def _reachable(url: str) -> Iterator[None]:
    try:
        yield
    except (DataError, OverflowError) as error:  # an id of 30 digits, a NUL in a text
        raise NotFound("a number or text in the request is none that the label book could hold") from error
    except (OperationalError, InterfaceError) as error:
        reason = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
        raise OutputError(f"the label book {url} does not answer: {reason}; check the disk or the server") from error


def open_book(
    where: str | Path,
    *,
    clock: Callable[[], float] = time.time,
    migrate: bool = True,
    held: bool = False,
    backups: Path | None = None,
    on_note: Callable[[str], object] = lambda _: None,
) -> LabelBook:
    """The book in the SQLite file `where`, or at the URL of a PostgreSQL database.

    It is made where it is missing, and brought to this program's schema, unless `migrate` is false: then both are
    errors. Before a migration a backup goes into the folder `backups` (beside an SQLite book by default), and nobody
    may serve the book meanwhile; `held` says that the caller has made sure of that. on_note: told what was done, one
    line each. `clock` gives seconds since the epoch (for tests). Raises InputError for what is no book, cannot be
    reached, is served by another, or was written by a newer rallytrace, and MissingDependency for PostgreSQL without
    psycopg.
    """
    url = book_url(where)
    shown = url.render_as_string(hide_password=True)
    made = _own_file(url, make=migrate)
    book = LabelBook(_engine(url), clock)
    try:
        _bring_up_to_date(book, url, migrate, held, backups, on_note)
    except DBAPIError as error:
        _give_up(book, made)
        reason = str(error.orig).strip().splitlines()[0]
        raise InputError(f"cannot open the label book {shown}: {reason}; check the path or the server") from error
    except BaseException:
        _give_up(book, made)
        raise
    return book


def _own_file(url: URL, *, make: bool) -> Path | None:
    """An SQLite book holds hashes of passwords: only its owner reads it. Gives the file if it was made here."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    path = Path(url.database or "")
    if not path.exists():
        if not make:
            raise InputError(f"{path} does not exist: expected a label book")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise InputError(f"cannot make the label book {path}: {error.strerror}; check the folder") from None
        return path
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(OSError):  # another's: they decide
            if each.is_file() and stat.S_IMODE(each.stat().st_mode) & 0o077:
                each.chmod(0o600)
    return None


def _give_up(book: LabelBook, made: Path | None) -> None:
    book.close()
    if made is not None and made.stat().st_size == 0:
        made.unlink(missing_ok=True)


def book_url(where: str | Path) -> URL:
    """Of an SQLite file, or of a database. Raises InputError for what no book can be."""
    if isinstance(where, Path) or "://" not in where:
        path = Path(where)
        if not path.parent.is_dir():
            raise InputError(f"{path}: no folder {path.parent} for the label book, expected one that exists")
        return URL.create("sqlite", database=str(path))
    try:
        url = make_url(where)
    except ArgumentError as error:
        raise InputError("not the URL of a database, expected postgresql://user@host/name") from error
    kind = url.get_backend_name()
    if kind not in ("sqlite", "postgresql", "postgres"):
        raise InputError(f"a label book cannot be kept in {kind!r}, expected a path, sqlite:// or postgresql://")
    return url if kind == "sqlite" else url.set(drivername="postgresql+psycopg")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, pool_size=8, max_overflow=64)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return postgresql_engine(url, pool_size=8, max_overflow=24, pool_pre_ping=True)


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer: it takes its turn at once.
    options = connection.get_execution_options()
    if not options.get("rallytrace_write"):
        connection.exec_driver_sql("BEGIN")
        return
    if not options.get("rallytrace_if_free"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {PATIENCE_MS}")
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MS}")


def _bring_up_to_date(
    book: LabelBook,
    url: URL,
    migrate: bool,
    held: bool,
    backups: Path | None,
    on_note: Callable[[str], object],
) -> None:
    shown = book.url
    with book._engine.begin() as connection:
        present = _revision_of(connection, shown)
    if present == _newest():
        return
    if not migrate:
        if present is None:
            raise InputError(f"{shown} holds no label book, expected one that `rallytrace label` has made")
        raise InputError(
            f"the label book {shown} has schema {present}, this rallytrace needs {_newest()}: "
            "start `rallytrace label` on it once, which makes a backup and brings it up to date"
        )
    alone = hold(url) if present is not None and not held else None
    try:
        with book._writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(7255947)"))  # any fixed number
            present = _revision_of(connection, shown)
            if present not in (None, _newest()):
                on_note(_backed_up(url, present, backups))
            _migrate(connection)
    finally:
        if alone is not None:
            alone.close()


def _backed_up(url: URL, present: str, backups: Path | None) -> str:
    """Copies the book before it changes; says where to. No other writer comes in between."""
    if backups is None and url.get_backend_name() == "sqlite":
        backups = Path(url.database or "").parent / "backups"
    what = f"the label book goes from schema {present} to {_newest()}"
    if backups is None:
        return f"{what}; no backup was made, as no folder for it was named"
    try:
        made = back_up(url, new_place(url, backups, f"before-{_newest()}-"))
    except MissingDependency as error:
        return f"{what}; no backup was made: {error}"
    return f"{what}; as it was, it is in {made}"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def _known() -> tuple[str, ...]:
    return tuple(sorted(step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions()))


def _newest() -> str:
    return _known()[-1]


def _revision_of(connection: Connection, shown: str) -> str | None:
    """The schema of the book, None where there is none yet. Raises InputError for one that is not known here."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in _known():
        raise InputError(
            f"the label book {shown} has schema {current}, this rallytrace knows up to {_newest()}: "
            "a newer rallytrace wrote it, upgrade this one"
        )
    return current


def _migrate(connection: Connection) -> None:
    """Runs the steps that the schema lacks, in the transaction of `connection`."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
