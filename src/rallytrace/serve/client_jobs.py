"""Whole videos that a server tracks and draws on: sent, waited for, fetched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from rallytrace.errors import EndpointError, InputError
from rallytrace.files import AtomicFile, make_folder
from rallytrace.serve.client_connect import Server, TryAgain

POLL_S = 0.5
CHUNK = 1 << 20
T = TypeVar("T")


async def draw_video(server: Server, source: Path, to: Path, query: dict[str, Any], deadline_s: float) -> None:
    """The video at `source`, drawn on by the server, to the file `to`. query: options of /v1/track, None left out.

    Raises InputError where `source` is no file, EndpointError, OutputError.
    """
    if not source.is_file():
        raise InputError(f"{source} does not exist: expected the file of a video")
    make_folder(to.parent)
    params = {"async": "true", "draw": "true"} | {name: value for name, value in query.items() if value is not None}

    async def send() -> Any:
        return await server.request("POST", "/v1/track", params=params, content=_chunks(source))

    job = await _again(send, deadline_s)
    where = f"/v1/track/{job['id']}"
    try:
        while job["status"] in ("queued", "running"):
            await asyncio.sleep(POLL_S)
            job = await _again(lambda: server.request("GET", where), deadline_s)
        if job["status"] != "done":
            raise EndpointError(f"{server.url} cannot track {source}: {job['error']['message']}")
        await _again(lambda: _fetch(server, f"{where}/video", to), deadline_s)
    finally:
        with suppress(TryAgain, EndpointError):
            await server.request("DELETE", where)


async def _fetch(server: Server, path: str, to: Path) -> None:
    with AtomicFile(to, "wb") as file:
        async for chunk in server.download(path):
            await asyncio.to_thread(file.write, chunk)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with open(path, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


async def _again(ask: Callable[[], Awaitable[T]], deadline_s: float) -> T:
    """Ask until there is an answer. Raises EndpointError where there is none for so long."""
    until = time.monotonic() + deadline_s
    while True:
        try:
            return await ask()
        except TryAgain as error:
            wait_s = max(POLL_S, error.after_s or 0.0)
            if time.monotonic() + wait_s > until:
                raise EndpointError(str(error)) from None
            await asyncio.sleep(wait_s)
