"""A session on a server: frames in, points out as from `Tracker`, whatever happens to the connection and the server."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal, Self

from websockets import ClientConnection
from websockets.exceptions import ConnectionClosed

from rallytrace.errors import EndpointError
from rallytrace.geometry import FrameTransform
from rallytrace.serve.client_connect import ANSWER_TIMEOUT_S, NoWebSocket, Server, TryAgain
from rallytrace.serve.protocol import (
    Ack,
    Codec,
    Done,
    End,
    Error,
    Points,
    ProtocolError,
    Resume,
    ServerMessage,
    Start,
    Started,
    is_change,
    pack_change,
    pack_frame,
    parse_server,
    unpack_change,
)
from rallytrace.types import BallPoint, Frame, Image
from rallytrace.video import decode_jpeg, encode_jpeg, encode_png
from rallytrace.window import RepeatFilter

# FFmpeg's steps. In a 720p broadcast, 87 and 60 (47 and 28 KB a frame) move the ball by 0.03 and 0.1 px (median).
JPEG_QUALITIES = (12, 25, 37, 50, 62, 69, 75, 81, 87)
JPEG_BYTES = 40_000  # a frame may have on average: the quality follows
JPEG_STEP = 1.3  # from one quality to the next, in bytes, at most
ADJUST_EVERY = 16  # frames
KEY_EVERY = 256  # changes, from one picture that is whole to the next
FIRST_CREDIT, MAX_CREDIT = 600_000, 4_000_000  # bytes over the average that changes may take, at first and ever
MAX_UNSENT = 64  # frames that wait to be sent before push() waits too
FIRST_CONNECT_S = 3.0  # how long a server that was never reached is tried
MAX_DELAY_S = 5.0
STEADY_S = 10.0  # a connection that lasted so long was a good one
MAX_INTERNAL = 3  # failures of the server itself that are borne
ACK_EVERY = 32  # points
TEMPORARY = {"busy", "draining", "rate_limited", "timeout", "internal"}


class FrameEncoder:
    """Pictures to payloads. A repeat costs nothing: it is sent as an empty payload, "the same picture again".

    Which pictures are repeats is seen before compression, whose noise would make many of them look new; then the
    windows would fall differently and points move by pixels. Raw pictures are always sent, so that all is exact.

    `delta` is exact too, until changes have taken more than JPEG_BYTES a frame (a moving camera, noise): then it is
    JPEG, until they are small again. Any noise moves one point in twenty by half a pixel, at all qualities.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec, self._repeats = codec, RepeatFilter()
        self._quality, self._count, self._bytes = len(JPEG_QUALITIES) - 1, 0, 0
        self._is_first_jpeg = True
        self._before: Image | None = None  # the last picture that was sent, and
        self._changes = 0  # how many came since one was sent whole
        self._credit, self._is_lossy = FIRST_CREDIT, False

    def encode(self, image: Image) -> bytes:
        """The payload of the next picture, which is copied: whoever owns `image` may use it again."""
        if self._codec == "raw":
            return image.tobytes()
        image = image.copy()
        self._count += 1
        if self._count % ADJUST_EVERY == 0:
            self._adjust()
        self._credit = min(self._credit + JPEG_BYTES, MAX_CREDIT)
        if not self._repeats.is_new(image):
            return b""
        if self._codec == "png":
            return encode_png(image)
        payload = self._delta(image) if self._codec == "delta" else self._jpeg(image)
        self._bytes += len(payload)
        return payload

    def _delta(self, image: Image) -> bytes:
        before, self._before = self._before, image
        if self._is_lossy and before is not None and self._count % ADJUST_EVERY == 0 and self._credit > FIRST_CREDIT:
            self._is_lossy = len(pack_change(image, before)) > JPEG_BYTES / JPEG_STEP
            self._changes = KEY_EVERY  # the server has no exact picture before
        if self._is_lossy:
            payload = self._jpeg(image)
        elif before is None or self._changes >= KEY_EVERY:
            payload, self._changes = encode_png(image), 0
        else:
            payload, self._changes = pack_change(image, before), self._changes + 1
        self._credit -= len(payload)
        self._is_lossy = self._is_lossy or self._credit < 0
        return payload

    def _jpeg(self, image: Image) -> bytes:
        payload = encode_jpeg(image, JPEG_QUALITIES[self._quality])
        while self._is_first_jpeg and len(payload) > JPEG_BYTES and self._quality:
            self._quality -= 1  # from the start, as a change later on is noise
            payload = encode_jpeg(image, JPEG_QUALITIES[self._quality])
        self._is_first_jpeg = False
        return payload

    def _adjust(self) -> None:
        per_frame, self._bytes = self._bytes / ADJUST_EVERY, 0
        if per_frame > JPEG_BYTES:
            self._quality = max(0, self._quality - 1)
        elif 0 < per_frame < JPEG_BYTES / JPEG_STEP:
            self._quality = min(len(JPEG_QUALITIES) - 1, self._quality + 1)


class AsyncSession:
    """A `Tracker` on a server. Use it as an async context manager; made by `AsyncClient.session`.

    Frames are numbered from 0 without gaps and have `transform.content_wh` and `colour`. A broken connection is
    resumed, and after a restart of the server a new session is fed again from the frames that are kept here: a few
    hundred, as many as the points to come depend on. No point is lost, doubled or changed by it. Raises EndpointError
    where nothing moves on for `deadline_s`, and for what trying again cannot mend.
    """

    def __init__(self, server: Server, start: Start, deadline_s: float) -> None:
        self._server, self._start, self._deadline_s = server, start, deadline_s
        self._encoder = FrameEncoder(start.codec)
        self._started: Started | None = None
        self._session: str | None = None
        self._spool: dict[int, tuple[float, bytes]] = {}  # frame -> pts_s, payload: what a new session may need
        self._chain: list[bytes] = []  # payloads before those, from the last whole picture on
        self._pushed = self._sent = self._next = 0  # frames pushed, frames sent, the frame that the server expects
        self._base = self._keep = 0  # the session's first frame; the first frame that a new one would need
        self._points = self._acked = 0  # frames whose points are here, and whose points the server may forget
        self._ready: list[BallPoint] = []
        self._ending = self._done = False
        self._error: BaseException | None = None
        self._changed = asyncio.Event()
        self._attempts = self._internal = 0
        self._failing_s: float | None = None  # since when nothing new has come

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        try:
            await self._until(lambda: self._started is not None)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    @property
    def transform(self) -> FrameTransform:
        assert self._started is not None
        wh = self._started.content_wh
        return FrameTransform(self._start.source_wh, wh, wh)  # the server pads

    @property
    def colour(self) -> Literal["grey", "rgb"]:
        assert self._started is not None
        return self._started.colour

    def encode(self, frame: Frame) -> bytes:
        """The payload for `put`. Raises ValueError for a frame of another size or shape."""
        w, h = self.transform.content_wh
        if frame.image.shape != ((h, w) if self.colour == "grey" else (h, w, 3)):
            raise ValueError(f"image must be {self.colour} of {(w, h)}, got an array of {frame.image.shape}")
        return self._encoder.encode(frame.image)

    async def push(self, frame: Frame) -> list[BallPoint]:
        """Gives the points that have come since; waits only while many frames wait to be sent."""
        return await self.put(frame, await asyncio.to_thread(self.encode, frame))

    async def put(self, frame: Frame, payload: bytes) -> list[BallPoint]:
        """`push` of a frame that is encoded already."""
        if frame.index != self._pushed or self._ending:
            raise ValueError(f"frame {frame.index} is pushed where {self._pushed} is due")
        await self._until(lambda: self._pushed - self._sent < MAX_UNSENT)
        self._spool[frame.index] = (frame.pts_s, payload)
        self._pushed += 1
        self._changed.set()
        return self._take()

    async def flush(self) -> list[BallPoint]:
        """The points of all frames that are left; the session is over then."""
        self._ending = True
        self._changed.set()
        await self._until(lambda: self._done)
        return self._take()

    async def receive(self) -> list[BallPoint]:
        """Waits for points, for who pushes from another task: empty after `flush`."""
        await self._until(lambda: bool(self._ready) or self._done)
        return self._take()

    def _take(self) -> list[BallPoint]:
        points, self._ready = self._ready, []
        return points

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()

    async def _work(self) -> None:
        """Connections, one after the other, until all is answered."""
        try:
            while not self._done:
                try:
                    await self._connection()
                except TryAgain as error:
                    await self._pause(error)
                except NoWebSocket as error:  # a proxy may say so for a server that is just restarting
                    if self._started is None:
                        raise
                    await self._pause(TryAgain(f"{self._server.url}: {error}"))
        except (EndpointError, ProtocolError) as error:
            self._error = error if isinstance(error, EndpointError) else EndpointError(f"{self._server.url}: {error}")
        except Exception as error:  # a fault of ours: whoever waits must hear of it
            self._error = error
        finally:
            self._changed.set()

    async def _connection(self) -> None:
        socket = await self._server.open_stream()
        began_s = time.monotonic()
        sender: asyncio.Task[None] | None = None
        try:
            await self._greet(socket)
            sender = asyncio.create_task(self._send(socket))
            async for message in socket:
                self._handle(self._understood(message))
                if self._done:
                    return
                if self._points - self._acked >= ACK_EVERY:
                    self._acked = self._points
                    await socket.send(Ack(max(0, self._acked - self._base)).to_json())
            raise TryAgain(f"{self._server.url} closed the connection")
        except (ConnectionClosed, OSError) as error:
            raise TryAgain(f"{self._server.url}: the connection broke ({error})") from None
        finally:
            if time.monotonic() - began_s > STEADY_S:
                self._attempts, self._failing_s = 0, None
            if sender is not None:
                sender.cancel()
                await asyncio.wait([sender])
            await socket.close()

    async def _greet(self, socket: ClientConnection) -> None:
        """Start a session, or resume it."""
        if self._session is None:
            self._base = self._sent = self._next = self._keep
            await socket.send(self._start.to_json())
        else:
            await socket.send(Resume(self._session, max(0, self._points - self._base)).to_json())
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            started = self._understood(await socket.recv())
        if not isinstance(started, Started):
            raise ProtocolError(f"the answer to the first message is {started.type!r}, expected 'started'")
        if self._started is not None and started.content_wh != self._started.content_wh:
            raise EndpointError(f"{self._server.url} has another network now, of another size: track once more")
        self._session, self._started = started.session, started
        self._sent = self._base + started.next
        self._next = max(self._next, self._sent)  # credit that was told to the broken connection is not told again
        self._changed.set()

    def _make_whole(self) -> None:
        """The first picture of a new session may not be a change of one that the server does not have."""
        pts_s, first = self._spool[self._base]
        if self._start.codec == "delta" and self._chain and (not first or is_change(first)):
            image = decode_jpeg(self._chain[0], self.colour)
            for payload in filter(None, [*self._chain[1:], first]):
                image = unpack_change(payload, image)
            self._spool[self._base] = (pts_s, encode_png(image))

    async def _send(self, socket: ClientConnection) -> None:
        assert self._started is not None
        with suppress(ConnectionClosed):  # the receiver notices too
            while True:
                while self._sent < min(self._pushed, self._next + self._started.window):
                    if self._sent == self._base:
                        self._make_whole()
                    pts_s, payload = self._spool[self._sent]
                    await socket.send(pack_frame(self._sent - self._base, pts_s, payload))
                    self._sent += 1
                    self._changed.set()
                if self._ending and self._sent == self._pushed:
                    await socket.send(End().to_json())
                    return
                self._changed.clear()
                await self._changed.wait()

    def _understood(self, message: str | bytes) -> ServerMessage:
        """Raises ProtocolError, and what an Error message stands for: TryAgain, EndpointError."""
        if isinstance(message, bytes):
            raise ProtocolError("a binary message, expected text")
        said = parse_server(message)
        if not isinstance(said, Error):
            return said
        text = f"{self._server.url}: {' '.join(said.message.split())}"
        if said.code == "unknown_session":
            self._session = None
            raise TryAgain(text)
        if said.code == "unauthorized":
            raise self._server.unauthorized()
        self._internal += said.code == "internal"
        if said.code in TEMPORARY and self._internal <= MAX_INTERNAL:
            raise TryAgain(text, said.retry_after_s)
        raise EndpointError(text)

    def _handle(self, message: ServerMessage) -> None:
        if isinstance(message, Done):
            if self._points != self._pushed or not self._ending:
                raise ProtocolError(f"done after {self._points} points of {self._pushed} frames")
            self._done = True
        elif isinstance(message, Points):
            before = self._points
            for point in message.to_points():
                frame = point.frame + self._base
                if frame > self._points:
                    raise ProtocolError(f"the point of frame {frame} came where {self._points} was due")
                if frame == self._points:  # others are here since before a resume
                    self._points += 1
                    self._ready.append(replace(point, frame=frame))
            if self._points > before or self._base + message.next > self._next:
                self._attempts, self._failing_s = 0, None
            self._next = max(self._next, self._base + message.next)
            keep = min(self._base + message.keep, self._points)
            for frame in range(self._keep, keep):
                payload = self._spool.pop(frame)[1]
                if self._start.codec == "delta" and is_change(payload):
                    self._chain.append(payload)
                elif payload:
                    self._chain = [payload]
            self._keep = max(self._keep, keep)
        self._changed.set()

    async def _pause(self, error: TryAgain) -> None:
        """Raises EndpointError where the patience is over."""
        now_s = time.monotonic()
        self._failing_s = self._failing_s or now_s
        is_first = self._started is None and error.after_s is None
        patience_s = min(FIRST_CONNECT_S, self._deadline_s) if is_first else self._deadline_s
        delay_s = max(error.after_s or 0, min(MAX_DELAY_S, 0.1 * 2**self._attempts) * random.uniform(0.5, 1))
        if now_s + delay_s > self._failing_s + patience_s:
            advice = f": try again in {error.after_s:g} s" if error.after_s else ""
            raise EndpointError(f"{error}{advice}")
        self._attempts = min(self._attempts + 1, 10)
        await asyncio.sleep(delay_s)
