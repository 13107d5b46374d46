"""Whole files or none: the one way in which results are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rallytrace.errors import OutputError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".ts", ".m4v", ".mpg")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """An OSError of the operating system becomes an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {path}: {reason}; check the folder, its permissions and free space") from error


class AtomicFile:
    """A file that appears under `path` complete or not at all: written beside it, renamed when the block ends well.

    `partial` is its name until then. Raises OutputError.
    """

    def __init__(self, path: Path | str, mode: str = "w") -> None:
        self.path = Path(path)
        self._mode = mode
        self.partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")

    def __enter__(self) -> IO[Any]:
        encoding, newline = (None, None) if "b" in self._mode else ("utf-8", "")
        with output_errors(self.path):
            self._file = open(self.partial, self._mode, encoding=encoding, newline=newline)
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            with output_errors(self.path) if kind is None else suppress(OSError):
                self._file.close()
                if kind is None:
                    os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Raises OutputError."""
    with AtomicFile(path) as file, output_errors(path):
        file.write(text)


def make_folder(path: Path) -> None:
    """With its parents, where it is missing. Raises OutputError."""
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
