"""Inputs and outputs of a command that may be URLs: local paths for the rest of the program."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rallytrace.errors import InputError, OutputError
from rallytrace.names import DRAWN, EXPECTED_VIDEO, PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_video, passed_over, suffix_of
from rallytrace.storage.cache import default_cache
from rallytrace.storage.naming import naming_urls, remember
from rallytrace.storage.stores import Entry, Folder, MissingObject, Remote, open_store
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


def head(url: str) -> Entry | None:
    """Size and version of one object; None where it is missing. Raises InputError, EndpointError."""
    address = parse(url)
    folder, _, name = address.key.rpartition("/")
    return Remote(replace(address, key=folder)).head(name)


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
    return remember(found / name, store.url)


@contextmanager
def fetched(where: str | Path) -> Iterator[Path]:
    """As fetch(), for the time of a block: for one of many large files."""
    path = fetch(where)
    try:
        with naming_urls():
            yield path
    finally:
        if is_url(where):
            default_cache().release(path.parent.name)


def expand(where: str, on_skip: Callable[[str], None] | None = None) -> list[str]:
    """The videos that a pattern or a folder means; a path or URL that is neither comes back alone, as it is.

    A local folder without videos comes back itself where it holds pictures. on_skip: told in one line what of a folder
    or a pattern is left out, and why: see `is_video`. Raises InputError where a pattern or a folder has nothing.
    """
    say = on_skip or (lambda line: None)
    path = local_path(where)
    if path is None:
        address = parse(where)
        if address.scheme in WEB:
            return [where]
        if not glob.has_magic(address.key) and suffix_of(address.key) not in VIDEO_SUFFIXES:
            return _wanted(f"{where.rstrip('/')}/*", matches(f"{where.rstrip('/')}/*"), say)
    elif path.is_dir():
        return _in_folder(path, say)
    found = matches(where)
    return found if found == [plain(where)] else _wanted(where, found, say)


def matches(pattern: str) -> list[str]:
    """All files that a pattern means, and local folders; what is no pattern comes back alone. Raises InputError."""
    if is_url(pattern):
        return _stored(pattern)
    text = plain(pattern)
    if "://" in text or not glob.has_magic(text) or os.path.exists(text):
        return [text]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise InputError(f"no file matches {pattern!r}: check the pattern")
    return found


def plain(where: str) -> str:
    """A file:// URL as the path that it means; anything else unchanged. Raises InputError."""
    return str(local_path(where)) if where.lower().startswith("file:") else where


def _stored(pattern: str) -> list[str]:
    address = parse(pattern)
    parts = [part for part in address.key.split("/") if part]
    if not glob.has_magic(address.key):
        return [pattern]
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    top = "/".join([address.root, *parts[:fixed]])
    keys = [each.key for each in open_store(top).list() if glob_match(each.key.split("/"), parts[fixed:])]
    if not keys:
        raise InputError(f"nothing matches {pattern!r}: check the address")
    return [f"{top}/{key}" for key in sorted(keys)]


def _in_folder(folder: Path, say: Callable[[str], None]) -> list[str]:
    names = [each.name for each in folder.iterdir() if not each.is_dir()]
    found = sorted(str(folder / name) for name in names if is_video(name))
    has_pictures = any(suffix_of(name) in PICTURE_SUFFIXES and not name.startswith(".") for name in names)
    skipped = passed_over(names)
    if found and skipped:
        say(f"{folder}: left out {skipped}")
    if not found and not has_pictures:
        holds = f" but {skipped}" if skipped else ""
        raise InputError(
            f"{folder} holds no video{holds}, expected {EXPECTED_VIDEO}, or numbered pictures; "
            f"folders below it are looked into with '{folder}/**/*.mp4'"
        )
    return found or [str(folder)]


def _wanted(pattern: str, found: list[str], say: Callable[[str], None]) -> list[str]:
    """Folders, which may hold pictures, and of the files those that are meant.

    A pattern that says the suffix gets what it asks for, but results of `track` and hidden files only by name.
    """
    last = pattern.rpartition("/")[2]
    says_suffix = not glob.has_magic(last.rpartition(".")[2])
    says_drawn = last.lower().endswith(DRAWN)

    def is_wanted(place: str) -> bool:
        if os.path.isdir(place):
            return True
        name = place.rpartition("/")[2]
        is_meant = says_drawn or not name.lower().endswith(DRAWN)
        is_shown = last.startswith(".") or not name.startswith(".")
        return is_video(name) or (says_suffix and is_meant and is_shown)

    wanted = [each for each in found if is_wanted(each)]
    left = passed_over(each.rpartition("/")[2] for each in set(found) - set(wanted))
    if wanted and left:
        say(f"{pattern}: left out {left}")
    if not wanted:
        raise InputError(f"{pattern!r} matches no video but {left or 'hidden files'}, expected {EXPECTED_VIDEO}")
    return wanted


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
