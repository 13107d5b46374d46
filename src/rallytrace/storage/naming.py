"""Errors name what the user typed: a URL, and not the local copy of it in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rallytrace.errors import RallytraceError

_URLS: dict[str, str] = {}  # of this process, by the path of the local copy


def remember(path: Path, url: str) -> Path:
    """`path` is a local copy of `url`; gives `path`."""
    _URLS[str(path)] = url
    return path


def as_typed(text: str) -> str:
    """`text` with URLs instead of the paths of their local copies."""
    for path in sorted((path for path in _URLS if path in text), key=len, reverse=True):
        text = text.replace(path, _URLS[path])
    return text


@contextmanager
def naming_urls() -> Iterator[None]:
    """A RallytraceError of the block names URLs instead of the paths of their local copies."""
    try:
        yield
    except RallytraceError as error:
        error.args = (as_typed(str(error)),)
        raise
