"""The sources of a batch as what a tracker can read, and read again."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rallytrace import storage, video
from rallytrace.errors import InputError, VideoError
from rallytrace.files import output_errors

WEB = ("http://", "https://")
BLOCK = 1 << 20
LOOK_S = 0.2  # how often a silent pipe's reader asks whether it is to stop
HIDDEN = ("memory",)  # of this process alone


@contextmanager
def local(source: str, *, live: bool = False, stop: threading.Event | None = None) -> Iterator[Path | str]:
    """A video of a store, and what comes through a pipe, as a file for the block; FFmpeg opens http(s):// and live
    sources itself, with `live` pipes too. Errors name `source`. Raises what the opening raises, KeyboardInterrupt where
    `stop` is set meanwhile."""
    _check_scheme(source)
    if storage.is_url(source) and not source.lower().startswith(WEB):
        opened = storage.fetched(source)
    elif video.is_pipe(source) and not live:
        opened = _from_pipe(source, stop)
    else:
        yield source
        return
    with storage.naming_urls(), opened as path:
        yield storage.remember(path, _typed(source))


def _typed(source: str) -> str:
    return "standard input" if source == video.PIPE else source


def _check_scheme(source: str) -> None:
    scheme, found, _ = source.partition("://")
    known = sorted({"file", *video.SCHEMES, *storage.SCHEMES} - set(HIDDEN))
    if found and scheme.lower() not in (*known, *HIDDEN) and not os.path.exists(source):
        schemes = ", ".join(f"{each}://" for each in known)
        raise VideoError(f"{source}: unknown scheme {scheme}://, expected a path, {schemes}, camera:0 or -")


@contextmanager
def _from_pipe(source: str, stop: threading.Event | None) -> Iterator[Path]:
    number = 0 if source == video.PIPE else os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if os.isatty(number):
            raise InputError("standard input is a terminal, expected a video: pipe one in, or name a file")
        with TemporaryDirectory(prefix="rallytrace-") as folder:
            path = Path(folder) / "pipe"
            with output_errors(path), open(path, "wb") as file:
                for piece in _pieces(number, stop):
                    file.write(piece)
            if not path.stat().st_size:
                raise VideoError(f"{_typed(source)} came to its end without a byte, expected a video")
            yield path
    finally:
        if number:
            os.close(number)


def _pieces(number: int, stop: threading.Event | None) -> Iterator[bytes]:
    """What an open pipe gives until its writer ends; a FIFO is waited for until somebody writes."""
    poll = select.poll()
    poll.register(number, select.POLLIN)
    while True:
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        events = poll.poll(LOOK_S * 1000)
        if not events:
            continue
        piece = os.read(number, BLOCK)
        if not piece:
            return
        yield piece
