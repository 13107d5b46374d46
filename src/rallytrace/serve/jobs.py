"""Whole videos: spooled to disk, decoded in a child, tracked in a bounded pool; results are kept for a while."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rallytrace import storage
from rallytrace.decode.child import Limits
from rallytrace.decode.videos import Decoder, Source, VideoLimits
from rallytrace.errors import InputError, RallytraceError
from rallytrace.serve.drawing import draw_video
from rallytrace.serve.engine import BatchingNetwork, Busy, Cancelled
from rallytrace.serve.security import ApiError
from rallytrace.serve.shares import most_of
from rallytrace.track import FILL
from rallytrace.tracker import Tracker
from rallytrace.trajectory import Linker, Trajectory
from rallytrace.types import BallPoint, Box, Frame

if TYPE_CHECKING:
    from rallytrace.serve.app import ServeOptions

log = logging.getLogger("rallytrace.serve")
FREE_BYTES = 512 << 20  # that an upload leaves on the disk


@dataclass(frozen=True, slots=True)
class TrackOptions:
    """How a clip is tracked. fill: longest gap in frames that is interpolated; None: the tracker's raw points."""

    threshold: float | None = None
    overlap: int = 1
    fill: int | None = FILL
    draw: bool = False  # a video too, of whole videos


def track_frames(
    frames: Iterable[Frame],
    network: BatchingNetwork,
    source_wh: tuple[int, int],
    options: TrackOptions,
    on_frame: Callable[[int], None] = lambda _: None,
    picture: Box | None = None,
) -> list[BallPoint]:
    """One point per frame. on_frame: told how many are done. picture: as of `Tracker`. Raises Cancelled, and what the
    frames raise."""
    batch = 8 if network.device == "cuda" else 1
    how = {"threshold": options.threshold, "overlap": options.overlap}
    tracker = Tracker(network, source_wh, batch=batch, picture=picture, **how)  # type: ignore[arg-type]
    linker = None if options.fill is None else Linker(source_wh, fill=options.fill)
    points: list[BallPoint] = []

    def keep(fresh: list[BallPoint]) -> None:
        for point in fresh:
            points.extend([point] if linker is None else linker.push(point))

    for n, frame in enumerate(frames, 1):
        if network.cancel.is_set() or time.monotonic() > network.deadline:
            raise Cancelled("nobody waits for this any more, or not for so long")
        keep(tracker.push(frame))
        on_frame(n)
    keep(tracker.flush())
    points.extend([] if linker is None else linker.flush())
    return points


@dataclass(slots=True, eq=False)
class Job:
    """One video on its way. `result` is there when `status` is done."""

    id: str
    owner: str
    path: Path
    network: BatchingNetwork = field(repr=False)
    options: TrackOptions
    status: Literal["queued", "running", "done", "failed"] = "queued"
    frames_done: int = 0
    source: Source | None = None
    result: Trajectory | None = None
    drawn: Path | None = None
    problems: list[str] = field(default_factory=list)
    error: ApiError | None = None
    finished: threading.Event = field(default_factory=threading.Event)
    expires_at: float = float("inf")

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = {"id": self.id, "status": self.status, "frames_done": self.frames_done}
        if self.source is not None:
            wh, fps = list(self.source.wh), str(self.source.fps)
            about |= {"frames_total": self.source.n_frames, "source_wh": wh, "fps": fps, "problems": self.problems}
        if self.drawn is not None:
            about["video"] = f"/v1/track/{self.id}/video"
        if self.error is not None:
            about["error"] = {"code": self.error.code, "message": str(self.error)}
        return about

    @property
    def is_finished(self) -> bool:
        return self.finished.is_set()


class Jobs:
    """All jobs of a server, and the folder in which their videos wait.

    The key with the fewest jobs at work is next. One key has at most `options.jobs` at work, and one more lane is kept
    for others, so that no key waits behind all videos of another. Raises InputError for a spool that cannot be used.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self.folder = _spool_folder(options.spool)
        lanes = options.jobs + (options.keys is not None)
        self._pool = ThreadPoolExecutor(lanes, "rallytrace-job")
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._at_work: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Jobs that are not finished."""
        return sum(not job.is_finished for job in list(self._jobs.values()))

    def limits(self, frames: int, wall_s: float) -> VideoLimits:
        """Of a video of at most so many frames, to be done with after so many seconds."""
        o = self._options
        child = Limits(o.decode_memory, o.decode_cpu_s, wall_s)
        return VideoLimits(child, frames, o.max_pixels, o.max_video_s)

    @contextmanager
    def file(self, owner: str) -> Iterator[Path]:
        """The name of a file for an upload of a key; it is removed where the block fails. Raises Busy."""
        self._check_room(owner)
        path = self.folder / secrets.token_hex(12)
        self._uploads[owner] += 1
        try:
            yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            self._uploads[owner] -= 1

    def _check_room(self, owner: str) -> None:
        most = self._options.max_jobs
        n_all = self.running + self._uploads.total()
        if n_all >= most:
            raise Busy(f"{n_all} videos are here already: try again later", retry_after_s=10)
        own = sum(job.owner == owner and not job.is_finished for job in list(self._jobs.values()))
        n_own = own + self._uploads[owner]
        if n_own >= most_of(owner, most):
            raise Busy(f"{n_own} videos of this key are here already: try again later", retry_after_s=10)

    def start(self, path: Path, network: BatchingNetwork, owner: str, options: TrackOptions) -> Job:
        """Queue the video at `path`, which is removed once it is tracked."""
        job = Job(secrets.token_urlsafe(18), owner, path, network, options)
        self._jobs[job.id] = job
        with self._lock:
            self._waiting.append(job)
        self._pool.submit(self._run_next)
        return job

    def get(self, name: str, owner: str) -> Job:
        """Raises ApiError 404, also for the job of another key."""
        job = self._jobs.get(name)
        if job is None or not secrets.compare_digest(job.owner, owner):
            raise ApiError(404, "unknown_job", "no such job here, or its result is forgotten")
        return job

    def remove(self, job: Job) -> None:
        """Cancel it, or forget its result. Its video goes at once: one that waits would wait on, and not be counted."""
        job.network.cancel.set()
        for path in (job.path, job.drawn):
            if path is not None:
                path.unlink(missing_ok=True)
        self._jobs.pop(job.id, None)

    def expire(self) -> None:
        """Forget the results that nobody came back for."""
        for job in [job for job in self._jobs.values() if job.expires_at <= time.monotonic()]:
            self.remove(job)

    def close(self) -> None:
        """Cancel all jobs, and remove their folder."""
        for job in list(self._jobs.values()):
            self.remove(job)
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run_next(self) -> None:
        """One of the waiting jobs, if one may run; at its end whoever waits gets another chance."""
        with self._lock:
            may_run = [job for job in self._waiting if self._at_work[job.owner] < self._options.jobs]
            if not may_run:
                return
            job = min(may_run, key=lambda job: self._at_work[job.owner])  # of these the first
            self._waiting.remove(job)
            self._at_work[job.owner] += 1
        try:
            self._run(job)
        finally:
            with self._lock:
                self._at_work[job.owner] -= 1
                waits = bool(self._waiting)
            if waits:
                with suppress(RuntimeError):  # the server stops
                    self._pool.submit(self._run_next)

    def _run(self, job: Job) -> None:
        job.network.deadline = time.monotonic() + self._options.job_timeout_s
        try:
            self._check(job)
            job.status = "running"
            limits = self.limits(self._options.max_frames, self._options.job_timeout_s)
            with Decoder(str(job.path), job.network.spec, limits) as frames:
                job.source = frames.source
                wh = frames.source.wh
                tell = partial(_tell, job)
                points = track_frames(frames, job.network, wh, job.options, tell, frames.source.picture)
                job.problems = frames.problems
            if job.options.draw:
                self._draw(job, points)
            job.result = Trajectory.from_points(points)
            job.status = "done"
        except Exception as error:
            if not isinstance(error, RallytraceError):
                log.exception("job of model %s failed", job.network.model.name)
            job.error = ApiError.of(error)
            job.status = "failed"
        finally:
            job.path.unlink(missing_ok=True)
            job.expires_at = time.monotonic() + self._options.keep_s
            job.finished.set()

    def _check(self, job: Job) -> None:
        if job.network.cancel.is_set() or time.monotonic() > job.network.deadline:
            raise Cancelled("nobody waits for this any more, or not for so long")

    def _draw(self, job: Job, points: list[BallPoint]) -> None:
        """Encoding takes more memory and time than decoding did."""
        o = self._options
        left_s = max(0.1, job.network.deadline - time.monotonic())
        limits = Limits(2 * o.decode_memory, 4 * o.decode_cpu_s, left_s, file_bytes=o.max_video)
        to = self.folder / f"{job.path.name}.mp4"
        draw_video(job.path, points, to, limits, lambda: self._check(job))
        job.drawn = to
        if job.network.cancel.is_set():  # removed in the meantime: nobody else would
            to.unlink(missing_ok=True)


def _spool_folder(spool: Path | None) -> Path:
    """A new folder in `spool`, or in the system's for passing files. Raises InputError."""
    try:
        return Path(tempfile.mkdtemp(prefix="rallytrace-", dir=spool))
    except OSError as error:
        where = f"--spool {spool}" if spool else tempfile.gettempdir()
        reason = error.strerror or error
        raise InputError(f"{where}: no video can be kept there ({reason}): name a folder that can be written") from None


def _tell(job: Job, n: int) -> None:
    job.frames_done = n


async def spool(chunks: AsyncIterator[bytes], path: Path) -> int:
    """Write an upload to `path`; returns its bytes. Raises ApiError 507 where the disk is full, InputError if empty."""
    size = checked = 0
    try:
        with open(path, "wb") as file:
            async for chunk in chunks:
                if size >= checked:
                    checked = size + (64 << 20)
                    if shutil.disk_usage(path.parent).free < FREE_BYTES:
                        raise OSError(errno.ENOSPC, "disk full")
                file.write(chunk)
                size += len(chunk)
    except OSError as error:
        raise ApiError(507, "disk_full", f"the server has no room for this video ({error.strerror})", 60) from None
    if not size:
        raise InputError("an empty body: expected a video")
    return size


def fetch(url: str, allowed: Iterable[str], path: Path, max_bytes: int) -> None:
    """Copy an object of a store that the operator allows to `path`. Raises ApiError 403 or 413, InputError,
    EndpointError, MissingDependency."""
    prefixes = [prefix.rstrip("/") + "/" for prefix in allowed]
    inside = ".." not in url.split("/") and any(url.startswith(prefix) for prefix in prefixes)
    if not inside or url.partition("://")[0] not in ("s3", "gs", "az"):
        raise ApiError(403, "forbidden", "this server does not fetch that address (--allow-fetch)")
    folder, _, name = url.rpartition("/")
    found = storage.open_store(folder).head(name)
    if found is None:
        raise InputError(f"{url[:200]} does not exist")
    if found.size > max_bytes:
        raise ApiError(413, "too_large", f"a video may have {max_bytes} bytes here")
    with storage.fetched(url) as local:
        shutil.copyfile(local, path)
