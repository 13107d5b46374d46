"""Copies of a label book, whole and of one moment, while others read and write it."""

from __future__ import annotations

import os
import shlex
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from rallytrace.errors import InputError, MissingDependency, OutputError
from rallytrace.files import AtomicFile, make_folder, output_errors

SUFFIXES = {"sqlite": ".sqlite", "postgresql": ".dump"}


def back_up(url: URL, to: Path) -> Path:
    """Copies the book at `url` into the file `to`, which only its owner can read; gives `to`.

    Raises InputError where there is no book or the file is there already, OutputError where it cannot be written,
    MissingDependency for PostgreSQL without pg_dump.
    """
    if to.exists():
        raise InputError(f"{to} exists: choose another --out, a backup replaces nothing")
    make_folder(to.parent)
    copy = AtomicFile(to, "wb")
    with copy, output_errors(to):
        os.chmod(copy.partial, 0o600)  # before anything is in it
        if url.get_backend_name() == "sqlite":
            _copy_sqlite(Path(url.database or ""), copy.partial)
        else:
            _dump_postgresql(url, copy.partial)
    return to


def new_place(url: URL, folder: Path, why: str = "") -> Path:
    """A name in `folder` that no backup has yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    suffix = SUFFIXES[url.get_backend_name()]
    names = [f"book-{why}{stamp}{suffix}", *(f"book-{why}{stamp}-{n}{suffix}" for n in range(2, 100))]
    return next(folder / name for name in names if not (folder / name).exists())


def _copy_sqlite(book: Path, to: Path) -> None:
    if not book.is_file():
        raise InputError(f"{book} does not exist: expected a label book")
    try:
        with closing(sqlite3.connect(book, timeout=30)) as source, closing(sqlite3.connect(to)) as target:
            source.backup(target)  # in one transaction: those who write meanwhile come later
            target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
            (said,) = target.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise OutputError(f"cannot copy {book}: {error}; check the disk") from error
    if said != "ok":
        raise OutputError(f"the copy of {book} is not whole: {said}; check the disk")
    with open(to, "rb") as file:
        os.fsync(file.fileno())


def _dump_postgresql(url: URL, to: Path) -> None:
    """With PostgreSQL's own tool; the password goes through the environment, where no list of processes shows it."""
    shown = url.set(drivername="postgresql")._replace(password=None).render_as_string()
    command = ["pg_dump", "--format=custom", "--no-password", f"--file={to}", f"--dbname={shown}"]
    secret = {"PGPASSWORD": str(url.password)} if url.password else {}
    try:
        done = subprocess.run(command, env=os.environ | secret, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        advice = shlex.join(["pg_dump", "--format=custom", "--file=book.dump", f"--dbname={shown}"])
        raise MissingDependency(
            f"a label book in PostgreSQL is copied by its pg_dump, which is not installed here: "
            f"install postgresql-client, or run where it is: {advice}"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise OutputError(f"pg_dump could not copy {shown}: {reason}")
