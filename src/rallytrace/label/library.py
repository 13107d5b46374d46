"""The videos of a project: taken in, read through once in the background, found again, noticed when they are gone."""

from __future__ import annotations

import hashlib
import json
import queue
import re
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from rallytrace import video
from rallytrace.errors import InputError, RallytraceError, VideoError
from rallytrace.files import AtomicFile, make_folder, output_errors
from rallytrace.label.book import LabelBook, NotFound, Video, WrongState, bounded_text
from rallytrace.label.frames import Source, be_polite, check_file
from rallytrace.labels import VIDEO_SUFFIXES

MAX_UPLOAD_BYTES = 16 * 2**30
SPARE_BYTES = 2**30  # of the disk, which uploads leave free
HASH_SHARE = 0.1  # of the import's progress
BLOCK = 2**20
MAX_OPEN = 32  # frame tables in memory


class TooLarge(InputError):
    """An upload is larger than the server takes."""


class _Closed(Exception):
    """The server ends; the import is begun again at its next start."""


class Library:
    """Videos in the book, with what is needed to decode them by index, in `folder`/tables. Thread-safe.

    One thread imports, politely, one video after the other.
    """

    def __init__(self, book: LabelBook, folder: Path, max_upload_bytes: int = MAX_UPLOAD_BYTES) -> None:
        self._book, self._uploads, self._tables = book, folder / "videos", folder / "tables"
        self._max_upload_bytes = max_upload_bytes
        make_folder(self._uploads)
        make_folder(self._tables)
        for left in self._uploads.glob(".*.partial"):
            left.unlink(missing_ok=True)
        self._open: dict[int, Source] = {}
        self._queue: queue.Queue[int | None] = queue.Queue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="import", daemon=True)
        for found in self.videos():
            if found.state == "importing":
                self._queue.put(found.id)
            elif found.state == "failed" or not self._table_path(found.id).exists():
                self._queue.put(self._book.set_video_state(found.id, "importing").id)
        self._thread.start()

    def add(self, path: str | Path) -> list[Video]:
        """A video file, or all those in a folder, which stay where they are; import begins. Raises InputError."""
        if "://" in str(path):
            raise InputError(f"{path}: expected a file or a folder on this machine; fetch it first")
        path = Path(path).resolve()
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        else:
            files = [path]
            if path.suffix.lower() not in VIDEO_SUFFIXES:
                raise InputError(f"{path} is no video by its name: expected {', '.join(VIDEO_SUFFIXES)}")
        if not files or not files[0].is_file():
            raise InputError(f"{path} does not exist or holds no video: expected {', '.join(VIDEO_SUFFIXES)}")
        return [self._add(file.name, file) for file in files]

    def _add(self, name: str, path: Path) -> Video:
        name = "".join(c if c.isprintable() else "_" for c in name)[:200]  # a file's name may be anything
        found = self._book.add_video(name, path)
        if found.state in ("importing", "failed"):
            found = self._book.set_video_state(found.id, "importing")
            self._queue.put(found.id)
        return found

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> Video:
        """An uploaded video, kept in `folder`/videos under a name of ours. Raises InputError, TooLarge, OutputError."""
        name = bounded_text(name, "the name of the video", 200)
        suffix = Path(name).suffix.lower()
        if suffix not in VIDEO_SUFFIXES:
            raise InputError(f"{name!r} is no video by its name: expected {', '.join(VIDEO_SUFFIXES)}")
        stem = re.sub(r"[^A-Za-z0-9-]+", "_", Path(name).stem)[:60] or "video"
        path = self._uploads / f"{stem}-{secrets.token_hex(4)}{suffix}"
        limit = min(self._max_upload_bytes, shutil.disk_usage(self._uploads).free - SPARE_BYTES)
        size = 0
        with AtomicFile(path, "wb") as file, output_errors(path):
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"{name!r} is larger than the {limit // 2**20} MiB that this server takes")
                file.write(chunk)
            if not size:
                raise InputError(f"{name!r} came without content: expected the bytes of a video")
        return await run_in_threadpool(self._add, name, path)

    def videos(self, after: int = 0, limit: int = 1000) -> list[Video]:
        """By id; the state of those whose file has gone or come back is brought up to date."""
        return [self._looked_at(found) for found in self._book.videos(after, limit)]

    def video(self, video_id: int) -> Video:
        """Raises NotFound."""
        return self._looked_at(self._book.video(video_id))

    def _looked_at(self, found: Video) -> Video:
        if found.state not in ("ready", "missing") or not self._table_path(found.id).exists():
            return found
        try:
            about = self._read_table(found.id)[0]
            check_file(Path(found.path), about["size"], about["mtime_ns"])
        except VideoError as error:
            self._open.pop(found.id, None)
            if Path(found.path).is_file():  # touched, or another one: reading it again tells
                self._queue.put(found.id)
                return self._book.set_video_state(found.id, "importing")
            if found.state == "missing":
                return found
            return self._book.set_video_state(found.id, "missing", str(error))
        return self._book.set_video_state(found.id, "ready") if found.state == "missing" else found

    def source(self, video_id: int) -> Source:
        """Ready to be decoded; the file is looked at when it is opened. Raises NotFound, WrongState."""
        known = self._open.get(video_id)
        if known is not None:
            return known
        found = self.video(video_id)
        if found.state != "ready":
            why = found.error or {"importing": "its import is not complete, wait for it"}.get(found.state, "")
            raise WrongState(f"video {found.name!r} is {found.state}: {why}")
        return self._source(found)

    def forget(self, video_id: int) -> Video:
        """Look at the file anew: reading it failed."""
        self._open.pop(video_id, None)
        return self.video(video_id)

    def _source(self, found: Video) -> Source:
        about, packed = self._read_table(found.id, whole=True)
        table = video.FrameTable.unpack(packed)
        source = Source(found.id, Path(found.path), about["sha256"], table, about["size"], about["mtime_ns"])
        for known in list(self._open)[: 1 - MAX_OPEN]:
            self._open.pop(known, None)
        self._open[found.id] = source
        return source

    def _read_table(self, video_id: int, *, whole: bool = False) -> tuple[dict[str, Any], bytes]:
        """What was noted of the file at its import, and with `whole` the packed FrameTable."""
        with self._table_path(video_id).open("rb") as file:
            return json.loads(file.readline()), file.read() if whole else b""

    def _table_path(self, video_id: int) -> Path:
        return self._tables / f"{video_id}.table"

    def _work(self) -> None:
        be_polite()
        for video_id in iter(self._queue.get, None):
            try:
                self._import(self._book.video(video_id))
            except _Closed:
                return
            except NotFound:
                continue
            except Exception as error:
                reason = str(error) if isinstance(error, RallytraceError) else f"unexpected {type(error).__name__}"
                try:
                    self._book.set_video_state(video_id, "failed", reason)
                except RallytraceError:
                    continue  # the book is out of reach: the import is begun again at the next start

    def _import(self, found: Video) -> None:
        path = Path(found.path)
        told = _Told(lambda share: self._book.set_video_progress(found.id, share), self._closed)
        try:
            stat = path.stat()
            sha256 = _sha256(path, lambda share: told(share * HASH_SHARE))
        except OSError as error:
            raise VideoError(f"{path} cannot be read ({error.strerror}): check that it is there") from None
        if found.sha256 not in (None, sha256):
            raise VideoError(f"{path} is not the video that was imported first: put the old file back")
        table = video.frame_table(path, lambda n, of: told(HASH_SHARE + (1 - HASH_SHARE) * n / max(n, of or 2 * n)))
        about = {"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        with AtomicFile(self._table_path(found.id), "wb") as file:
            file.write(json.dumps(about).encode() + b"\n" + table.pack())
        self._open.pop(found.id, None)
        self._book.set_video_ready(found.id, sha256=sha256, wh=table.wh, rate=table.rate, pts_s=table.pts_s.tolist())

    def close(self) -> None:
        """Ends the import; it is begun again when the project is opened the next time."""
        self._closed.set()
        self._queue.put(None)
        self._thread.join(30.0)


class _Told:
    """Writes progress to the book, at most once a second, and ends the work when the server does."""

    def __init__(self, write: Callable[[float], None], closed: threading.Event) -> None:
        self._write, self._closed, self._last = write, closed, 0.0

    def __call__(self, share: float) -> None:
        if self._closed.is_set():
            raise _Closed
        if time.monotonic() - self._last > 1.0:
            self._last = time.monotonic()
            self._write(share)


def _sha256(path: Path, on_share: Callable[[float], None]) -> str:
    digest, size, done = hashlib.sha256(), max(1, path.stat().st_size), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            on_share(done / size)
    return digest.hexdigest()
