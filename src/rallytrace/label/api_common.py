"""What the routes share: the workspace, who is asking, typed bodies, errors as one line of JSON."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.exceptions import HTTPException

from rallytrace.errors import InputError, OutputError, RallytraceError
from rallytrace.label import team
from rallytrace.label.book import BookError, LabelBook
from rallytrace.label.frames import FrameServer, FrameUnavailable
from rallytrace.label.holds import Hold
from rallytrace.label.library import Library, TooLarge
from rallytrace.label.proposals import Proposer
from rallytrace.label.team import User
from rallytrace.web.connections import place_of
from rallytrace.web.names import Names

COOKIE = "rallytrace_session"
MAX_BODY_BYTES = 4 * 2**20  # of JSON
STATUS = {"not_found": 404, "forbidden": 403, "wrong_state": 409, "bad_login": 401, "throttled": 429}
CODES = {401: "login_needed", 403: "forbidden", 404: "not_found", 405: "not_allowed", 413: "too_large"}
OTHERS: tuple[tuple[type[RallytraceError], int, str], ...] = (
    (TooLarge, 413, "too_large"),
    (FrameUnavailable, 503, "unavailable"),
    (InputError, 400, "invalid"),
    (OutputError, 503, "unavailable"),
    (RallytraceError, 400, "invalid"),
)


@dataclass(frozen=True, slots=True)
class Workspace:
    """All that a running server holds. `secure` where browsers reach it over TLS."""

    folder: Path
    book: LabelBook
    library: Library
    frames: FrameServer
    proposer: Proposer
    held: Hold
    secure: bool = False

    def close(self) -> None:
        """Ends the threads, then the book, and lets go of the project."""
        for part in (self.proposer, self.library, self.frames, self.book, self.held):
            part.close()


@dataclass(frozen=True, slots=True)
class Front:
    """How browsers reach the server. knows_addresses: not through a proxy that nobody named."""

    names: Names
    knows_addresses: bool = True


class Denied(RallytraceError):
    """A request that is refused before anything is looked at."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code = status, code
        super().__init__(message)


Text = Annotated[str, StringConstraints(max_length=20_000)]
Name = Annotated[str, StringConstraints(max_length=200)]
Secret = Annotated[str, StringConstraints(max_length=500)]
After = Annotated[int, Query(ge=0, le=2**53)]
Limit = Annotated[int, Query(ge=1, le=1000)]
MAX_ID = 2**53
MAX_FRAME = 2**31 - 1
Id = Annotated[int, PathParameter(ge=1, le=MAX_ID)]
MaybeId = Annotated[int | None, Query(ge=1, le=MAX_ID)]
RAW = {"schema": {"type": "string", "format": "binary"}}
RAW_BODY = {"requestBody": {"content": {"application/octet-stream": RAW}}}


class Body(BaseModel):
    """A JSON body; fields that are not known are an error."""

    model_config = ConfigDict(extra="forbid")


def workspace(request: Request) -> Workspace:
    """The one of this server."""
    found: Workspace = request.app.state.workspace
    return found


def front(request: Request) -> Front:
    """Of this server."""
    found: Front = request.app.state.front
    return found


def caller(request: Request) -> str | None:
    """Whose attempts at a login count together: an IPv4 address, an IPv6 /64; None where that is not known."""
    if request.client is None or not front(request).knows_addresses:
        return None
    return place_of(request.client.host)


def who(request: Request) -> User:
    """The user of the cookie or of the API token. With a cookie, changes need the page's CSRF token."""
    book = workspace(request).book
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        owner = team.token_user(book, secret.strip())
        if owner is None:
            raise Denied(401, "bad_token", "the API token is unknown or revoked")
        return owner
    cookie = request.cookies.get(COOKIE, "")
    user = team.session_user(book, cookie) if cookie else None
    if user is None:
        needed = not team.setup_done(book)
        raise Denied(401, "setup_needed" if needed else "login_needed", "nobody is logged in")
    sent = request.headers.get("x-csrf-token", "").encode()
    if request.method not in ("GET", "HEAD") and not hmac.compare_digest(sent, team.csrf_of(cookie).encode()):
        raise Denied(403, "csrf", "the X-CSRF-Token header does not fit the session: load the page again")
    return user


def _admin(user: Annotated[User, Depends(who)]) -> User:
    user.must_administer()
    return user


def _reviewer(user: Annotated[User, Depends(who)]) -> User:
    user.must_review()
    return user


Ws = Annotated[Workspace, Depends(workspace)]
Me = Annotated[User, Depends(who)]
Admin = Annotated[User, Depends(_admin)]
Reviewer = Annotated[User, Depends(_reviewer)]


def named(book: LabelBook) -> dict[int, str]:
    """The names of all members by id."""
    return {user.id: user.name for user in team.users(book)}


async def bounded_stream(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises TooLarge beyond `limit` bytes."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body is larger than the {limit} bytes that this request may have")
        yield chunk


def error_json(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one form of all errors."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Every error that is raised on purpose becomes one line of JSON."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        return _of(error)

    for kind in (RallytraceError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, known)


def _of(error: Exception) -> JSONResponse:
    message = " ".join(str(error).split())[:2000]
    if isinstance(error, RequestValidationError):
        return error_json(422, "invalid", _what_is_wrong(error.errors()))
    if isinstance(error, HTTPException):
        code = CODES.get(error.status_code, "invalid")
        return error_json(error.status_code, code, str(error.detail)[:200], dict(error.headers or {}))
    if isinstance(error, Denied):
        return error_json(error.status, error.code, message)
    if isinstance(error, BookError):
        wait_s = getattr(error, "retry_after_s", None)
        headers = {"Retry-After": str(max(1, round(wait_s)))} if wait_s else None
        return error_json(STATUS.get(error.code, 400), error.code, message, headers)
    for kind, status, code in OTHERS:
        if isinstance(error, kind):
            return error_json(status, code, message, {"Retry-After": "5"} if status == 503 else None)
    raise error


def _what_is_wrong(errors: Iterable[Any]) -> str:
    lines = []
    for error in list(errors)[:5]:
        place = ".".join(str(part)[:60] for part in error.get("loc", ())[1:])
        lines.append(f"{place or 'the body'}: {str(error.get('msg', 'invalid'))[:200]}")
    return "; ".join(lines) or "the request is malformed"
