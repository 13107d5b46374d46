"""Whole files or none: the one way in which results are written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rallytrace.errors import OutputError

MOST_KEPT = 64  # bytes of a name in that of its unfinished file
_unfinished: set[Path] = set()


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """An OSError of the operating system becomes an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {path}: {reason}; check the folder, its permissions and free space") from error


def partial_path(path: Path) -> Path:
    """A free name beside `path` for what is not finished: hidden, and not too long where `path` is not. `drop_partial`
    is owed."""
    kept = os.fsencode(path.name)[:MOST_KEPT].decode(errors="ignore")
    partial = path.with_name(f".{kept}.{secrets.token_hex(4)}.partial")
    _unfinished.add(partial)
    return partial


def drop_partial(partial: Path) -> None:
    """Remove it, where it is still there."""
    with suppress(OSError):
        partial.unlink(missing_ok=True)
    _unfinished.discard(partial)


def drop_all_partials() -> None:
    """At the end of a program that was interrupted: a signal may come between the making of a file and the block that
    would remove it."""
    for partial in list(_unfinished):
        drop_partial(partial)


class AtomicFile:
    """A file that appears under `path` complete or not at all: written beside it, renamed when the block ends well.

    `partial` is its name until then, another one for each object, so that threads and machines may write one `path`:
    the last to end wins. With `durable` it is on the disk before it has its name, and a crash of the machine leaves the
    old file or the new one; without, for what is easily made again. Raises OutputError.
    """

    def __init__(self, path: Path | str, mode: str = "w", *, durable: bool = True) -> None:
        self.path = Path(path)
        self.partial = partial_path(self.path)
        self._mode = mode
        self._durable = durable

    def __enter__(self) -> IO[Any]:
        encoding, newline = (None, None) if "b" in self._mode else ("utf-8", "")
        with output_errors(self.path):
            self._file = open(self.partial, self._mode, encoding=encoding, newline=newline)
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            with output_errors(self.path) if kind is None else suppress(OSError), self._file:
                if kind is None and self._durable:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            with output_errors(self.path):
                if kind is None:
                    os.replace(self.partial, self.path)
                    if self._durable:
                        _sync_folder(self.path.parent)
        finally:
            drop_partial(self.partial)


def _sync_folder(folder: Path) -> None:
    """Puts the names in `folder` on the disk, where the file system knows how to."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """See `AtomicFile`. Raises OutputError."""
    with AtomicFile(path, durable=durable) as file, output_errors(path):
        file.write(text)


def make_folder(path: Path) -> None:
    """With its parents, where it is missing. Raises OutputError."""
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
