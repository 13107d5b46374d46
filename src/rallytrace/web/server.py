"""How a server is started: uvicorn with the project's limits, TLS and proxies."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import uvicorn

from rallytrace.web.connections import ConnectionLimits, Door, protocol_factory
from rallytrace.web.names import Proxies

MAX_HEAD = 32 << 10  # bytes of a request's head


def server_config(
    app: Any,
    *,
    limits: ConnectionLimits,
    tls: ssl.SSLContext | None = None,
    proxies: Proxies | None = None,
    bad_request: Callable[[str], bytes] | None = None,
    **options: Any,
) -> uvicorn.Config:
    """What `uvicorn.Server` takes. bad_request: makes the JSON body of a 400 of what a line says. options: uvicorn's.

    uvicorn does not know of `tls`: its own `is_ssl` stays False. See `connections.TlsFront`.
    """
    door = Door(limits, proxies)
    given: dict[str, Any] = {
        "http": protocol_factory(door, tls, bad_request),
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "h11_max_incomplete_event_size": MAX_HEAD,
        "timeout_keep_alive": 10,
        "timeout_graceful_shutdown": 5,
        # Without named proxies anybody could name any address in their headers.
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": list(proxies.texts) if proxies else [],
    }
    return uvicorn.Config(app, **{**given, **options})


def url_of(host: str, port: int, *, tls: bool) -> str:
    """The address to open."""
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{port}"
