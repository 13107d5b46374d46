"""Local files into a store: whole, checked, and nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rallytrace.errors import InputError, OutputError
from rallytrace.storage.stores import Store, open_store, sha256_of
from rallytrace.storage.transfer import fetch

UPLOADS = 4  # files at the same time, each in up to 4 parts


@dataclass(frozen=True)
class AddReport:
    """Keys below `to`. kept: with the same content there already; bytes: of what was stored."""

    to: str
    stored: tuple[str, ...]
    kept: tuple[str, ...]
    bytes: int


def add(
    sources: Sequence[str | Path],
    to: str | Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> AddReport:
    """Copy files, and all that is in folders, to a folder or URL. Run it again after an interruption: what arrived is
    known by its SHA-256 and not sent again.

    on_progress: told the bytes done, those in all and the file. Raises InputError, EndpointError, and OutputError
    where a file of the same name and other content is there; nothing is sent then.
    """
    files, store = _files(sources), open_store(to)
    there = {entry.key: entry.size for entry in store.list()}
    with ThreadPoolExecutor(UPLOADS) as pool:
        found = [key for key in files if key in there]
        equal = pool.map(lambda key: _same(store, key, files[key], there[key]), found)
        same = dict(zip(found, equal, strict=True))
    other = [key for key in found if not same[key]]
    if other and not overwrite:
        raise OutputError(f"{to} has another {other[0]} ({len(other)} such files): use --overwrite, or another folder")
    sizes = {key: files[key].stat().st_size for key in files if not same.get(key)}
    done, stop = dict.fromkeys(sizes, 0), threading.Event()

    def send(key: str) -> None:
        def say(now: int) -> None:
            if stop.is_set():
                raise OutputError(f"{key}: interrupted")  # ends the upload; the store drops its parts
            done[key] = now
            if on_progress:
                on_progress(sum(done.values()), sum(sizes.values()), key)

        store.put(key, files[key], on_progress=say)

    with ThreadPoolExecutor(UPLOADS) as pool:
        try:
            list(pool.map(send, sizes))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return AddReport(str(to), tuple(sizes), tuple(key for key in found if same[key]), sum(sizes.values()))


def _same(store: Store, key: str, file: Path, size: int) -> bool:
    return file.stat().st_size == size and store.digest(key) == sha256_of(file)


def _files(sources: Sequence[str | Path]) -> dict[str, Path]:
    """By key: a file under its name, what is in a folder under its path in it."""
    files: dict[str, Path] = {}
    for source in sources:
        path = fetch(source)
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        if not (path.is_file() or inside):
            raise InputError(f"{source} does not exist or is an empty folder: check the path")
        for file in inside or [path]:
            key = file.relative_to(path).as_posix() if inside else file.name
            if key in files:
                raise InputError(f"{files[key]} and {file} would both be stored as {key}: add them to two folders")
            files[key] = file
    return files
