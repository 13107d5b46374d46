"""The door of every server: half-open connections, slow readers, one address with many, with and without TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rallytrace.errors import InputError
from rallytrace.web.connections import ConnectionLimits
from rallytrace.web.names import Names, Proxies
from rallytrace.web.server import server_config
from rallytrace.web.tls import self_signed, tls_context

LARGE = b"0123456789abcdef" * (1 << 19)  # 8 MiB


async def _who(request: Request) -> Response:
    assert request.client
    return PlainTextResponse(f"{request.client.host} {request.url.scheme}")


async def _large(_: Request) -> Response:
    return Response(LARGE)


async def _take(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


APP = Starlette(
    routes=[Route("/who", _who), Route("/large", _large), Route("/take", _take, methods=["POST"])],
)
Start = Callable[..., int]


@contextmanager
def _running(tls: ssl.SSLContext | None = None, proxies: Proxies | None = None, **limits: Any) -> Iterator[int]:
    config = server_config(APP, limits=ConnectionLimits(**limits), tls=tls, proxies=proxies, port=0, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


@pytest.fixture
def start() -> Iterator[Start]:
    """start(**what `_running` takes): the port of a server."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(_running(**options))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"), [])


def _connect(port: int, *, cert: Path | None = None, small: bool = False) -> socket.socket:
    found = socket.socket()
    if small:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    found.settimeout(20)
    found.connect(("127.0.0.1", port))
    if cert is None:
        return found
    context = ssl.create_default_context(cafile=str(cert))
    return context.wrap_socket(found, server_hostname="127.0.0.1")


def _ask(port: int, head: str = "", *, cert: Path | None = None) -> str:
    with _connect(port, cert=cert) as connection:
        connection.sendall(f"GET /who HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n".encode())
        return _read(connection).decode()


def _read(connection: socket.socket, pause_s: float = 0.0) -> bytes:
    """All that comes, with a pause after each MiB; what came so far where the connection is cut."""
    data = bytearray()
    with suppress(OSError):
        while part := connection.recv(1 << 16):
            if len(data) >> 20 != (len(data) + len(part)) >> 20:
                time.sleep(pause_s)
            data += part
    return bytes(data)


def _answer(connection: socket.socket, head: bytes = b"") -> bytes:
    """The body of one answer on a connection that stays open."""
    connection.sendall(b"GET /who HTTP/1.1\r\nhost: localhost\r\n" + head + b"\r\n")
    data = b""
    while not data.partition(b"\r\n\r\n")[2]:
        data += connection.recv(1000)
    return data.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nx:"])
def test_half_open_heads_do_not_keep_newcomers_out(start: Start, begun: bytes) -> None:
    port = start(connections=8, waiting=6, per_address=8)
    opened = [_connect(port) for _ in range(30)]
    for connection in opened:
        with suppress(OSError):
            connection.sendall(begun)
    assert _ask(port).startswith("HTTP/1.1 200")
    for connection in opened:
        connection.close()


def test_half_open_handshakes_do_not_keep_newcomers_out(start: Start, pair: tuple[Path, Path]) -> None:
    port = start(tls=tls_context(*pair), connections=8, waiting=6, per_address=8)
    opened = [_connect(port) for _ in range(30)]
    answer = _ask(port, cert=pair[0])
    assert answer.startswith("HTTP/1.1 200")
    assert answer.endswith("127.0.0.1 https")
    for connection in opened:
        connection.close()


def test_a_handshake_that_does_not_end_is_given_up(start: Start, pair: tuple[Path, Path]) -> None:
    port = start(tls=tls_context(*pair), head_s=0.3)
    with _connect(port) as silent:
        assert _read(silent) == b""  # closed by the server: a read without an end would time out
    assert _ask(port, cert=pair[0]).startswith("HTTP/1.1 200")


def test_one_address_has_so_many_connections_and_no_more(start: Start) -> None:
    port = start(connections=50, waiting=20, per_address=4)
    busy = []
    for _ in range(4):
        busy.append(_connect(port))
        busy[-1].sendall(b"POST /take HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx")
        time.sleep(0.05)
    assert _ask(port).startswith("HTTP/1.1 503")
    busy.pop().close()
    time.sleep(0.1)
    assert _ask(port).startswith("HTTP/1.1 200")
    for connection in busy:  # who worked was not disturbed
        connection.sendall(b"y" * 8)
        assert b"200 OK" in connection.recv(1000)
        connection.close()


def test_a_named_proxy_may_have_as_many_as_it_likes(start: Start) -> None:
    port = start(proxies=Proxies(["127.0.0.0/8"]), per_address=1, connections=30, waiting=20)
    opened = [_connect(port) for _ in range(9)]
    for connection in opened:
        assert _answer(connection, b"x-forwarded-for: 10.9.8.7\r\n") == b"10.9.8.7 http"
    for connection in opened:
        connection.close()


@pytest.mark.parametrize("close", ["", "connection: close\r\n"])
@pytest.mark.parametrize("secure", [False, True])
def test_a_slow_download_is_not_cut(start: Start, pair: tuple[Path, Path], secure: bool, close: str) -> None:
    """It takes some times as long as a head may take, and is longer than what the sockets hold."""
    tls = tls_context(*pair) if secure else None
    port = start(tls=tls, head_s=0.2)
    with _connect(port, cert=pair[0] if secure else None, small=True) as connection:
        connection.sendall(f"GET /large HTTP/1.1\r\nhost: localhost\r\n{close}\r\n".encode())
        data = _read(connection, pause_s=0.15)
    assert len(data.partition(b"\r\n\r\n")[2]) == len(LARGE)


def test_who_reads_nothing_is_left(start: Start) -> None:
    port = start(stall_s=0.3)
    with _connect(port, small=True) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        time.sleep(0.8)
        assert len(_read(connection)) < len(LARGE)


def test_a_body_that_stands_still_is_given_up(start: Start) -> None:
    port = start(stall_s=0.3)
    with _connect(port) as connection:
        connection.sendall(b"POST /take HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx")
        assert _read(connection) == b""


def test_two_requests_on_one_connection(start: Start, pair: tuple[Path, Path]) -> None:
    port = start(tls=tls_context(*pair))
    with _connect(port, cert=pair[0]) as connection:
        for _ in range(2):
            assert _answer(connection) == b"127.0.0.1 https"


def test_only_named_proxies_speak_for_others(start: Start) -> None:
    said = "x-forwarded-for: 10.9.8.7\r\nx-forwarded-proto: https\r\n"
    assert _ask(start(), said).endswith("127.0.0.1 http")
    assert _ask(start(proxies=Proxies(["10.0.0.0/8"])), said).endswith("127.0.0.1 http")
    named = start(proxies=Proxies(["127.0.0.1"]))
    assert _ask(named, said).endswith("10.9.8.7 https")
    assert _ask(named, "x-forwarded-for: 1.2.3.4, 10.9.8.7\r\n").endswith(
        "10.9.8.7 http"
    )  # the last hop is what is known


@pytest.mark.parametrize("text", ["example.org", "10.0.0.0/40", "10.0.0.1/8", "", "*"])
def test_what_is_no_proxy(text: str) -> None:
    with pytest.raises(InputError, match="--proxy"):
        Proxies([text])


@pytest.mark.parametrize(
    "url", ["example.org", "ftp://x", "https://", "https://x/path", "https://x:99999", "https://u@x"]
)
def test_what_is_no_public_url(url: str) -> None:
    with pytest.raises(InputError, match="--public-url"):
        Names(url, local_only=True)


def test_names_behind_a_proxy() -> None:
    names = Names("https://Ball.Example:443/", local_only=True)
    assert names.is_secure
    page = "https://ball.example"
    for host in ("ball.example", "127.0.0.1:8080", "localhost", "[::1]:8080"):  # as the proxy passes it on, or not
        assert names.wrong_host({"host": host}) is None
        assert names.wrong_origin({"host": host, "origin": page}) is None
        assert names.wrong_origin({"host": host, "origin": "https://evil.example"}) == "https://evil.example"
    assert names.wrong_origin({"host": "ball.example", "origin": "null"}) == "null"
    assert names.wrong_host({"host": "evil.example:8080"}) == "evil.example"
    assert Names(local_only=False).wrong_host({"host": "any.example"}) is None


def test_a_damaged_certificate_is_made_anew(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path, [])
    for broken in (cert, key):
        broken.write_text("no more")
        assert self_signed(tmp_path, []) == (cert, key)
        tls_context(cert, key)
