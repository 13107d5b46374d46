"""How the client reaches a server: address, key, certificate, and in one line what is wrong with them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx
import websockets
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidProxy, InvalidStatus

from rallytrace.errors import EndpointError, InputError
from rallytrace.serve.protocol import MAX_SERVER_TEXT

OPEN_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0  # of a request; what managed endpoints allow


class TryAgain(Exception):
    """What went wrong may be over soon. after_s: when the server says that it will be."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class NoWebSocket(Exception):
    """Something on the way answers, but lets no WebSocket through."""


@dataclass(frozen=True)
class Server:
    """One server. url: http(s)://host[:port][/prefix]. fingerprint: SHA-256 of its certificate, in hex.

    A pinned certificate is accepted if it is exactly that one, whatever its issuer, host name and dates; it is checked
    before anything is sent. insecure: accept any certificate. Raises InputError for a malformed url or fingerprint.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    fingerprint: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"endpoint {self.url!r}: expected a URL such as https://host:8080")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if self.fingerprint is not None:
            pin = re.sub(r"^sha-?256:|[:\s]", "", self.fingerprint.lower())
            if not re.fullmatch("[0-9a-f]{64}", pin):
                raise InputError(f"fingerprint {self.fingerprint!r}: expected the 64 hex digits of a SHA-256")
            object.__setattr__(self, "fingerprint", pin)

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        if not self.url.startswith("https:"):
            return None
        context = ssl.create_default_context()
        if self.insecure or self.fingerprint:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.fingerprint:
            context.sslobject_class = _pinned(self.fingerprint)
        return context

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    async def open_stream(self) -> websockets.ClientConnection:
        """A WebSocket to /v1/stream. Raises TryAgain, NoWebSocket, EndpointError."""
        try:
            return await websockets.connect(
                f"ws{self.url.removeprefix('http')}/v1/stream",
                ssl=self._tls,
                additional_headers=self._headers,
                compression=None,  # pictures are compressed already
                max_size=MAX_SERVER_TEXT,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=2,
            )
        except InvalidStatus as error:
            body = bytes(error.response.body or b"")
            raise self.refusal(error.response.status_code, error.response.headers, body) from None
        except (OSError, EOFError, InvalidMessage) as error:
            raise await self._unreachable(error) from None
        except (InvalidHandshake, InvalidProxy) as error:
            raise NoWebSocket(str(error)) from None

    async def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that the server answers, None for no body. Raises TryAgain, EndpointError."""
        try:
            async with self._exchange(method, path, **options) as answer:
                body = await answer.aread()
                return json.loads(body) if body else None
        except ValueError:
            raise EndpointError(f"{self.url}{path} gives no answer of a rallytrace server (not JSON)") from None

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """The bytes that the server answers. Raises TryAgain, EndpointError."""
        async with self._exchange("GET", path) as answer:
            async for chunk in answer.aiter_bytes():
                yield chunk

    @asynccontextmanager
    async def _exchange(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        try:
            http = httpx.AsyncClient(verify=self._tls or False, headers=self._headers, timeout=ANSWER_TIMEOUT_S)
            async with http, http.stream(method, self.url + path, **options) as answer:
                if answer.status_code not in (200, 202, 204):
                    raise self.refusal(answer.status_code, answer.headers, await answer.aread())
                yield answer
        except NoWebSocket as error:
            raise EndpointError(f"{self.url}{path} gives no answer of a rallytrace server ({error})") from None
        except httpx.HTTPError as error:
            raise await self._unreachable(_os_error(error)) from None

    def unauthorized(self) -> EndpointError:
        """The key is wrong, or missing."""
        advice = "this API key is not accepted" if self.api_key else "an API key is needed"
        return EndpointError(f"{self.url}: {advice}: pass --api-key, or set RALLYTRACE_API_KEY")

    def refusal(self, status: int, headers: Any, body: bytes | None) -> Exception:
        """What an HTTP status other than the expected one means."""
        typed = _typed_message(body)
        said = f": {typed}" if typed else ""
        if status == 401:
            return self.unauthorized()
        if status in (408, 425, 429, 500, 502, 503, 504):
            after = headers.get("Retry-After", "")
            after_s = float(after) if re.fullmatch(r"\d{1,6}(\.\d+)?", after) else None
            return TryAgain(f"{self.url} is busy (HTTP {status}{said})", after_s)
        if typed and status != 404:
            return EndpointError(f"{self.url} refuses (HTTP {status}){said}")
        return NoWebSocket(f"HTTP {status}{said}")

    async def _unreachable(self, error: BaseException) -> Exception:
        reason = getattr(error, "reason", None)
        if isinstance(error, ssl.SSLCertVerificationError):
            return EndpointError(await self._distrust(error))
        if isinstance(error, ssl.SSLError) and reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return EndpointError(f"{self.url} speaks no TLS: check the port, or use http://")
        if isinstance(error, TimeoutError):
            return TryAgain(f"{self.url} gives no answer")
        if isinstance(error, ConnectionRefusedError):
            return TryAgain(f"{self.url} refuses the connection: check the address and that `rallytrace serve` runs")
        return TryAgain(f"{self.url} cannot be reached ({getattr(error, 'strerror', None) or error or 'closed'})")

    async def _distrust(self, error: ssl.SSLCertVerificationError) -> str:
        parts = urlsplit(self.url)
        try:
            pem = await asyncio.to_thread(
                ssl.get_server_certificate, (parts.hostname or "", parts.port or 443), timeout=OPEN_TIMEOUT_S
            )
        except OSError:  # behind a proxy it cannot be fetched like this
            return f"{self.url}: its certificate is not trusted ({_reason(error)})"
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        if self.fingerprint:
            return f"{self.url} shows a certificate with the fingerprint {found}, expected {self.fingerprint}"
        return (
            f"{self.url}: its certificate is not trusted ({_reason(error)}); "
            f"if its owner says that its fingerprint is this, use --fingerprint {found}"
        )


def _pinned(fingerprint: str) -> type[ssl.SSLObject]:
    """The check is part of the handshake, so that an impostor gets neither key nor frames."""

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            if hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest() != fingerprint:
                raise ssl.SSLCertVerificationError(1, "fingerprint differs")

    return Pinned


def _reason(error: ssl.SSLCertVerificationError) -> str:
    return getattr(error, "verify_message", "") or str(error)


def _os_error(error: BaseException) -> BaseException:
    """What lies under an error of httpx."""
    if isinstance(error, httpx.TimeoutException):
        return TimeoutError()
    deepest, cause = error, error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        deepest = cause if isinstance(cause, OSError) else deepest
        cause = cause.__cause__ or cause.__context__
    return deepest


def _typed_message(body: bytes | None) -> str | None:
    """The message of a rallytrace server's JSON error."""
    try:
        error = json.loads(body or b"")["error"]
        return " ".join(str(error["message"]).split())[:500]
    except (ValueError, TypeError, KeyError):
        return None
