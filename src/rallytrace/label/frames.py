"""Pictures for the browser: JPEGs by frame index, decoded in runs ahead of the user, kept in a bounded cache on disk.

Every frame is addressed by its index in `video.read`'s order, upright, at source size. What the cache holds can be made
again from the video at any time; deleting it loses nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rallytrace.errors import OutputError, RallytraceError, VideoError
from rallytrace.files import AtomicFile, make_folder
from rallytrace.label.worker import be_polite
from rallytrace.video import FrameTable, IndexedReader, encode_jpeg, shrink_jpeg

QUALITY = 90
WIDTHS = (160, 320, 640, 1280)  # of the pictures that are made smaller
CACHE_BYTES = 8 * 2**30
RUN = 32  # frames that are decoded and kept together
HELD_BYTES = 100_000_000  # of decoded pictures that wait while the one asked for is made
FAR = 4  # frames that are rather waited for than jumped to
MAX_QUEUE = 16  # runs that wait; older wishes are dropped
MAX_READERS = 4  # open decoders, some 50 MB each at 1080p
IDLE_S = 60.0
PATIENCE_S = 60.0  # for one picture: the worst file has one key picture, at its start


class FrameUnavailable(RallytraceError):
    """The picture cannot be made now: its video is gone, changed or damaged, or the server is too busy."""


@dataclass(frozen=True, slots=True)
class Source:
    """An imported video, ready to be decoded. size_bytes and mtime_ns: of the file that was imported."""

    id: int
    path: Path
    sha256: str
    table: FrameTable
    size_bytes: int
    mtime_ns: int

    @property
    def run(self) -> int:
        """Frames that are decoded together: fewer of large pictures."""
        w, h = self.table.wh
        return max(8, min(RUN, HELD_BYTES * 2 // (3 * w * h)))

    def key(self, index: int, width: int | None = None) -> str:
        """The name of a picture in the cache."""
        return f"{self.sha256[:12]}/{index // 1000}/{index}{f'.w{width}' if width else ''}.jpg"

    def check(self) -> None:
        """Raises VideoError where the file is gone or is another one."""
        check_file(self.path, self.size_bytes, self.mtime_ns)


def check_file(path: Path, size_bytes: int, mtime_ns: int) -> None:
    """Raises VideoError where the file at `path` is gone, or is not the one of this size and time."""
    try:
        found = path.stat()
    except OSError:
        raise VideoError(f"{path} is gone: put it back, its labels are kept") from None
    if (found.st_size, found.st_mtime_ns) != (size_bytes, mtime_ns):
        raise VideoError(f"{path} has changed since it was imported: put the old file back, or import again")


class FrameCache:
    """JPEG files under `folder`, at most `max_bytes` of them; the one unused for longest goes first. Thread-safe."""

    def __init__(self, folder: Path, max_bytes: int = CACHE_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by last use
        self._total, self._lock = 0, threading.Lock()
        make_folder(folder)
        found = []
        for path in folder.rglob("*"):
            if path.name.endswith(".partial"):
                path.unlink(missing_ok=True)
            elif path.suffix == ".jpg":
                stat = path.stat()
                found.append((stat.st_mtime_ns, path.relative_to(folder).as_posix(), stat.st_size))
        for _, key, size in sorted(found):
            self._sizes[key] = size
            self._total += size

    @property
    def total_bytes(self) -> int:
        """Of all pictures."""
        return self._total

    def has(self, key: str) -> bool:
        """Whether it was there a moment ago."""
        return key in self._sizes

    def get(self, key: str) -> bytes | None:
        """The JPEG, or None. A file cut short by a crash of the machine counts as absent."""
        with self._lock:
            if key not in self._sizes:
                return None
            self._sizes.move_to_end(key)
        with suppress(OSError):
            data = (self._folder / key).read_bytes()
            if data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9":
                return data
        self._forget(key)
        return None

    def put(self, key: str, data: bytes) -> None:
        """A cache that cannot be written (disk full) is no error: the picture is then made again when needed."""
        path = self._folder / key
        with self._lock:
            try:
                make_folder(path.parent)
                with AtomicFile(path, "wb", durable=False) as file:
                    file.write(data)
            except (OutputError, OSError):
                return
            self._total += len(data) - self._sizes.pop(key, 0)
            self._sizes[key] = len(data)
            while self._total > self._max_bytes and len(self._sizes) > 1:
                old, size = self._sizes.popitem(last=False)
                self._total -= size
                with suppress(OSError):
                    (self._folder / old).unlink(missing_ok=True)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._total -= self._sizes.pop(key, 0)
        with suppress(OSError):
            (self._folder / key).unlink(missing_ok=True)


@dataclass(slots=True)
class _Run:
    """Frames `start` to `stop` - 1 of a video, to be made; `waiting` ones first, the rest only when `whole`."""

    source: Source
    start: int
    stop: int
    whole: bool = False
    waiting: dict[int, Future[bytes]] = field(default_factory=dict)


class FrameServer:
    """Makes JPEGs by index in two threads, in runs: one makes what is asked for, the other, which yields to all else,
    what will be asked for next."""

    def __init__(self, cache: FrameCache) -> None:
        self.cache = cache
        self._runs: OrderedDict[tuple[str, int], _Run] = OrderedDict()  # the latest wish is last
        self._active: dict[tuple[str, int], _Run] = {}
        self._idle: list[tuple[float, str, IndexedReader]] = []
        self._lock = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, args=[ahead], daemon=True) for ahead in (False, True)]
        for thread in self._threads:
            thread.start()

    def jpeg(self, source: Source, index: int, width: int | None = None) -> bytes:
        """Frame `index` as a JPEG, at source size or about `width` px wide; its neighbours are made after it.

        Raises IndexError beyond the last frame, FrameUnavailable where it cannot be made.
        """
        if not 0 <= index < len(source.table):
            raise IndexError(f"video {source.id} has frames 0 to {len(source.table) - 1}, got {index}")
        width = next((w for w in WIDTHS if width and w >= width), None)
        width = None if width is None or width >= source.table.wh[0] else width
        data = self.cache.get(source.key(index, width))
        if data is None and width is not None:
            data = shrink_jpeg(self._full(source, index, whole=False), width)
            self.cache.put(source.key(index, width), data)
        elif data is None:
            data = self._full(source, index, whole=True)
        if width is None:
            self.prefetch(source, self._neighbours(source, index))
        return data

    def _full(self, source: Source, index: int, *, whole: bool) -> bytes:
        data = self.cache.get(source.key(index))
        if data is not None:
            return data
        with self._lock:
            if self._closed:
                raise FrameUnavailable("the server is shutting down")
            future = self._wish(source, index // source.run, whole).waiting.setdefault(index, Future())
            self._lock.notify_all()
        try:
            return future.result(PATIENCE_S)
        except TimeoutError:
            raise FrameUnavailable(f"frame {index} of video {source.id} was not made in {PATIENCE_S:g} s") from None
        except (RallytraceError, OSError) as error:
            raise FrameUnavailable(str(error)) from error

    def prefetch(self, source: Source, wanted: Sequence[int]) -> None:
        """Make the runs around these frames when there is time, the first ones first."""
        places = list(dict.fromkeys(i // source.run for i in wanted if 0 <= i < len(source.table)))
        with self._lock:
            for place in reversed(places[:MAX_QUEUE]):
                start = place * source.run
                if (source.sha256, place) in self._active or self._is_made(source, start):
                    continue
                self._wish(source, place, whole=True)
                self._lock.notify_all()
            idle = [key for key, run in self._runs.items() if not run.waiting]
            for key in idle[:-MAX_QUEUE]:
                del self._runs[key]

    def _neighbours(self, source: Source, index: int) -> list[int]:
        """A frame of each run that comes next: two ahead, and the one behind where it is near."""
        ahead = [index, index + source.run, index + 2 * source.run]
        return [*ahead[:2], index - source.run, ahead[2]] if index % source.run < source.run // 2 else ahead

    def _is_made(self, source: Source, start: int) -> bool:
        stop = min(start + source.run, len(source.table))
        return all(self.cache.has(source.key(i)) for i in range(start, stop))

    def _wish(self, source: Source, place: int, whole: bool) -> _Run:
        """The run at `place`, as the latest wish; under the lock."""
        key = source.sha256, place
        run = self._active.get(key) or self._runs.get(key)
        if run is None:
            start = place * source.run
            run = self._runs[key] = _Run(source, start, min(start + source.run, len(source.table)))
        run.whole |= whole
        if key in self._runs:
            self._runs.move_to_end(key)
        return run

    def _work(self, ahead: bool) -> None:
        if ahead:
            be_polite(5)
        while True:
            with self._lock:
                while not self._closed and (key := self._next(ahead)) is None:
                    self._lock.wait(IDLE_S)
                    self._close_readers(time.monotonic() - IDLE_S)
                if self._closed or key is None:
                    return
                run = self._active[key] = self._runs.pop(key)
            error: Exception | None = None
            done = True
            try:
                done = self._make(run)
            except Exception as caught:
                error = caught  # told to everyone who waits
            with self._lock:
                del self._active[key]
                if self._closed or error:
                    for future in run.waiting.values():
                        future.set_exception(error or FrameUnavailable("the server is shutting down"))
                elif run.waiting or not done:
                    self._runs[key] = run
                    self._runs.move_to_end(key, last=bool(run.waiting))

    def _next(self, ahead: bool) -> tuple[str, int] | None:
        """The run to make: what somebody waits for, else the latest wish."""
        asked = next((key for key, run in self._runs.items() if run.waiting), None)
        return next(reversed(self._runs), None) if ahead and asked is None else asked

    def _must_yield(self, run: _Run) -> bool:
        """Someone waits for another run, and nobody for this one."""
        return not run.waiting and any(other.waiting for other in self._runs.values())

    def _make(self, run: _Run) -> bool:
        """False where it stopped early, for someone who waits for another run."""
        reader = None
        try:
            while todo := self._todo(run):
                if reader is None:
                    reader = self._take_reader(run.source, todo[0])
                if not self._make_from(run, todo, reader):
                    return False
            return True
        except BaseException:
            if reader is not None:
                reader.close()
            reader = None
            raise
        finally:
            if reader is not None:
                with self._lock:
                    self._idle.append((time.monotonic(), run.source.sha256, reader))

    def _make_from(self, run: _Run, todo: list[int], reader: IndexedReader) -> bool:
        """One pass; ends early, to be planned anew, where someone waits for a frame of this run that is far off."""
        with self._lock:
            first = next(iter(run.waiting), todo[0])
        newest = first
        for frame in reader.run(todo[0] if run.whole else first, todo[-1] + 1 if run.whole else first + 1, first):
            if not self.cache.has(run.source.key(frame.index)):
                self._finish(run, frame.index, encode_jpeg(frame.image, QUALITY))
            newest = max(newest, frame.index)
            with self._lock:
                if self._closed or self._must_yield(run):
                    return False
                if next(iter(run.waiting), newest) > newest + FAR:
                    return True
        return True

    def _todo(self, run: _Run) -> list[int]:
        """What of the run is not made yet; answers who waits for what is."""
        with self._lock:
            for index in list(run.waiting):
                data = self.cache.get(run.source.key(index))
                if data is not None:
                    run.waiting.pop(index).set_result(data)
            wanted = range(run.start, run.stop) if run.whole else sorted(run.waiting)
            return [i for i in wanted if not self.cache.has(run.source.key(i))]

    def _finish(self, run: _Run, index: int, data: bytes) -> None:
        self.cache.put(run.source.key(index), data)
        with self._lock:
            future = run.waiting.pop(index, None)
        if future:
            future.set_result(data)

    def _take_reader(self, source: Source, index: int) -> IndexedReader:
        """An open reader that is near `index`, or a new one."""
        source.check()
        with self._lock:
            near = [n for n, (_, sha, r) in enumerate(self._idle) if sha == source.sha256]
            best = min(near, key=lambda n: self._idle[n][2].distance(index), default=None)
            if best is not None and (self._idle[best][2].distance(index) <= source.run or len(near) > 1):
                return self._idle.pop(best)[2]
            while len(self._idle) >= MAX_READERS:
                self._idle.pop(0)[2].close()
        return IndexedReader(source.path, source.table)

    def _close_readers(self, before_s: float) -> None:
        for item in [item for item in self._idle if item[0] <= before_s]:
            self._idle.remove(item)
            item[2].close()

    def close(self) -> None:
        """Ends the threads; who waits gets FrameUnavailable."""
        with self._lock:
            self._closed = True
            for run in self._runs.values():
                for future in run.waiting.values():
                    future.set_exception(FrameUnavailable("the server is shutting down"))
            self._runs.clear()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(10.0)
        self._close_readers(time.monotonic())
