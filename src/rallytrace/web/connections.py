"""Who may hold a connection, how many of them, and for how long: the same for every server.

A connection waits (for its TLS handshake, for the head of a request) or works. Waiting ones are cheap to lose: when
there is no room, the longest waiting one of the address that has the most of them goes, and the newcomer stays.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from rallytrace.web.names import Proxies

SWEEP_S = 1.0  # how often all connections are looked at
NEVER_S = 1e9
FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """connections: of all callers. per_address: of one IPv4 address or IPv6 /64, named proxies excepted. waiting: of
    those, how many may wait for a head or handshake. head_s: for a handshake and head to come in. stall_s: in which a
    body that is sent or received must move on.
    """

    connections: int = 512
    per_address: int = 64
    waiting: int = 256
    head_s: float = 20.0
    stall_s: float = 60.0


class Connection:
    """One TCP connection as the door keeps it. `http` is there once bytes of HTTP may come."""

    def __init__(self, transport: asyncio.Transport, address: str, now: float) -> None:
        self.transport = transport
        self.address = address
        self.waits = True
        self.since = now  # when it began to wait, or when bytes last moved
        self.http: HttpProtocol | None = None
        self._unsent = 0

    @property
    def is_gone(self) -> bool:
        """Whether its socket is closed."""
        return bool(self.transport.get_extra_info("socket").fileno() == -1)

    @property
    def unsent(self) -> int:
        """Bytes that were written and not taken by the network yet."""
        size = self.transport.get_write_buffer_size()
        if self.http is not None and self.http.transport is not self.transport:
            size += self.http.transport.get_write_buffer_size()
        return size

    def look(self, now: float, limits: ConnectionLimits) -> bool:
        """Whether it may stay."""
        unsent = self.unsent
        if unsent != self._unsent:
            self.since = now
        self._unsent = unsent
        if unsent:
            return now - self.since <= limits.stall_s
        if self.waits:
            return now - self.since <= limits.head_s
        reads = self.http is not None and self.http.reads_body
        return not reads or now - self.since <= limits.stall_s


class Door:
    """All connections of one server. proxies: who may have as many as they like."""

    def __init__(self, limits: ConnectionLimits, proxies: Proxies | None = None) -> None:
        self.limits = limits
        self._proxies = proxies or Proxies(())
        self._all: dict[Connection, None] = {}  # the oldest first
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, transport: asyncio.Transport) -> Connection | None:
        """The connection, or None where there is no room: then it has been told so, and closed."""
        loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername")
        host = peer[0] if isinstance(peer, tuple) else ""
        if not self._make_room(host):
            if transport.get_extra_info("sslcontext") is None:
                transport.write(FULL)
            transport.close()
            return None
        found = Connection(transport, place_of(host), loop.time())
        self._all[found] = None
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self._sweep_s, self._sweep)
        return found

    def leave(self, connection: Connection) -> None:
        """It is closed; may be said twice."""
        self._all.pop(connection, None)

    def end(self, connection: Connection) -> None:
        """Close it at once."""
        self.leave(connection)
        connection.transport.abort()

    def _make_room(self, host: str) -> bool:
        self._forget_gone()
        limits = self.limits
        place = place_of(host)
        own = [each for each in self._all if each.address == place]
        if len(own) >= limits.per_address and host not in self._proxies:
            return self._end_one_of(own)
        waiting = [each for each in self._all if each.waits]
        if len(waiting) >= limits.waiting or len(self._all) >= limits.connections:
            return self._end_one_of(waiting)
        return True

    def _end_one_of(self, some: Sequence[Connection]) -> bool:
        """Ends the longest waiting one of the address that has most waiting ones; False where none waits."""
        waiting = [each for each in some if each.waits]
        if not waiting:
            return False
        ((busiest, _),) = Counter(each.address for each in waiting).most_common(1)
        self.end(min((each for each in waiting if each.address == busiest), key=lambda each: each.since))
        return True

    def _forget_gone(self) -> None:
        for each in [each for each in self._all if each.is_gone]:
            self.leave(each)

    @property
    def _sweep_s(self) -> float:
        return min(SWEEP_S, self.limits.head_s / 4, self.limits.stall_s / 4)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._forget_gone()
        for each in [each for each in self._all if not each.look(loop.time(), self.limits)]:
            self.end(each)
        self._sweeping = bool(self._all)
        if self._sweeping:
            loop.call_later(self._sweep_s, self._sweep)


def place_of(host: str) -> str:
    """Whom an address counts as: an IPv6 user has a whole /64."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which tells the door whether it waits or works. bad_request: the body of its 400."""

    door: Door
    bad_request: Callable[[str], bytes] | None = None
    entry: Connection | None = None

    @property
    def reads_body(self) -> bool:
        """Whether the application waits for the rest of a request's body."""
        cycle = self.cycle
        return cycle is not None and cycle.more_body and not cycle.response_complete and not self.flow.read_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.entry is None:
            self.entry = self.door.enter(transport)
        if self.entry is not None:
            self.entry.http = self

    def data_received(self, data: bytes) -> None:
        if self.entry is None or self.transport.is_closing():
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or self.transport.get_protocol() is not self:
            self.entry.waits = False
        if not self.entry.waits:
            self.entry.since = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.entry is not None and self.cycle.response_complete and not self.transport.is_closing():
            self.entry.waits = True
            self.entry.since = self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        """The pause between two requests is over, unless the answer to the first is still on its way."""
        if self.entry is not None and self.entry.unsent and not self.transport.is_closing():
            handler = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, handler)
            return
        super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.entry is not None:
            self.door.leave(self.entry)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.bad_request is None:
            super().send_400_response(msg)
            return
        body = self.bad_request(msg)
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


class TlsFront(asyncio.Protocol):
    """Lets a connection in before its TLS handshake, so that half a handshake is counted and bounded as well.

    http: makes the protocol that takes over behind the handshake.
    """

    def __init__(self, door: Door, context: ssl.SSLContext, http: Callable[[], HttpProtocol]) -> None:
        self._door = door
        self._context = context
        self._http = http
        self._early = bytearray()  # came with the end of the handshake
        self._entry: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._entry = self._door.enter(transport)
        if self._entry is not None:
            transport.pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._secure(transport, self._entry))

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self._entry is not None:
            self._door.leave(self._entry)

    async def _secure(self, transport: asyncio.Transport, entry: Connection) -> None:
        loop = asyncio.get_running_loop()
        try:
            secure = await loop.start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._door.limits.head_s,
                ssl_shutdown_timeout=NEVER_S,  # the door ends what does not move
            )
        except (OSError, asyncio.IncompleteReadError):  # of TLS too
            self._door.end(entry)
            return
        if secure is None or secure.is_closing():
            self._door.end(entry)
            return
        http = self._http()
        http.entry = entry
        secure.set_protocol(http)
        http.connection_made(secure)
        if self._early:
            http.data_received(bytes(self._early))
            self._early.clear()


def protocol_factory(
    door: Door, context: ssl.SSLContext | None, bad_request: Callable[[str], bytes] | None = None
) -> Callable[..., asyncio.Protocol]:
    """What `uvicorn.Config(http=)` takes. context: of TLS, which uvicorn itself is then not told of."""
    kind = type(
        "Http", (HttpProtocol,), {"door": door, "bad_request": staticmethod(bad_request) if bad_request else None}
    )

    def make(**arguments: Any) -> asyncio.Protocol:
        if context is None:
            return kind(**arguments)  # type: ignore[no-any-return]
        return TlsFront(door, context, lambda: kind(**arguments))

    return make
