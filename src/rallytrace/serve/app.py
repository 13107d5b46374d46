"""The HTTP application and its server process: what is shared by the routes, start, drain, end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rallytrace.decode.pictures import Pictures
from rallytrace.errors import InputError, RallytraceError
from rallytrace.runtime import DEFAULT_MODEL, Device, bundled
from rallytrace.serve.engine import HANG_S, Cancelled, Engine, Hung, find_models
from rallytrace.serve.jobs import Jobs
from rallytrace.serve.security import ApiError, Gate, Guard, KeyFile
from rallytrace.serve.sessions import Sessions
from rallytrace.serve.shares import Share
from rallytrace.web.connections import ConnectionLimits
from rallytrace.web.names import Names, Proxies, is_loopback
from rallytrace.web.server import server_config, url_of
from rallytrace.web.tls import fingerprint, self_signed, state_folder, tls_context

log = logging.getLogger("rallytrace.serve")
T = TypeVar("T")
WINDOW_MODEL = "window3"  # answers stateless windows of three pictures; served beside the default where it is bundled
GRACE_S = 2.0  # behind a request's deadline, for work that ends by itself
STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve. Sizes in bytes, times in seconds; see docs/http.md.

    weights: names, files, or NAME=FILE; the bundled ones when empty. keys: file of API keys; needed unless `host` is a
    loopback address or `no_keys` says that something else checks callers.
    """

    weights: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    device: Device = "auto"
    threads: int | None = None
    workers: int = 1
    keys: Path | None = None
    no_keys: bool = False
    tls_self_signed: bool = False
    cert: Path | None = None
    key: Path | None = None
    public_url: str | None = None  # https://name[:port] under which a proxy shows this server
    proxies: tuple[str, ...] = ()  # addresses or networks that may say in headers whom they speak for
    state: Path | None = None  # folder of the self-signed certificate
    spool: Path | None = None  # folder of uploaded videos
    default_accept: str | None = None  # of /invocations, where a request says none
    allow_fetch: tuple[str, ...] = ()  # s3://bucket/prefix that a request may name
    max_body: int = 64 << 20
    max_video: int = 2 << 30
    max_frame_bytes: int = 8 << 20
    max_pixels: int = 4096 * 2304
    max_frames: int = 500_000
    max_clip_frames: int = 1800  # of a body that is answered at once
    max_video_s: float = 4 * 3600.0
    max_held: int = 512 << 20  # of all bodies in memory together
    max_requests: int = 32  # that are computed or wait for it
    decode_memory: int = 2 << 30
    decode_cpu_s: int = 1800
    max_sessions: int = 64
    max_sessions_per_key: int = 32
    max_connections: int = 512
    max_per_address: int = 128  # connections; with no_keys all callers may have the address of what checks them
    jobs: int = 2
    max_jobs: int = 16
    job_timeout_s: float = 3600.0
    keep_s: float = 600.0
    resume_s: float = 60.0
    idle_s: float = 60.0
    max_session_s: float = 6 * 3600.0
    read_timeout_s: float = 20.0
    request_timeout_s: float = 60.0
    hang_s: float = HANG_S  # a run of a network that takes longer will not end
    drain_s: float = 25.0
    reload_s: float = 2.0

    def __post_init__(self) -> None:
        Proxies(self.proxies)  # raises
        Names(self.public_url, local_only=True)
        if bool(self.cert) != bool(self.key) or (self.cert and self.tls_self_signed):
            raise InputError("TLS needs both --cert and --key, or --tls self-signed")
        shown = self.public_url or self.host
        if self.keys is None and not self.no_keys and (self.public_url or not is_loopback(self.host)):
            raise InputError(
                f"other machines can reach {shown}: make an API key with `rallytrace keys add` and pass --keys FILE"
            )

    @property
    def local_only(self) -> bool:
        return self.keys is None and not self.no_keys


class Services:
    """What the routes share: engine, sessions, gate; and whether the server stops."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.log = log
        models = find_models(list(options.weights) or [DEFAULT_MODEL])
        if WINDOW_MODEL in bundled():
            models.setdefault(WINDOW_MODEL, bundled()[WINDOW_MODEL])
        self.engine = Engine(
            models, device=options.device, threads=options.threads, workers=options.workers, hang_s=options.hang_s
        )
        names = Names(options.public_url, local_only=options.local_only)
        keys = KeyFile(options.keys) if options.keys else None
        if keys is not None:
            _ = keys.keys  # raises now what callers would run into
        self.gate = Gate(keys, names)
        self.pictures = Pictures()
        self.sessions = Sessions(
            self.engine,
            self.pictures,
            max_sessions=options.max_sessions,
            max_per_key=options.max_sessions_per_key,
            max_held=options.max_held,
            resume_s=options.resume_s,
            threads=4 + 2 * (os.cpu_count() or 1),
        )
        self._pool = ThreadPoolExecutor(options.max_requests, "rallytrace-request")  # they wait more than they work
        self._working = Share(options.max_requests, "requests at work")
        self._held = Share(options.max_held, "bytes of requests")
        self.jobs = Jobs(options)
        self.connections = 0  # web sockets
        self.draining = False
        self.error: RallytraceError | None = None  # why the networks cannot be loaded
        self.guard: Guard | None = None

    def refuse_when_draining(self) -> None:
        """Raises ApiError 503."""
        if self.draining:
            raise ApiError(503, "draining", "this server stops: ask again, another one will answer", 1)

    def drain(self) -> None:
        """Finish what was accepted, refuse what is new."""
        self.draining = True
        self.sessions.wake()

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted against what all bodies together may hold while the block lasts. Raises Busy."""
        owner = request.state.key_id
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in request.stream():
                self._held.take(owner, len(chunk))
                size += len(chunk)
                chunks.append(chunk)
            body = b"".join(chunks)
            chunks.clear()
            yield body
        finally:
            self._held.give_back(owner, size)

    def holding(self, request: Request) -> AbstractContextManager[None]:
        """The same for a body that others read, by the length that it states, or else the longest. Raises Busy."""
        size = int(request.headers.get("content-length") or self.options.max_body)  # a number: the guard has looked
        return self._held.taken(request.state.key_id, size)

    async def run(self, request: Request, cancel: threading.Event, work: Callable[[], T]) -> T:
        """`work` in a bounded pool of threads; `cancel` is set when the client leaves, or the time is over.

        Raises Busy, Cancelled.
        """
        owner = request.state.key_id
        self._working.take(owner)
        task = asyncio.get_running_loop().run_in_executor(self._pool, work)
        task.add_done_callback(lambda done: self._worked(done, owner))
        left = asyncio.create_task(_disconnect(request))
        either: list[asyncio.Future[Any]] = [task, left]
        try:
            most_s = self.options.request_timeout_s + GRACE_S
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=most_s)
            if left.done() and not task.done():
                raise Cancelled("the client left")
            if not task.done():
                raise Cancelled("this took longer than a request may take here")
            return task.result()
        finally:
            cancel.set()
            left.cancel()

    async def watch(self, request: Request, finished: threading.Event) -> None:
        """Waits for `finished`. Raises Cancelled where the client leaves before."""
        left = asyncio.create_task(_disconnect(request))
        try:
            while not finished.is_set():
                if left.done():
                    raise Cancelled("the client left")
                await asyncio.sleep(0.05)
        finally:
            left.cancel()

    def _worked(self, task: asyncio.Future[Any], owner: str) -> None:
        self._working.give_back(owner)
        if not task.cancelled():
            task.exception()  # of a client that left: nobody else asks for it

    @property
    def is_idle(self) -> bool:
        return not self.connections and not self.jobs.running and (self.guard is None or not self.guard.active)

    async def load(self) -> None:
        try:
            await asyncio.to_thread(self.engine.load)
        except RallytraceError as error:
            self.error = error
            log.error("%s", error)

    async def keep_house(self) -> None:
        """Forget what nobody comes back to, until cancelled."""
        while True:
            await asyncio.sleep(self.options.reload_s)
            self.sessions.expire()
            self.jobs.expire()

    async def reload(self) -> None:
        """Load what changed, until cancelled. Apart from `keep_house`: a new file may take long."""
        while True:
            await asyncio.sleep(self.options.reload_s)
            if self.engine.is_ready:
                await asyncio.to_thread(self.engine.reload)

    def close(self) -> None:
        self.sessions.close()
        self.jobs.close()
        self.pictures.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.engine.close()


async def _disconnect(request: Request) -> None:
    """Returns when the client is gone; its body must be read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(options: ServeOptions | None = None) -> FastAPI:
    """The ASGI application; networks are loaded once it has started. Raises InputError, ModelError.

    `app.state.services` holds what the routes share.
    """
    services = Services(options or ServeOptions())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work = (services.load(), services.keep_house(), services.reload())
        tasks = [asyncio.create_task(each) for each in work]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(services.close)

    app = FastAPI(title="rallytrace endpoint", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.services = services
    _add_routes(app)
    for kind in (RallytraceError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _answer_error)
    _add_guard(app, services)
    return app


def _add_routes(app: FastAPI) -> None:
    from rallytrace.serve import routes_admin, routes_predict, routes_stream, routes_track

    for module in (routes_predict, routes_track, routes_stream, routes_admin):
        app.include_router(module.router)
    routes_admin.mount_page(app)


def _add_guard(app: FastAPI, services: Services) -> None:
    options = services.options
    build = app.build_middleware_stack

    def with_guard() -> Any:
        services.guard = Guard(
            build(),
            services.engine.metrics,
            max_body={"": options.max_body, "/v1/track": options.max_video},
            read_timeout_s=options.read_timeout_s,
            is_draining=lambda: services.draining,
        )
        return services.guard

    app.build_middleware_stack = with_guard  # type: ignore[method-assign]


async def _answer_error(_: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):  # nobody hears it
        return Response(status_code=499)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        known = ApiError(400, "bad_request", f"{place}: {first['msg']}")
    elif isinstance(error, HTTPException):
        known = ApiError(error.status_code, STATUS_CODES.get(error.status_code, "bad_request"), str(error.detail))
    else:
        known = ApiError.of(error)
    return Response(known.body, known.status, known.headers)


class Server(uvicorn.Server):
    """Drains: at SIGTERM or Ctrl-C it refuses new work, finishes the old, then ends with code 0."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.services: Services = app.state.services
        self._until = float("inf")

    @property
    def url(self) -> str:
        """Where it listens, once it is started."""
        options = self.services.options
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return url_of(host, port, tls=options.tls_self_signed or options.cert is not None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.services.draining:
            self.should_exit = self.force_exit = True
        self.services.draining = True

    async def on_tick(self, counter: int) -> bool:
        try:
            if self.services.engine.is_ready:
                self.services.engine.batcher.check_well()
        except Hung as error:
            self.services.error = error
        if self.services.error is not None:
            self.should_exit = True
        if counter == 0:
            print(f"listening on {self.url}", flush=True)
        if self.services.draining and self._until == float("inf"):
            log.info("draining")
            self._until = time.monotonic() + self.services.options.drain_s
            self.services.drain()
        if self.services.draining and (self.services.is_idle or time.monotonic() > self._until):
            self.should_exit = True
        return await super().on_tick(counter)


def make_server(app: FastAPI) -> Server:
    """A server for `app`, not started. Raises InputError for TLS files that cannot be used."""
    options: ServeOptions = app.state.services.options
    files = tls_files(options)
    config = server_config(
        app,
        limits=ConnectionLimits(
            connections=options.max_connections,
            per_address=options.max_connections if options.no_keys else options.max_per_address,
            waiting=max(1, options.max_connections // 2),
            head_s=options.read_timeout_s,
        ),
        tls=tls_context(*files) if files else None,
        proxies=Proxies(options.proxies),
        bad_request=lambda line: ApiError(400, "bad_request", line).body,
        host=options.host,
        port=options.port,
        ws="websockets-sansio",
        ws_max_size=options.max_frame_bytes + 1024,
        ws_per_message_deflate=False,
        ws_ping_timeout=60,
    )
    return Server(app, config)


def tls_files(options: ServeOptions) -> tuple[Path, Path] | None:
    """Certificate and key, where TLS is asked for; a self-signed certificate is made at the first time."""
    if options.tls_self_signed:
        cert, key = self_signed(options.state or state_folder(), [options.host])
        print(f"self-signed certificate {cert}\n  SHA-256 fingerprint {fingerprint(cert)}", flush=True)
        return cert, key
    if options.cert and options.key:
        return options.cert, options.key
    return None


def run_server(options: ServeOptions) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises InputError, also for a taken port, ModelError, MissingDependency, and Hung:
    see `hosting.serve_for_good`."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    app = create_app(options)
    server = make_server(app)
    try:
        server.run()
    except SystemExit as end:
        if end.code:
            raise InputError(f"cannot listen on {options.host}:{options.port}: is another server there?") from None
    if app.state.services.error is not None:
        raise app.state.services.error
