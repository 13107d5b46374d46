"""What an interrupted program leaves behind on purpose, so that the next run of the same command goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_left: list[str] = []


@contextmanager
def continued_later(what: str) -> Iterator[None]:
    """`what` is unfinished until the block ends well."""
    _left.append(what)
    yield
    _left.remove(what)


def left_for_next_run() -> list[str]:
    """In words, what is unfinished now."""
    return list(dict.fromkeys(_left))
