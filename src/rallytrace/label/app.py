"""The web app of the labelling workspace: routes, the guard before them, and the server around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rallytrace.files import make_folder
from rallytrace.label import api_jobs, api_tasks, api_team, api_videos
from rallytrace.label.api_common import MAX_BODY_BYTES, Front, Workspace, add_error_handlers, error_json
from rallytrace.label.book import book_url, open_book
from rallytrace.label.frames import CACHE_BYTES, FrameCache, FrameServer
from rallytrace.label.holds import hold
from rallytrace.label.library import MAX_UPLOAD_BYTES, Library
from rallytrace.label.proposals import Proposer
from rallytrace.web.names import Names

STATIC = Path(__file__).parent / "static"
log = logging.getLogger("rallytrace.label")

RAW_BODIES = ("/api/videos", "/import")  # their routes bound what they read
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
NOT_BUILT = """<!doctype html><meta charset="utf-8"><title>rallytrace</title>
<h1>rallytrace label</h1><p>The server runs. Its front end is not built: run <code>make frontend</code> in the
checkout and load this page again. The HTTP API is described in <a href="/api/openapi.json">openapi.json</a>.</p>"""


def open_workspace(
    project: Path | str,
    *,
    database: str | None = None,
    secure: bool = False,
    cache_bytes: int = CACHE_BYTES,
    max_upload_bytes: int = MAX_UPLOAD_BYTES,
    on_note: Callable[[str], object] = log.info,
) -> Workspace:
    """The project in the folder `project`, made where it is missing, for one server at a time.

    database: the URL of a PostgreSQL database; book.sqlite in the folder by default. secure: browsers reach it over
    TLS. on_note: told of a migration of the book, and where its backup is. Raises InputError where another server has
    the project or its book open, OutputError where the folder cannot be made.
    """
    folder = Path(project).resolve()
    make_folder(folder)
    where = database or folder / "book.sqlite"
    held = hold(book_url(where), folder)
    try:
        book = open_book(where, held=True, backups=folder / "backups", on_note=on_note)
        library = Library(book, folder, max_upload_bytes)
        frames = FrameServer(FrameCache(folder / "frames", cache_bytes))
        return Workspace(folder, book, library, frames, Proposer(book, library, folder), held, secure)
    except BaseException:
        held.close()
        raise


def close_workspace(workspace: Workspace) -> None:
    """Ends what runs in the background, then another server may open the project."""
    workspace.close()


def create_app(workspace: Workspace, *, front: Front | None = None, static: Path = STATIC) -> FastAPI:
    """The ASGI app of an open workspace. front: how browsers reach it; by this machine's own names, by default."""
    front = front or Front(Names(local_only=True))
    app = FastAPI(
        title="rallytrace label",
        version=version("rallytrace"),
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.workspace = workspace
    app.state.front = front
    add_error_handlers(app)
    for routes in (api_team, api_videos, api_jobs, api_tasks):
        app.include_router(routes.router)

    @app.get("/health", tags=["server"])
    def health() -> dict[str, str]:
        """Answers while the server runs."""
        return {"status": "ok", "version": app.version}

    if (static / "index.html").is_file():
        app.mount("/", StaticFiles(directory=static, html=True), name="static")
    else:

        @app.get("/", include_in_schema=False)
        def not_built() -> HTMLResponse:
            return HTMLResponse(NOT_BUILT)

    app.add_middleware(Guard, names=front.names, secure=workspace.secure)
    return app


class Guard:
    """Before all routes: the Host, the Origin, the size of the body. After them: headers that bind the browser."""

    def __init__(self, app: ASGIApp, names: Names, secure: bool) -> None:
        self._app = app
        self._names = names
        strict = {"Strict-Transport-Security": "max-age=31536000"} if secure else {}
        self._added = [(name.lower().encode(), value.encode()) for name, value in (SECURITY | strict).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                have = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in self._added if name not in have]
                private = [] if b"cache-control" in have else [(b"cache-control", b"no-store" if api else b"no-cache")]
                message["headers"] = [*message["headers"], *added, *private]
            await send(message)

        api = scope["path"].startswith("/api/")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await error_json(*refused)(scope, receive, send_guarded)
            return
        raw = scope["method"] == "POST" and scope["path"].endswith(RAW_BODIES)
        try:
            await self._app(scope, receive if raw else _bounded(receive), send_guarded)
        except ClientDisconnect:  # in the middle of an upload: there is nobody to answer
            return
        except Exception:  # the browser learns nothing of it
            log.exception("an error that was not foreseen")
            answer = error_json(500, "internal", "the server failed to do this; its log says why")
            await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        name = self._names.wrong_host(headers)
        if name is not None:
            return 421, "wrong_host", f"this server is not called {name!r}: use the address that it printed"
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            if self._names.wrong_origin(headers) is not None:
                return 403, "wrong_origin", "the request comes from another site: is --public-url right?"
            length = headers.get("content-length", "0")
            raw = scope["path"].endswith(RAW_BODIES)
            if not raw and not (length.isdigit() and int(length[:20]) <= MAX_BODY_BYTES):
                return 413, "too_large", f"the body may have up to {MAX_BODY_BYTES} bytes"
        return None


def _bounded(receive: Receive) -> Receive:
    """Also a body that does not tell its length ends at the limit."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body may have up to {MAX_BODY_BYTES} bytes")
        return message

    return bounded
