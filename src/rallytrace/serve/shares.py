"""Who may hold how much of what all callers share, so that one of them cannot take all of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rallytrace.serve.engine import Busy
from rallytrace.serve.security import ANYONE


class Share:
    """So much of one thing, such as bytes in memory. A key may hold half of it; where there are no keys, all callers
    are one and may hold it all.

    what: its name in errors.
    """

    def __init__(self, most: int, what: str, retry_after_s: float = 1.0) -> None:
        self._most = most
        self._what = what
        self._retry_after_s = retry_after_s
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """By all together."""
        return self._held.total()

    def take(self, owner: str, amount: int = 1) -> None:
        """Raises Busy."""
        with self._lock:
            if self.held + amount > self._most:
                raise Busy(f"{self._what}: the server holds as much as it may; try again later", self._retry_after_s)
            if self._held[owner] + amount > most_of(owner, self._most):
                raise Busy(f"{self._what}: this key holds its share; try again later", self._retry_after_s)
            self._held[owner] += amount

    def give_back(self, owner: str, amount: int = 1) -> None:
        """What was taken."""
        with self._lock:
            self._held[owner] -= amount
            if not self._held[owner]:
                del self._held[owner]

    @contextmanager
    def taken(self, owner: str, amount: int = 1) -> Iterator[None]:
        """For as long as the block lasts. Raises Busy."""
        self.take(owner, amount)
        try:
            yield
        finally:
            self.give_back(owner, amount)


def most_of(owner: str, most: int) -> int:
    """How much of `most` one caller may have."""
    return most if owner == ANYONE.id else (most + 1) // 2
