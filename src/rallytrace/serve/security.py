"""Who may do what, and how much: typed errors, API keys, rate limits, and the guard around every request."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rallytrace.errors import EndpointError, InputError, MissingDependency, ModelError, RallytraceError, VideoError
from rallytrace.files import AtomicFile, make_folder
from rallytrace.serve.engine import Busy, Cancelled, Hung, Metrics, NotReady
from rallytrace.web.names import LOCAL_NAMES, Names

log, access = logging.getLogger("rallytrace.serve"), logging.getLogger("rallytrace.access")
SCOPES = ("track", "stream", "metrics", "admin")
MIN_BODY_BYTES_S = 10_000  # a body that comes in slower is given up
DISCARD_S = 1.0
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'",
    "cache-control": "no-store",
}


class ApiError(RallytraceError):
    """What a caller gets: an HTTP status, a code for programs and one line for people."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s

    @classmethod
    def of(cls, error: BaseException) -> ApiError:
        """Any exception as a caller may see it. What is nobody's fault but ours says nothing of the inside."""
        if isinstance(error, cls):
            return error
        if isinstance(error, Busy):
            status, code = (503, "loading") if isinstance(error, NotReady) else (429, "busy")
            return cls(status, code, str(error), error.retry_after_s)
        if isinstance(error, Hung):
            return cls(503, "hung", str(error), 5)
        if isinstance(error, Cancelled):
            return cls(503, "timeout", str(error), 1)
        kinds = (
            (ModelError, 404, "unknown_model"),
            (VideoError, 400, "bad_frame"),
            (InputError, 400, "bad_request"),
            (EndpointError, 502, "store"),  # that a request names
            (MissingDependency, 501, "not_installed"),
        )
        for kind, status, code in kinds:
            if isinstance(error, kind):
                return cls(status, code, " ".join(str(error).split()))
        return cls(500, "internal", "the server failed; its log says why")

    @property
    def body(self) -> bytes:
        message = str(self)  # twice: AWS clients look for it at the top
        return json.dumps({"error": {"code": self.code, "message": message}, "message": message}).encode()

    @property
    def headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: the secret itself is shown once, when it is made. rate: requests per second, 0 unlimited."""

    id: str
    sha256: str
    scopes: tuple[str, ...]
    rate: float
    created: str
    note: str = ""


ANYONE = ApiKey("anyone", "", SCOPES, 0, "")


class KeyFile:
    """API keys in a JSON file of mode 0600; read again when it changes, so that a revoked key ends at once.

    A secret is 256 random bits, so that one round of SHA-256 keeps it as safe as a slow hash would.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._lock = threading.Lock()

    @property
    def keys(self) -> list[ApiKey]:
        """Raises InputError for a file that cannot be read or is not one of keys."""
        with self._lock:
            self._refresh()
            return list(self._keys.values())

    def add(self, scopes: Iterable[str], *, rate: float = 50, note: str = "") -> str:
        """A new key's secret, `rt_<id>_<secret>`. Raises InputError for an unknown scope, OutputError."""
        scopes = tuple(scopes)
        if not scopes or any(scope not in SCOPES for scope in scopes):
            raise InputError(f"scopes {', '.join(scopes) or '(none)'}: expected some of {', '.join(SCOPES)}")
        name, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._write([*self.keys, ApiKey(name, _digest(secret), scopes, rate, now, note)])
        return f"rt_{name}_{secret}"

    def revoke(self, name: str) -> None:
        """Raises InputError where no key has that id."""
        keys = self.keys
        if name not in [key.id for key in keys]:
            raise InputError(f"no key {name!r} in {self.path}: see `rallytrace keys list`")
        self._write([key for key in keys if key.id != name])

    def check(self, text: str) -> ApiKey | None:
        """The key that `text` is, or None."""
        found = re.fullmatch(r"rt_([0-9a-f]{8})_([\w-]{43})", text, re.ASCII)
        key = {key.id: key for key in self.keys}.get(found[1]) if found else None
        return key if key and found and hmac.compare_digest(key.sha256, _digest(found[2])) else None

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                rows = json.loads(self.path.read_text("utf-8"))["keys"]
                self._keys = {key.id: key for key in map(_key_of, rows)}
                self._stamp = stamp
        except FileNotFoundError:
            self._keys = {}
            self._stamp = None
        except PermissionError:
            raise InputError(
                f"{self.path} cannot be read by user {os.getuid()}: give it the file, or run as the file's owner"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is not a file of API keys ({error}): make one with `rallytrace keys add`"
            ) from None

    def _write(self, keys: list[ApiKey]) -> None:
        make_folder(self.path.parent)
        with (atomic := AtomicFile(self.path)) as file:
            os.chmod(atomic.partial, 0o600)
            json.dump({"keys": [asdict(key) for key in keys]}, file, indent=1)


def _key_of(row: dict[str, Any]) -> ApiKey:
    """Raises ValueError, KeyError or TypeError for what is no key."""
    key = ApiKey(**{**row, "scopes": tuple(row["scopes"])})
    texts = (key.id, key.sha256, key.created, key.note, *key.scopes)
    if not all(isinstance(text, str) for text in texts) or isinstance(row["scopes"], str):
        raise ValueError(f"a key of {repr(row)[:80]}")
    if type(key.rate) not in (int, float) or not 0 <= key.rate < float("inf"):
        raise ValueError(f"a key with the rate {key.rate!r}")
    return key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class RateLimit:
    """A bucket of tokens per key: `rate` a second, twice as many at once."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}  # key id -> tokens, when

    def take(self, key: ApiKey) -> None:
        """Raises ApiError 429 where the bucket is empty."""
        if not key.rate:
            return
        now = time.monotonic()
        tokens, then = self._buckets.get(key.id, (2 * key.rate, now))
        tokens = min(2 * key.rate, tokens + (now - then) * key.rate)
        if tokens < 1:
            self._buckets[key.id] = tokens, now
            wait_s = (1 - tokens) / key.rate
            raise ApiError(429, "rate_limited", f"key {key.id} may send {key.rate:g} requests a second", wait_s)
        self._buckets[key.id] = tokens - 1, now


class Gate:
    """Lets a request in, or raises ApiError 401, 403 or 429. Without keys everyone may do all who calls it by a name
    of `names`."""

    def __init__(self, keys: KeyFile | None, names: Names) -> None:
        self._keys = keys
        self._names = names
        self._limit = RateLimit()
        self._complaint = ""

    def has_key(self, headers: Headers) -> bool:
        """Whether a key comes in the headers, or none is needed."""
        return self._keys is None or bool(_key_text(headers))

    def identify(self, headers: Headers, key_text: str | None = None) -> ApiKey:
        """Who calls. key_text: the key where it does not come in a header. Raises ApiError 401, 403, 503."""
        self.check_origin(headers)
        if self._keys is None:
            return ANYONE
        try:
            key = self._keys.check(key_text or _key_text(headers))
        except InputError as error:  # the operator's to mend, not the caller's
            self._complain(str(error))
            raise ApiError(503, "no_keys", "the server cannot read its API keys: its log says why", 10) from None
        if key is None:
            raise ApiError(401, "unauthorized", "an API key is needed: Authorization: Bearer rt_...")
        return key

    def _complain(self, line: str) -> None:
        if line != self._complaint:  # once, not with every request
            log.error("%s", line)
        self._complaint = line

    def allow(self, key: ApiKey, scope: str) -> None:
        """Raises ApiError 403 where the key has no such scope, 429 where it asks too often."""
        if scope not in key.scopes:
            raise ApiError(403, "forbidden", f"key {key.id} has no scope {scope!r}")
        self._limit.take(key)

    def check_origin(self, headers: Headers) -> None:
        """A browser says which page a request comes from: only our own may do what its user may. Raises ApiError."""
        if self._names.wrong_origin(headers) is not None:
            raise ApiError(403, "forbidden", "requests from pages of other origins are refused (--public-url)")
        if (name := self._names.wrong_host(headers)) is not None:
            raise ApiError(403, "forbidden", f"this server answers to {LOCAL_NAMES[0]} only, not to {name!r}")


def _key_text(headers: Headers) -> str:
    """From a bearer token, X-API-Key, or the session token of an AWS client (AWS_SESSION_TOKEN)."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    return headers.get("x-api-key") or headers.get("x-amz-security-token") or ""


class Guard:
    """ASGI middleware around all routes: limits and deadlines on bodies, security headers, access log, metrics.

    max_body: bytes by path; "" for all others. is_draining: new work is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        max_body: dict[str, int],
        read_timeout_s: float,
        is_draining: Callable[[], bool],
    ) -> None:
        self._app, self._metrics, self._max_body = app, metrics, max_body
        self._read_timeout_s, self._is_draining = read_timeout_s, is_draining
        self.active = 0  # requests being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_body.get(scope["path"], self._max_body[""])
        call = _Call(scope, receive, send, limit, self._read_timeout_s)
        self.active += 1
        try:
            if self._is_draining() and scope["method"] == "POST":
                raise ApiError(503, "draining", "this server stops: ask again, another one will answer", 1)
            call.check_length()
            await self._app(scope, call.receive, call.send)
        except Exception as error:  # what the routes let through, and the limits of the body
            known = ApiError.of(error)
            if known.code == "internal":
                log.exception("%s %s failed", scope["method"], scope["path"])
            if not call.status:
                await call.fail(known)
            elif not call.answered:
                raise
        finally:
            self.active -= 1
            self._note(scope, call)

    def _note(self, scope: Scope, call: _Call) -> None:
        seconds = time.monotonic() - call.began
        route = getattr(scope.get("route"), "path", "(none)")
        method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "(other)"
        self._metrics.requests.labels(route, method, str(call.status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        key = scope.get("state", {}).get("key_id")
        log_access(
            scope, status=call.status, ms=round(seconds * 1000, 1), **{"in": call.n_in, "out": call.n_out}, key=key
        )


def log_access(scope: Scope, **values: object) -> None:
    """A line of JSON; never the query or a header: they may hold secrets."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    client = (scope.get("client") or ["?"])[0]
    what = {"method": scope.get("method", "WS")[:16], "path": scope["path"][:200]}
    access.info(json.dumps({"time": now, "client": client, **what, **values}))


class _Call:
    """One request in the guard's hands."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int, read_timeout_s: float) -> None:
        self._receive, self._send, self._headers = receive, send, Headers(scope=scope)
        self._max_body, self._read_timeout_s = max_body, read_timeout_s
        self.status, self.n_in, self.n_out, self.began = 0, 0, 0, time.monotonic()
        self.answered = False  # to the end
        self._complete = "content-length" not in self._headers and "transfer-encoding" not in self._headers

    def check_length(self) -> None:
        """Raises ApiError 413 where the announced length is too large."""
        text = self._headers.get("content-length", "0")
        if not text.isdigit() or len(text) > 18 or int(text) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, "too_large", f"a body may have {self._max_body} bytes here: send less, or use /v1/track")

    async def receive(self) -> Message:
        """As the server's, with a bound on bytes and on the time that the sender takes for them."""
        if self._complete:
            return await self._receive()
        patience_s = self.began + self._read_timeout_s + self.n_in / MIN_BODY_BYTES_S - time.monotonic()
        try:
            async with asyncio.timeout(max(patience_s, 0.01)):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "timeout", "the body came in too slowly") from None
        self.n_in += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self.n_in > self._max_body:
            raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        """As the server's. Where a body is not read to its end the connection ends with the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if not self._complete:
                headers["connection"] = "close"
        elif not self._complete and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._discard()
            message = {"type": "http.response.body", "body": b""}
        self.n_out += len(message.get("body", b""))
        await self._send(message)
        self.answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def _discard(self) -> None:
        """Read on for a moment: a socket closed on unread bytes would be reset, and the answer lost with it."""
        if "expect" in self._headers:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                for _ in range(256):
                    if not (await self._receive()).get("more_body", False):
                        return

    async def fail(self, error: ApiError) -> None:
        """Answer with an error."""
        body = error.body
        headers = {**error.headers, "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
