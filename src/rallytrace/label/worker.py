"""A thread for long work: one thing after the other, politely, until the server ends."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from rallytrace.errors import RallytraceError
from rallytrace.label.book import NotFound


class Stopped(Exception):
    """The work was cancelled, or the server ends."""


class Worker:
    """Calls `do` with each number that is `put`, and `failed` with the number and the reason where that raises."""

    def __init__(self, name: str, do: Callable[[int], None], failed: Callable[[int, str], object]) -> None:
        self._do, self._failed = do, failed
        self._queue: queue.Queue[int | None] = queue.Queue()
        self._closed = threading.Event()
        self.put = self._queue.put
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """To be called by the work now and then. Raises Stopped where the server ends."""
        if self._closed.is_set():
            raise Stopped

    def _work(self) -> None:
        be_polite()
        for number in iter(self._queue.get, None):
            try:
                self.check()
                self._do(number)
            except (Stopped, NotFound):
                continue
            except Exception as error:
                reason = str(error) if isinstance(error, RallytraceError) else f"it ended: {error!r}"[:300]
                with suppress(RallytraceError):  # the book is out of reach: the next start sees it unfinished
                    self._failed(number, reason[:1000].replace("\0", ""))

    def close(self) -> None:
        """Ends the work in hand."""
        self._closed.set()
        self.put(None)
        self._thread.join(60.0)


def be_polite(by: int = 10) -> None:
    """The calling thread, and those that it starts, yield to others. Where the system has no such thing: nothing."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + by)
