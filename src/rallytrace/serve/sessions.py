"""Sessions of the stream: one `Tracker` each, fed frame by frame from a bounded inbox by a bounded pool of threads.

A session outlives its connection: `Sessions` keeps it for a while, so that a client may resume.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from rallytrace.decode.pictures import Pictures
from rallytrace.errors import InputError, RallytraceError
from rallytrace.serve import bodies
from rallytrace.serve.engine import Busy, Cancelled, Engine
from rallytrace.serve.protocol import (
    MAX_POINTS,
    FrameRecord,
    Points,
    ProtocolError,
    Start,
    Started,
    is_change,
    unpack_change,
)
from rallytrace.tracker import Tracker
from rallytrace.types import BallPoint, Frame, Image

log = logging.getLogger("rallytrace.serve")
WINDOW = 32  # frames in flight: hides the round trip, and is what the inbox holds
MAX_INBOX = 16 << 20  # bytes of them; an empty inbox takes any frame
MAX_UNSENT = 4096  # points that wait for a slow reader before its frames are read no more
MAX_KEPT = 20_000  # points that wait for an acknowledgement; older ones are forgotten


class UnknownSession(InputError):
    """No session of that name, or none whose points are still kept: begin a new one."""


class Session:
    """Frames in by `feed`, points out by `take`, both from the event loop; tracked in between by the pool.

    owner: the API key that opened it, and alone may resume it. changed: set when there may be something to take.
    """

    def __init__(self, start: Start, engine: Engine, home: Sessions, owner: str) -> None:
        self.id, self.owner, self.live = secrets.token_urlsafe(18), owner, start.live
        self.codec, self.opened_at = start.codec, time.monotonic()
        self._cancel = threading.Event()
        network = engine.network(start.model, cancel=self._cancel)
        self.model = network.model
        options = {"threshold": start.threshold, "overlap": start.overlap, "live": start.live}
        batch = 8 if network.device == "cuda" and not start.live else 1
        self._tracker = Tracker(network, start.source_wh, batch=batch, **options)  # type: ignore[arg-type]
        self._frames = engine.metrics.frames.labels(self.model.name)
        self._home = home
        self._loop = asyncio.get_running_loop()
        self.changed, self._room = asyncio.Event(), asyncio.Event()
        self._lock = threading.Lock()
        self._inbox: deque[FrameRecord | None] = deque()  # None: the end
        self.inbox_bytes = 0
        self._running = False
        self._last: Image | None = None
        self._points: deque[BallPoint] = deque()  # not acknowledged yet
        self._unsent = 0  # how many of them, at the right end, are not taken yet
        self.received = self.tracked = self.keep = 0
        self._answered = 0  # the frame whose point comes next
        self._ended = False
        self.done = False
        self.error: Exception | None = None
        self.on_displaced: Callable[[], None] | None = None  # another connection resumes this session
        self.expires_at = float("inf")

    @property
    def started(self) -> Started:
        """The answer to Start or Resume."""
        tracker, model = self._tracker, self.model
        wh = tracker.transform.content_wh
        return Started(self.id, model.name, model.version, wh, tracker.colour, self.received, WINDOW)

    @property
    def has_room(self) -> bool:
        if len(self._inbox) >= WINDOW or self._unsent >= MAX_UNSENT:
            return False
        return not self._inbox or (self.inbox_bytes < MAX_INBOX and self._home.has_room)

    @property
    def is_idle(self) -> bool:
        """Whether all that was received is tracked."""
        return not self._inbox and not self._running

    async def feed(self, record: FrameRecord) -> None:
        """Waits for room. Frames that are here already are ignored. Raises ProtocolError for one out of turn."""
        while not self.has_room and self.error is None:
            self._room.clear()
            await self._room.wait()
        if record.index < self.received:
            return
        if record.index > self.received or self._ended:
            raise ProtocolError(f"frame {record.index} where {self.received} was expected")
        self.received += 1
        self._put(record)

    def end(self) -> None:
        """No more frames; may be said again."""
        if not self._ended:
            self._ended = True
            self._put(None)

    def take(self) -> Points:
        """The points that are new since the last call. Raises what ended the tracking."""
        with self._lock:
            if self.error is not None:
                raise self.error
            fresh = list(itertools.islice(reversed(self._points), self._unsent))[::-1][:MAX_POINTS]
            self._unsent -= len(fresh)
            return Points.of(fresh, self.tracked, self.keep)

    def ack(self, frame: int) -> None:
        """Forget the points of frames before `frame`."""
        with self._lock:
            while self._points and self._points[0].frame < frame and len(self._points) > self._unsent:
                self._points.popleft()

    def rewind(self, frame: int) -> None:
        """Take the points from `frame` on once more. Raises UnknownSession where they are forgotten."""
        with self._lock:
            first = self._points[0].frame if self._points else self._answered
            if frame < first:
                raise UnknownSession(f"the points before frame {first} are forgotten: begin a new session")
            self._unsent = sum(point.frame >= frame for point in self._points)

    def close(self) -> None:
        """Free what it holds; windows that wait for the network are dropped."""
        self._cancel.set()
        with self._lock:
            self._inbox.clear()
            self.inbox_bytes = 0
            self._points.clear()
            self._unsent = 0
            self.error = self.error or Cancelled("the session is closed")
        self._tell()

    def _put(self, record: FrameRecord | None) -> None:
        with self._lock:
            self._inbox.append(record)
            self.inbox_bytes += 0 if record is None else len(record.payload)
            if self._running:
                return
            self._running = True
        self._home.pool.submit(self._step)

    def _step(self) -> None:
        """Track one frame, then go to the end of the pool's line: so all sessions get their turn."""
        with self._lock:
            idle = not self._inbox or self.error is not None
            if idle:
                self._running = False
            else:
                record = self._inbox.popleft()
                self.inbox_bytes -= 0 if record is None else len(record.payload)
        if idle:
            self._wake()  # a server that drains waits for its sessions to be idle
            return
        try:
            points = self._tracker.flush() if record is None else self._tracker.push(self._frame(record))
            self._keep(points, record)
        except Exception as error:  # reported by take(): the session cannot go on
            if not isinstance(error, RallytraceError):
                log.exception("session of model %s failed", self.model.name)
            self.error = error
        self._wake()
        self._home.pool.submit(self._step)

    def _keep(self, points: list[BallPoint], record: FrameRecord | None) -> None:
        with self._lock:
            self._points.extend(points)
            self._unsent += len(points)
            self._answered += len(points)
            while len(self._points) > MAX_KEPT + self._unsent:
                self._points.popleft()
            self.done = record is None
            if record is not None:
                self.tracked += 1
                self.keep = self._tracker.keep_from
        if record is not None:
            self._frames.inc()

    def _frame(self, record: FrameRecord) -> Frame:
        if record.payload:
            wh, colour = self._tracker.transform.content_wh, self._tracker.colour
            if self.codec == "delta" and is_change(record.payload) and self._last is not None:
                self._last = unpack_change(record.payload, self._last)
            else:
                self._last = bodies.decode_frame(record.payload, self.codec, wh, colour, self._home.pictures)
        if self._last is None:
            raise ProtocolError("the first frame says that it repeats the one before")
        return Frame(record.index, record.pts_s, self._last)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self.changed.set()
        self._room.set()


class Sessions:
    """All sessions of a server: bounded in number, and those without a connection in time.

    max_held: bytes of frames that may wait in all of them together, besides one in each. pool: its threads track.
    """

    def __init__(
        self,
        engine: Engine,
        pictures: Pictures,
        *,
        max_sessions: int,
        max_per_key: int,
        max_held: int,
        resume_s: float,
        threads: int,
    ) -> None:
        self.pictures = pictures
        self._engine = engine
        self._max = max_sessions
        self._max_per_key = max_per_key
        self._max_held = max_held
        self._resume_s = resume_s
        self._sessions: dict[str, Session] = {}
        self.pool = ThreadPoolExecutor(threads, "rallytrace-session")
        for state in ("attached", "detached"):
            engine.metrics.sessions.labels(state).set_function(lambda s=state: self._count(s))  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def has_room(self) -> bool:
        """Whether more frames may wait."""
        return sum(session.inbox_bytes for session in self._sessions.values()) < self._max_held

    def open(self, start: Start, owner: str) -> Session:
        """Raises Busy, ModelError, InputError."""
        self.expire()
        if self._is_full(self._of(owner), self._max_per_key):
            raise Busy(f"this key has {self._max_per_key} sessions open, which is its limit", retry_after_s=5)
        if self._is_full(list(self._sessions.values()), self._max):
            raise Busy(f"{self._max} sessions are open, which is this server's limit", retry_after_s=5)
        session = Session(start, self._engine, self, owner)
        self._sessions[session.id] = session
        return session

    def resume(self, name: str, owner: str, frame: int) -> Session:
        """Raises UnknownSession, also for a session of another key."""
        self.expire()
        session = self._sessions.get(name)
        if session is None or not secrets.compare_digest(session.owner, owner):
            raise UnknownSession("no such session here: begin a new one")
        session.rewind(frame)
        if session.on_displaced is not None:
            session.on_displaced()
        session.expires_at = float("inf")
        return session

    def detach(self, session: Session) -> None:
        """Its connection is gone: keep it for a while."""
        session.on_displaced = None
        session.expires_at = time.monotonic() + self._resume_s

    def remove(self, session: Session) -> None:
        session.close()
        self._sessions.pop(session.id, None)

    def expire(self) -> None:
        """Forget the sessions that nobody came back to."""
        now = time.monotonic()
        for session in [s for s in self._sessions.values() if s.expires_at <= now]:
            self.remove(session)

    def wake(self) -> None:
        """Let every connection look around."""
        for session in self._sessions.values():
            session.changed.set()

    def close(self) -> None:
        for session in list(self._sessions.values()):
            self.remove(session)
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _of(self, owner: str) -> list[Session]:
        return [session for session in self._sessions.values() if session.owner == owner]

    def _is_full(self, sessions: list[Session], limit: int) -> bool:
        """A session that is finished or left makes room for a new one, the oldest first."""
        if len(sessions) < limit:
            return False
        left = [session for session in sessions if session.expires_at < float("inf")]
        if left:
            self.remove(min(left, key=lambda session: (not session.done, session.expires_at)))
        return not left

    def _count(self, state: str) -> int:
        left = sum(session.expires_at < float("inf") for session in list(self._sessions.values()))
        return left if state == "detached" else len(self._sessions) - left
