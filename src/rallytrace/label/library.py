"""The videos of a project: taken in, read through once in the background, found again, noticed when they are gone."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from rallytrace import storage, video
from rallytrace.errors import InputError, VideoError
from rallytrace.files import AtomicFile, make_folder, output_errors
from rallytrace.label.book import LabelBook, Video, WrongState, bounded_text, every
from rallytrace.label.frames import Source, check_file
from rallytrace.label.worker import Worker
from rallytrace.names import EXPECTED_VIDEO, VIDEO_SUFFIXES, suffix_of

MAX_UPLOAD_BYTES = 16 * 2**30
SPARE_BYTES = 2**30  # of the disk, which uploads leave free
BLOCK = 2**20
MAX_OPEN = 32  # frame tables in memory


class TooLarge(InputError):
    """An upload is larger than the server takes."""


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
        self._worker = Worker("import", self._import, lambda n, why: book.set_video_state(n, "failed", why))
        for found in every(self.videos):
            if found.state == "importing":
                self._worker.put(found.id)
            elif found.state == "failed" or not self._table_path(found.id).exists():
                self._worker.put(self._book.set_video_state(found.id, "importing").id)

    def add(self, path: str | Path) -> list[Video]:
        """A video file, or all those in a folder, which stay where they are; import begins. Those of a URL are copied
        into the project. Raises InputError, EndpointError, OutputError."""
        if storage.is_url(path):
            return [self._copied(url) for url in storage.expand(str(path))]
        files = [Path(each).resolve() for each in storage.expand(str(path))]
        for file in files:
            if suffix_of(file.name) not in VIDEO_SUFFIXES or not file.is_file():
                raise InputError(f"{file} does not exist or is no video by its name: expected {EXPECTED_VIDEO}")
        return [self._add(file.name, file) for file in files]

    def _copied(self, url: str) -> Video:
        name = url.partition("?")[0].rpartition("/")[2]
        to = self._uploads / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}{suffix_of(name)}"
        if not to.exists():
            with (
                storage.fetched(url) as local,
                AtomicFile(to, "wb") as file,
                output_errors(to),
                open(local, "rb") as raw,
            ):
                shutil.copyfileobj(raw, file, BLOCK)
        return self._add(name, to)

    def _add(self, name: str, path: Path) -> Video:
        name = "".join(c if c.isprintable() else "_" for c in name)[:200]  # a file's name may be anything
        found = self._book.add_video(name, path)
        if found.state in ("importing", "failed"):
            found = self._book.set_video_state(found.id, "importing")
            self._worker.put(found.id)
        return found

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> Video:
        """An uploaded video, kept in `folder`/videos under a name of ours. Raises InputError, TooLarge, OutputError."""
        name = bounded_text(name, "the name of the video", 200)
        suffix = suffix_of(name)
        if suffix not in VIDEO_SUFFIXES:
            raise InputError(f"{name!r} is no video by its name: expected {EXPECTED_VIDEO}")
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
                self._worker.put(found.id)
                return self._book.note_video_state(found, "importing")
            if found.state == "missing":
                return found
            return self._book.note_video_state(found, "missing", str(error))
        return self._book.note_video_state(found, "ready") if found.state == "missing" else found

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

    def _import(self, video_id: int) -> None:
        found = self._book.video(video_id)
        path = Path(found.path)
        told_s = 0.0

        def tell(n: int, of: int | None) -> None:
            nonlocal told_s
            self._worker.check()
            if time.monotonic() - told_s > 1.0:
                told_s = time.monotonic()
                self._book.set_video_progress(found.id, n / max(n, of or 2 * n))

        try:
            stat = path.stat()
            with path.open("rb") as raw:
                sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
        except OSError as error:
            raise VideoError(f"{path} cannot be read ({error.strerror}): check that it is there") from None
        if found.sha256 not in (None, sha256):
            raise VideoError(f"{path} is not the video that was imported first: put the old file back")
        table = video.frame_table(path, tell)
        about = {"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        with AtomicFile(self._table_path(found.id), "wb") as file:
            file.write(json.dumps(about).encode() + b"\n" + table.pack())
        self._open.pop(found.id, None)
        self._book.set_video_ready(found.id, sha256=sha256, wh=table.wh, rate=table.rate, pts_s=table.pts_s.tolist())

    def close(self) -> None:
        """Ends the import; it is begun again when the project is opened the next time."""
        self._worker.close()
