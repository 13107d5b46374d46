"""The real-time endpoint: server and client. Nothing heavy is loaded before a name is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rallytrace.serve.app import ServeOptions, create_app, run_server
    from rallytrace.serve.client import AsyncClient, Client

_HOMES = {"AsyncClient": "client", "Client": "client", "ServeOptions": "app", "create_app": "app", "run_server": "app"}

__all__ = ["AsyncClient", "Client", "ServeOptions", "create_app", "run_server"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
