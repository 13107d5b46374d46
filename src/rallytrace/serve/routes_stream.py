"""WS /v1/stream: frames in, points out, one session per connection at a time. Messages: see `protocol`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from fastapi import APIRouter
from fastapi.responses import Response
from fastapi.websockets import WebSocket, WebSocketDisconnect

from rallytrace.errors import RallytraceError
from rallytrace.serve import protocol
from rallytrace.serve.app import Services
from rallytrace.serve.protocol import Ack, Done, End, Error, ProtocolError, Resume, Start
from rallytrace.serve.security import ApiError, ApiKey, log_access
from rallytrace.serve.sessions import WINDOW, Session, UnknownSession

router = APIRouter()
HELLO_S = 10.0  # until the first message
SEND_S = 30.0  # for one message to leave
GOODBYE_S = 10.0  # for the client to close after "done"
CLOSE_CODES = {
    "too_large": protocol.CLOSE_TOO_BIG,
    "internal": protocol.CLOSE_INTERNAL,
    "busy": protocol.CLOSE_TRY_AGAIN,
    "rate_limited": protocol.CLOSE_TRY_AGAIN,
    "loading": protocol.CLOSE_TRY_AGAIN,
    "hung": protocol.CLOSE_RESTART,
    "draining": protocol.CLOSE_RESTART,
    "unknown_session": protocol.CLOSE_UNKNOWN_SESSION,
    "timeout": protocol.CLOSE_GOING_AWAY,
    "displaced": protocol.CLOSE_GOING_AWAY,
}


@router.websocket("/v1/stream")
@router.websocket("/invocations-bidirectional-stream")  # the path of SageMaker's hosting contract
async def stream(websocket: WebSocket) -> None:
    """One connection from handshake to close."""
    services: Services = websocket.app.state.services
    try:
        key = _admit_early(websocket, services)
    except RallytraceError as refusal:
        error = ApiError.of(refusal)
        known = websocket.scope["state"].get("key_id")
        log_access(websocket.scope, status=error.status, ms=0, frames=0, key=known)
        with suppress(RuntimeError, WebSocketDisconnect):
            await websocket.send_denial_response(Response(error.body, error.status, error.headers))
        return
    await websocket.accept()
    services.connections += 1
    try:
        await _Connection(websocket, services, key).run()
    finally:
        services.connections -= 1


def _admit_early(websocket: WebSocket, services: Services) -> ApiKey | None:
    """By the headers; None where there is no key in them, and the first message must hold it. Raises ApiError."""
    services.refuse_when_draining()
    services.engine.batcher.check_room()
    if services.gate.has_key(websocket.headers):
        return _admit(websocket, services, None)
    services.gate.check_origin(websocket.headers)
    return None


def _admit(websocket: WebSocket, services: Services, key_text: str | None) -> ApiKey:
    """Raises ApiError; the log then knows the key."""
    key = services.gate.identify(websocket.headers, key_text)
    websocket.scope["state"]["key_id"] = key.id
    services.gate.allow(key, "stream")
    return key


class _Left(Exception):
    """The client closed, with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Connection:
    def __init__(self, websocket: WebSocket, services: Services, key: ApiKey | None) -> None:
        self._socket, self._services, self._key = websocket, services, key
        self._displaced = False
        self._session: Session | None = None
        self._max_bytes = services.options.max_frame_bytes

    async def run(self) -> None:
        code, began = 1000, time.monotonic()
        try:
            self._session = session = await self._open()
            session.on_displaced = self._displace
            await self._send(session.started)
            code = await self._exchange(session)
        except _Left as left:
            code = left.code
        except Exception as error:
            code = await self._fail(error)
        finally:
            if self._session is not None and not self._displaced:
                self._leave(self._session, code)
        frames = self._session.tracked if self._session else 0
        key = self._socket.scope["state"].get("key_id")
        log_access(self._socket.scope, status=code, ms=round((time.monotonic() - began) * 1000), frames=frames, key=key)

    def _leave(self, session: Session, code: int) -> None:
        """A client that closes in order, or breaks the rules, needs its session no more; others may come back."""
        if code in (1000, protocol.CLOSE_POLICY, protocol.CLOSE_TOO_BIG, protocol.CLOSE_INTERNAL):
            self._services.sessions.remove(session)
        else:
            self._services.sessions.detach(session)

    async def _open(self) -> Session:
        """By the first message. Raises whatever is wrong with it."""
        text = (await self._receive(HELLO_S)).get("text")
        message = protocol.parse_client(str(text or ""))
        if not isinstance(message, Start | Resume):
            raise ProtocolError("the first message must be start or resume")
        if self._key is None:
            self._key = _admit(self._socket, self._services, message.key or "")
        self._services.refuse_when_draining()
        if isinstance(message, Start):
            return self._services.sessions.open(message, self._key.id)
        return self._services.sessions.resume(message.session, self._key.id, message.points)

    async def _exchange(self, session: Session) -> int:
        """Frames in and points out at the same time. Returns the code of the close."""
        reader, writer = asyncio.create_task(self._read(session)), asyncio.create_task(self._write(session))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and writer.exception() is None:
                await asyncio.wait({reader}, timeout=GOODBYE_S)
            for task in (reader, writer):
                if task.done():
                    task.result()  # raises what ended it
            with suppress(RuntimeError, WebSocketDisconnect):  # it left without a word
                await self._socket.close(1000)
            return protocol.CLOSE_GOING_AWAY  # nobody said that "done" arrived
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, session: Session) -> None:
        until = session.opened_at + self._services.options.max_session_s
        while not self._services.draining:  # then what was received is finished, and no more is taken
            was_idle = session.is_idle and not session.done
            try:
                message = await self._receive(self._services.options.idle_s)
            except ApiError:
                if was_idle and session.is_idle:
                    raise
                continue  # it is the client who waits; the pings tell whether it is still there
            if time.monotonic() > until:
                raise ApiError(400, "too_large", "the session lasted too long: begin a new one")
            if isinstance(data := message.get("bytes"), bytes):
                await session.feed(protocol.unpack_frame(data, max_bytes=self._max_bytes))
            else:
                self._obey(session, str(message["text"]))
        ends = time.monotonic() + self._services.options.drain_s
        while (left_s := ends - time.monotonic()) > 0:  # frames are dropped, but a client that leaves is heard
            with suppress(ApiError):
                await self._receive(left_s)
        self._services.refuse_when_draining()

    def _obey(self, session: Session, text: str) -> None:
        message = protocol.parse_client(text)
        if isinstance(message, Ack):
            session.ack(message.points)
        elif isinstance(message, End):
            session.end()
        else:
            raise ProtocolError(f"{message.type!r} inside of a session")

    async def _write(self, session: Session) -> None:
        told = session.tracked
        while True:
            session.changed.clear()
            if self._displaced:
                raise ApiError(409, "displaced", "another connection took this session over")
            points = session.take()
            if points.points or points.next - told >= WINDOW // 4:
                await self._send(points)
                told = points.next
                continue
            if session.done:
                await self._send(Done(session.tracked))
                return
            if session.is_idle:
                self._services.refuse_when_draining()
            await session.changed.wait()

    def _displace(self) -> None:
        self._displaced = True
        if self._session is not None:
            self._session.changed.set()

    async def _receive(self, timeout_s: float) -> dict[str, str | bytes]:
        try:
            async with asyncio.timeout(timeout_s):  # wait_for of Python 3.11 may swallow a cancellation
                message = await self._socket.receive()
        except TimeoutError:
            raise ApiError(408, "timeout", f"nothing came for {timeout_s:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise _Left(message.get("code") or 1006)
        return dict(message)

    async def _send(self, message: protocol.ServerMessage) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._socket.send_text(message.to_json())
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            raise _Left(1006) from None

    async def _fail(self, error: Exception) -> int:
        """Tell the client why, and close. Returns the code."""
        known = ApiError.of(error)
        if isinstance(error, UnknownSession):
            known = ApiError(404, "unknown_session", str(error))
        if known.code == "internal":
            self._services.log.error("a stream failed", exc_info=error)
        code = CLOSE_CODES.get(known.code, protocol.CLOSE_POLICY)
        with suppress(_Left, RuntimeError, WebSocketDisconnect):
            await self._send(Error(known.code, str(known), known.retry_after_s))
            await self._socket.close(code)
        return code
