"""Copies of remote objects on this machine: whole or absent, bounded in size, shared by processes.

    <cache>/<unit>/<name>      a finished unit: one object, or a folder of links to objects; locked by who uses it
    <cache>/<unit>.partial     what is being downloaded, locked by who does it; the next one goes on from there

A unit's name says the URL and the version of its content, so it never changes once it is there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import IO

from rallytrace.errors import InputError
from rallytrace.files import make_folder, output_errors
from rallytrace.storage.unfinished import continued_later

DEFAULT_GB = "20"
PARTIAL = ".partial"
STALE_S = 86_400.0  # a partial file that nobody went on with
LOOK_S = 10.0  # between looks at all units, where there is room
MAX_HELD = 256  # open locks of one process, far below its limit of open files


class Cache:
    """A folder of units. limit: bytes; what living processes hold is kept even where that is more."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self._limit = root, limit
        self._held: dict[str, list[int]] = {}
        self._unlocked: set[str] = set()  # taken too, but for want of open files only this process knows
        self._free, self._look_again = 0, 0.0
        make_folder(root)

    def take(self, unit: str) -> Path | None:
        """The finished unit, not removed while this process holds it; None where it is not there."""
        lock = _lock(self.root / unit, fcntl.LOCK_SH)
        if lock is None:
            return None
        os.utime(self.root / unit)  # the time of last use decides who goes first
        self._held.setdefault(unit, []).append(lock)
        if len(self._held) > MAX_HELD:
            first = next(iter(self._held))
            self._unlocked.add(first)
            for each in self._held.pop(first):
                os.close(each)
        return self.root / unit

    def release(self, unit: str) -> None:
        """Once for each time that it was taken."""
        self._unlocked.discard(unit)
        if locks := self._held.get(unit):
            os.close(locks.pop())
        if not locks:
            self._held.pop(unit, None)

    def file(self, unit: str, name: str, size: int, fill: Callable[[IO[bytes]], None]) -> Path:
        """The unit's one file, taken. Where it is missing, `fill` goes on with what an earlier one got of it, alone
        over all processes."""
        partial = self.root / f"{unit}{PARTIAL}"
        while (found := self.take(unit)) is None:
            self.make_room(size)
            with output_errors(partial), open(partial, "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if (self.root / unit).is_dir():  # another process has finished it while we waited
                    partial.unlink(missing_ok=True)
                    continue
                with continued_later(f"what is fetched of {name}"):
                    fill(file)
                file.flush()
                os.fsync(file.fileno())  # a unit is believed without a look, also after a crash of the machine
                self.publish(unit, lambda made: (made / name).hardlink_to(partial))
                partial.unlink()
        return found / name

    def publish(self, unit: str, build: Callable[[Path], None]) -> None:
        """`build` fills a new folder, which becomes the unit; where another was quicker, that one stays."""
        made = self.root / f"{unit}.{uuid.uuid4().hex}{PARTIAL}"
        with output_errors(made):
            made.mkdir()
            build(made)
            try:
                made.rename(self.root / unit)
            except OSError:
                shutil.rmtree(made)

    def make_room(self, more: int) -> None:
        """Remove what was not used for longest until `more` bytes fit in. What other processes add is seen late."""
        self._free -= more
        if self._free >= 0 and time.monotonic() < self._look_again:
            return
        units = sorted(_stats(self.root.iterdir()), key=lambda each: each[1].st_mtime, reverse=True)
        kept, seen = more, dict[int, int]()
        for unit, stat in units:
            files = [each for _, each in _stats([unit, *unit.rglob("*")]) if S_ISREG(each.st_mode)]
            new = {each.st_ino: each.st_size for each in files if each.st_ino not in seen}
            size = sum(new.values())
            fresh = PARTIAL in unit.name and stat.st_mtime > time.time() - STALE_S
            if kept + size <= self._limit or fresh or unit.name in self._unlocked or not _remove(unit):
                seen |= new
                kept += size
        self._free, self._look_again = self._limit - kept, time.monotonic() + LOOK_S


def default_cache() -> Cache:
    """$XDG_CACHE_HOME/rallytrace, of RALLYTRACE_CACHE_GB. Raises InputError, OutputError."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    text = os.environ.get("RALLYTRACE_CACHE_GB") or DEFAULT_GB
    if not text.replace(".", "", 1).isdecimal():
        raise InputError(f"RALLYTRACE_CACHE_GB is {text!r}, expected a size in GB such as 20")
    return _cache(base / "rallytrace", int(float(text) * 1e9))


_cache = lru_cache(Cache)


def _stats(paths: Iterator[Path] | list[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    for path in paths:
        with suppress(FileNotFoundError):  # others remove units too
            yield path, path.lstat()


def _lock(path: Path, how: int) -> int | None:
    """An open lock on `path`; None where it is gone, or in use and `how` says not to wait."""
    with suppress(FileNotFoundError, BlockingIOError):
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, how)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except OSError:
            os.close(lock)
            raise
        os.close(lock)
    return None


def _remove(unit: Path) -> bool:
    """False where somebody uses it."""
    lock = _lock(unit, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        return not unit.exists()
    gone = unit.with_name(f"{unit.name}.{uuid.uuid4().hex}{PARTIAL}")  # at once, so that nobody finds half a unit
    with suppress(FileNotFoundError):
        unit.rename(gone)
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    os.close(lock)
    return True
