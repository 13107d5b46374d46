"""Real servers on free ports: `serve(...)` in a thread of this process, `serve_process(...)` as the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings

from rallytrace import RallyOptions, make_clip, video
from rallytrace.serve.app import ServeOptions, Server, Services, create_app, make_server
from rallytrace.types import Image

WAIT_S = 60.0
settings.register_profile("serve", deadline=None)  # a busy machine is no failure
settings.load_profile("serve")


@dataclass(frozen=True)
class Running:
    """A server that is warm."""

    url: str  # http://127.0.0.1:PORT
    services: Services
    server: Server

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/stream"


@dataclass(frozen=True)
class Process:
    """A server process that is warm."""

    url: str
    popen: subprocess.Popen[str]

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/stream"


def wait_until(true: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def is_warm(url: str, verify: Any = True) -> bool:
    try:
        return httpx.get(f"{url}/ping", verify=verify).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(**options: Any) -> Iterator[Running]:
    """See `serve`."""
    app = create_app(ServeOptions(**{"weights": ("window3",), "port": 0, "threads": 1, **options}))
    server = make_server(app)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        services: Services = app.state.services
        wait_until(lambda: server.started and services.engine.is_ready, "the server")
        yield Running(server.url, services, server)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
    assert not thread.is_alive()


@contextmanager
def running_process(*arguments: str | Path, env: dict[str, str] | None = None, verify: Any = True) -> Iterator[Process]:
    """See `serve_process`."""
    command = [sys.executable, "-m", "rallytrace", "serve", "--port", "0", "--threads", "1", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert popen.stdout is not None
        lines = iter(popen.stdout.readline, "")
        url = next(line.split()[-1] for line in lines if line.startswith("listening on"))
        wait_until(lambda: is_warm(url, verify), "the server process")
        yield Process(url, popen)
    finally:
        popen.kill()
        popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """serve(**options of ServeOptions) -> Running; the small network, one thread, a free port."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(**options))


@pytest.fixture
def serve_process() -> Iterator[Callable[..., Process]]:
    """serve_process(*arguments of `rallytrace serve`) -> Process; on a free port."""
    with ExitStack() as stack:
        yield lambda *arguments, **more: stack.enter_context(running_process(*arguments, **more))


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Running]:
    """One server for all tests that leave it as it was: the small network, and the default one."""
    with running(weights=("window3", "accurate")) as server:
        yield server


@pytest.fixture(scope="session")
def rally_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a synthetic rally at 512x288, with its labels beside it."""
    path = tmp_path_factory.mktemp("serve") / "rally.mp4"
    make_clip(path, RallyOptions(wh=(512, 288), seconds=2.0, seed=3))
    return path


@pytest.fixture(scope="session")
def rally_pictures(rally_clip: Path) -> list[Image]:
    """Its pictures, RGB."""
    with video.read(rally_clip, wh=(512, 288), colour="rgb") as reader:
        return [frame.image for frame in reader]
