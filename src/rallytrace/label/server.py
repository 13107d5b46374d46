"""The workspace as a process: address, TLS, proxies, and a clean end."""

from __future__ import annotations

import functools
import signal
import socket
import ssl
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from rallytrace.errors import InputError
from rallytrace.label.api_common import Front, Workspace, error_json
from rallytrace.label.app import close_workspace, create_app, open_workspace
from rallytrace.label.team import setup_token
from rallytrace.web.connections import ConnectionLimits
from rallytrace.web.names import Names, Proxies, is_loopback
from rallytrace.web.server import server_config, url_of
from rallytrace.web.tls import fingerprint, self_signed, state_folder, tls_context

say_line = functools.partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where a workspace is served. cert, key: PEM files, both or neither; or a certificate of its own.

    public_url: https://name under which a proxy shows it. proxies: addresses whose X-Forwarded-For is believed. Raises
    InputError.
    """

    host: str = "127.0.0.1"
    port: int = 8421
    cert: Path | None = None
    key: Path | None = None
    tls_self_signed: bool = False
    public_url: str | None = None
    proxies: tuple[str, ...] = ()
    insecure_http: bool = False
    open_browser: bool = True
    state: Path | None = None  # of the self-signed certificate; the user's own folder by default

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InputError("--cert and --key belong together: give both, or neither")
        if self.cert is not None and self.tls_self_signed:
            raise InputError("--cert and --tls self-signed exclude each other: give one of the two")
        for path in (self.cert, self.key):
            if path is not None and not path.is_file():
                raise InputError(f"{path} does not exist: expected a PEM file")
        self.front()
        Proxies(self.proxies)
        if not (self.is_loopback or self.has_tls or self.insecure_http):
            raise InputError(
                f"--host {self.host} is reached from other machines, and passwords would travel in the clear: "
                "give --cert and --key, or --tls self-signed, or put a TLS proxy before 127.0.0.1 with --public-url, "
                "or say --insecure-http"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach the address."""
        return is_loopback(self.host)

    @property
    def has_tls(self) -> bool:
        """Whether the server itself speaks TLS."""
        return self.tls_self_signed or self.cert is not None

    def front(self) -> Front:
        """How browsers reach the server."""
        names = Names(self.public_url, local_only=self.is_loopback, more=[self.host])
        return Front(names, not self.public_url or bool(self.proxies))

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the server over TLS."""
        return self.has_tls or self.front().names.is_secure

    def tls(self) -> ssl.SSLContext | None:
        """What the server shows who it is with, None without TLS; a self-signed certificate is made at first."""
        files = self._tls_files()
        return tls_context(*files) if files else None

    def _tls_files(self) -> tuple[Path, Path] | None:
        if self.cert is not None and self.key is not None:
            return self.cert, self.key
        if not self.tls_self_signed:
            return None
        names = [self.host, urlsplit(self.public_url or "").hostname or ""]
        cert, key = self_signed(self.state or state_folder(), names, "workspace")
        say_line(f"self-signed certificate {cert}\n  SHA-256 fingerprint {fingerprint(cert)}")
        return cert, key


def run_workspace(
    project: Path | str,
    options: ServerOptions | None = None,
    *,
    add: Sequence[Path | str] = (),
    weights: Path | None = None,
    database: str | None = None,
    on_url: Callable[[str], None] = say_line,
    on_warning: Callable[[str], None] = say_line,
) -> None:
    """Serves the project until SIGTERM or Ctrl-C. on_url: told each address to open, one line each.
    weights: a network, such as a run's best, that is to propose labels for the videos there.

    Raises ModelError for `weights` that are no network; InputError for wrong options, an address in use, or a project
    that is open in another server.
    """
    options = options or ServerOptions()
    context = options.tls()
    with _listen(options) as listener:
        workspace = open_workspace(project, database=database, secure=options.is_secure, on_note=on_warning)
        try:
            for path in add:
                workspace.library.add(path)
            if weights is not None:
                workspace.proposer.take(weights)
            url = _say_where(workspace, options, listener, on_url, on_warning)
            if options.open_browser:
                threading.Timer(1.0, webbrowser.open, [url]).start()
            app = create_app(workspace, front=options.front())
            _run(server_for(app, options, context), listener)
        finally:
            close_workspace(workspace)


def _say_where(
    workspace: Workspace,
    options: ServerOptions,
    listener: socket.socket,
    on_url: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> str:
    """Prints the addresses, and what is risky about them; gives the one to open."""
    token = setup_token(workspace.book)
    if not options.is_loopback and not options.has_tls:
        on_warning(f"warning: {options.host} is served without TLS: others can read passwords")
    if not options.front().knows_addresses:
        on_warning("warning: without --proxy all callers look alike, and logins that fail count by their name alone")
    own = url_of(options.host, listener.getsockname()[1], tls=options.has_tls)
    url = options.front().names.public_url or own
    on_url(f"rallytrace label: {url}")
    if token:
        url = f"{url}/#/setup/{token}"
        on_url(f"make the first admin: {url}")
    if options.public_url:
        on_url(f"behind it: {own}")
    return url


def _listen(options: ServerOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(512)  # who comes before the app is ready waits
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise InputError(f"cannot listen on {options.host}:{options.port} ({reason}): choose another --port") from None
    return listener


def server_for(
    app: FastAPI, options: ServerOptions, tls: ssl.SSLContext | None, limits: ConnectionLimits | None = None
) -> uvicorn.Server:
    """A server for `app`, not started."""
    config = server_config(
        app,
        limits=limits or ConnectionLimits(),
        tls=tls,
        proxies=Proxies(options.proxies),
        bad_request=lambda line: bytes(error_json(400, "invalid", line).body),
        log_level="warning",
        ws="none",
    )
    return uvicorn.Server(config)


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    # uvicorn ends at these signals, then raises them once more, for whoever was there before it
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
