"""The workspace as a process: address, TLS, and a clean end."""

from __future__ import annotations

import functools
import ipaddress
import signal
import socket
import ssl
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from rallytrace.errors import InputError
from rallytrace.label.app import LOOPBACK, close_workspace, create_app, open_workspace
from rallytrace.label.team import setup_token

say_line = functools.partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where a workspace is served. cert, key: PEM files, both or neither. Raises InputError."""

    host: str = "127.0.0.1"
    port: int = 8421
    cert: Path | None = None
    key: Path | None = None
    insecure_http: bool = False
    open_browser: bool = True

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InputError("--cert and --key belong together: give both, or neither")
        for path in (self.cert, self.key):
            if path is not None and not path.is_file():
                raise InputError(f"{path} does not exist: expected a PEM file")
        if not (self.is_loopback or self.cert or self.insecure_http):
            raise InputError(
                f"--host {self.host} is reached from other machines, and passwords would travel in the clear: "
                "give --cert and --key, or put a TLS proxy before 127.0.0.1, or say --insecure-http"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


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
    listener = _listen(options)
    with listener:
        workspace = open_workspace(
            project,
            database=database,
            secure=options.cert is not None,
            on_note=lambda note: on_warning(f"note: {note}"),
        )
        app = create_app(workspace, hosts=_hosts(options))
        try:
            for path in add:
                workspace.library.add(path)
            if weights is not None:
                workspace.proposer.take(weights)
            token = setup_token(workspace.book)
            if not options.is_loopback and options.cert is None:
                on_warning(f"warning: {options.host} is served without TLS: others can read passwords")
            url = _url(options, listener.getsockname()[1])
            on_url(f"rallytrace label: {url}")
            if token:
                url += f"/#/setup/{token}"
                on_url(f"make the first admin: {url}")
            if options.open_browser:
                threading.Timer(1.0, webbrowser.open, [url]).start()
            _run(options, listener, app)
        finally:
            close_workspace(workspace)


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


def _hosts(options: ServerOptions) -> tuple[str, ...] | None:
    if not options.is_loopback:
        return None
    return (*LOOPBACK, f"[{options.host}]" if ":" in options.host else options.host)


def _url(options: ServerOptions, port: int) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{'https' if options.cert else 'http'}://{host}:{port}"


def _run(options: ServerOptions, listener: socket.socket, app: FastAPI) -> None:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anybody could name any address in them
        ws="none",
        timeout_graceful_shutdown=5,
        ssl_certfile=options.cert,
        ssl_keyfile=options.key,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise InputError(f"{options.cert} and {options.key} are no certificate and key: {error}") from None
    # uvicorn ends at these signals, then raises them once more, for whoever was there before it
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
