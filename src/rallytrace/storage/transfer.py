"""Inputs and outputs of a command that may be URLs: local paths for the rest of the program."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rallytrace.errors import InputError, OutputError
from rallytrace.files import VIDEO_SUFFIXES
from rallytrace.storage.cache import default_cache
from rallytrace.storage.stores import Folder, MissingObject, Remote, open_store
from rallytrace.storage.urls import WEB, glob_match, is_url, local_path, parse

TRANSFERS = 8  # at the same time


def fetch(where: str | Path) -> Path:
    """A file, or where there is none of that name a whole folder, as a local path. A local path comes back unchanged.

    The cache keeps it while this process lives. Raises InputError, EndpointError, OutputError.
    """
    if (path := local_path(where)) is not None:
        return path
    address = parse(str(where))
    folder, _, name = address.key.rpartition("/")
    try:
        if name:
            return Remote(replace(address, key=folder)).fetch(name)
    except MissingObject:
        if address.scheme in WEB:
            raise
    return fetch_folder(where)


def fetch_folder(url: str | Path) -> Path:
    """All objects below a URL as a local folder of the same name: listed once, and only what is not cached is read.

    A local folder comes back unchanged. Raises InputError where there is nothing below it.
    """
    store = open_store(url)
    if isinstance(store, Folder):
        return Path(store.url)
    entries = list(store.list())
    if not entries:
        raise InputError(f"{store.url} does not exist: nothing is stored under that name")
    cache, name = default_cache(), Path(store.url).name
    unit = store.unit("", "\n".join(f"{each.key} {each.etag}" for each in entries))

    def build(made: Path) -> None:
        """Hard links: an object is on disk once, however many folders show it."""
        with ThreadPoolExecutor(TRANSFERS) as pool:
            for entry, path in zip(entries, pool.map(lambda each: store.fetch(each.key, each), entries), strict=True):
                to = made / name / entry.key
                to.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, to)
                cache.release(path.parent.name)

    while (found := cache.take(unit)) is None:
        cache.publish(unit, build)
    return found / name


@contextmanager
def fetched(where: str | Path) -> Iterator[Path]:
    """As fetch(), for the time of a block: for one of many large files."""
    path = fetch(where)
    try:
        yield path
    finally:
        if is_url(where):
            default_cache().release(path.parent.name)


def expand(pattern: str, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> list[str]:
    """The files that a pattern or a folder means; a path or URL that is neither comes back alone.

    Folders give their files of these suffixes; a local one without any comes back itself, for it may hold pictures.
    Raises InputError where a pattern, or a folder of a store, has nothing.
    """
    if is_url(pattern):
        return [pattern] if parse(pattern).scheme in WEB else _expand_url(pattern, suffixes)
    pattern = pattern.removeprefix("file://")
    path = Path(pattern)
    if path.is_dir():
        return sorted(str(each) for each in path.iterdir() if each.suffix.lower() in suffixes) or [pattern]
    if path.exists() or not glob.has_magic(pattern) or "://" in pattern:
        return [pattern]
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise InputError(f"no file matches {pattern!r}: check the pattern")
    return matches


def _expand_url(pattern: str, suffixes: Sequence[str]) -> list[str]:
    address = parse(pattern)
    parts = [part for part in address.key.split("/") if part]
    if not glob.has_magic(address.key):
        if Path(address.key).suffix.lower() in suffixes:
            return [pattern]
        parts.append("*")
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    top = "/".join([address.root, *parts[:fixed]])
    keys = [each.key for each in open_store(top).list() if glob_match(each.key.split("/"), parts[fixed:])]
    found = sorted(key for key in keys if Path(key).suffix.lower() in suffixes or parts[-1] != "*")
    if not found:
        raise InputError(f"nothing matches {pattern!r}: check the address")
    return [f"{top}/{key}" for key in found]


@contextmanager
def publishing(out: str | Path, last: Sequence[str] = ("manifest.json",), *, overwrite: bool = True) -> Iterator[Path]:
    """A local folder to write results in. For a URL it is a temporary one, and what is in it is stored when the block
    ends well, files named in `last` after all others: who finds them finds the rest. Without `overwrite` nothing is
    stored where one of the files is there already. Raises RallytraceError.
    """
    store = open_store(out)
    if isinstance(store, Folder):
        yield Path(store.url)
        return
    with tempfile.TemporaryDirectory(prefix="rallytrace-") as name:
        yield Path(name)
        files = list(Folder(Path(name)).list())
        taken = next((each.key for each in files if not overwrite and store.head(each.key)), None)
        if taken:
            raise OutputError(f"{store.url}/{taken} exists already: use --overwrite, or another place")
        for late in (False, True):
            chosen = [each.key for each in files if (Path(each.key).name in last) == late]
            with ThreadPoolExecutor(TRANSFERS) as pool:
                list(pool.map(lambda key: store.put(key, Path(name) / key), chosen))
