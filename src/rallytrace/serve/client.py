"""Tracking on a server: `Client` for plain code, `AsyncClient` for asyncio. Needs `pip install 'rallytrace[serve]'`.

with Client("https://host:8080", api_key=..., fingerprint=...) as client:
    client.track_video("rally.mp4", "results")
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from rallytrace.errors import EndpointError
from rallytrace.geometry import FrameTransform
from rallytrace.serve.client_batch import AsyncBatches
from rallytrace.serve.client_connect import NoWebSocket, Server, TryAgain
from rallytrace.serve.client_jobs import draw_video
from rallytrace.serve.client_session import AsyncSession
from rallytrace.serve.protocol import Codec, Start
from rallytrace.track import TrackResult, track_video
from rallytrace.tracker import OpenTracker, PointStream
from rallytrace.types import BallPoint, Box, Frame, VideoInfo

T = TypeVar("T")
Answer = Coroutine[Any, Any, list[BallPoint]]
DEADLINE_S = 60.0  # how long a server keeps a session that was left


class AsyncClient:
    """A server, for asyncio.

    url: such as https://host:8080. fingerprint: SHA-256 of the server's certificate, which alone is then accepted.
    insecure: accept any certificate. deadline_s: how long to go on trying where nothing moves. on_notice: told in a
    line what the user should know; a Python warning when None. Raises InputError for a malformed url or fingerprint.

        async with AsyncClient(url) as client, client.session(info.wh) as session:
            reader.give_to(session)
            for frame in reader:
                for point in await session.push(frame): ...
            for point in await session.flush(): ...
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        fingerprint: str | None = None,
        insecure: bool = False,
        deadline_s: float = DEADLINE_S,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self._server = Server(url, api_key, fingerprint, insecure)
        self._deadline_s, self._notify = deadline_s, on_notice or warnings.warn
        if insecure and not fingerprint and self._server.url.startswith("https:"):
            self._notify(f"{self._server.url}: its certificate is not checked, so it may be anybody's")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def models(self) -> list[dict[str, Any]]:
        """The networks that the server has. Raises EndpointError."""
        try:
            listed: list[dict[str, Any]] = (await self._server.request("GET", "/v1/models"))["models"]
        except TryAgain as error:
            raise EndpointError(str(error)) from None
        except (KeyError, TypeError):
            raise EndpointError(f"{self._server.url}/v1/models lists no networks") from None
        return listed

    async def draw_video(
        self,
        source: str | Path,
        to: str | Path,
        *,
        model: str | None = None,
        threshold: float | None = None,
        overlap: int | None = None,
        fill: int | None = None,
    ) -> None:
        """Send the file `source`, and write the video that the server draws on to `to`. The server's defaults for None.

        Raises InputError, EndpointError, OutputError.
        """
        query = {"model": model, "threshold": threshold, "overlap": overlap, "fill": fill}
        await draw_video(self._server, Path(source), Path(to), query, self._deadline_s)

    @asynccontextmanager
    async def session(
        self,
        source_wh: tuple[int, int],
        *,
        model: str | None = None,
        threshold: float | None = None,
        overlap: int = 1,
        live: bool = False,
        codec: Codec = "delta",
    ) -> AsyncIterator[AsyncSession | AsyncBatches]:
        """A `Tracker` on the server for one video; the options are those of `Tracker`, model the server's default.

        codec: with delta, png or raw points are exact; with jpeg nearly all are within 0.5 px. delta is the smallest,
        and turns to jpeg while more than 40 KB a frame change: a moving or noisy camera. Where no WebSocket gets
        through, frames go as JPEG in requests of some seconds each. Raises EndpointError.
        """
        start = Start(source_wh, model=model, live=live, threshold=threshold, overlap=overlap, codec=codec)
        async with AsyncExitStack() as stack:
            session: AsyncSession | AsyncBatches
            try:
                session = await stack.enter_async_context(AsyncSession(self._server, start, self._deadline_s))
            except NoWebSocket as error:
                self._notify(
                    f"{self._server.url} takes no WebSocket ({error}): frames go in batches, points may differ"
                )
                session = await stack.enter_async_context(AsyncBatches(self._server, start, self._deadline_s))
            yield session


class RemoteTracker:
    """A `PointStream` on a server, made by `Client.session`."""

    def __init__(
        self,
        session: AsyncSession | AsyncBatches,
        wait: Callable[[Answer], list[BallPoint]],
        origin_xy: tuple[int, int] = (0, 0),
    ) -> None:
        self._session, self._wait = session, wait
        self._origin_xy = origin_xy  # the server knows of no black borders

    @property
    def transform(self) -> FrameTransform:
        return replace(self._session.transform, origin_xy=self._origin_xy)

    @property
    def colour(self) -> Literal["grey", "rgb"]:
        """The colour that frames must have."""
        return self._session.colour

    def push(self, frame: Frame) -> list[BallPoint]:
        """The points that have come since the last call. Raises EndpointError."""
        return self._moved(self._wait(self._session.put(frame, self._session.encode(frame))))

    def flush(self) -> list[BallPoint]:
        """Waits for the points of all frames that are left. Raises EndpointError."""
        return self._moved(self._wait(self._session.flush()))

    def _moved(self, points: list[BallPoint]) -> list[BallPoint]:
        x, y = self._origin_xy
        if (x, y) == (0, 0):
            return points
        return [replace(p, xy=(p.xy[0] + x, p.xy[1] + y)) if p.xy else p for p in points]


async def _idle(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    """Keeps a loop running for calls from other threads, until the event is set."""
    closing = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), closing))
    await closing.wait()


class Client:
    """A server, as a context manager. The options are those of `AsyncClient`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        fingerprint: str | None = None,
        insecure: bool = False,
        deadline_s: float = DEADLINE_S,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self._client = AsyncClient(
            url, api_key=api_key, fingerprint=fingerprint, insecure=insecure, deadline_s=deadline_s, on_notice=on_notice
        )
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(_idle(started),), daemon=True)
        self._thread.start()
        self._loop, self._closing = started.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def models(self) -> list[dict[str, Any]]:
        """The networks that the server has. Raises EndpointError."""
        return self._wait(self._client.models())

    def draw_video(self, source: str | Path, to: str | Path, **options: Any) -> None:
        """As `AsyncClient.draw_video`: this machine needs neither network nor encoder."""
        self._wait(self._client.draw_video(source, to, **options))

    @contextmanager
    def session(
        self, source_wh: tuple[int, int], *, picture: Box | None = None, **options: Any
    ) -> Iterator[RemoteTracker]:
        """A `Tracker` on the server for one video; the options are those of `AsyncClient.session`. picture: as of
        `Tracker`."""
        x, y, *wh = picture or (0, 0, *source_wh)
        opened = self._client.session((wh[0], wh[1]), **options)
        session = self._wait(opened.__aenter__())
        try:
            yield RemoteTracker(session, self._wait, (x, y))
        finally:
            self._wait(opened.__aexit__(None, None, None))

    def open_tracker(self, **options: Any) -> OpenTracker:
        """For `track_video(..., open_tracker=)`; the options are those of `AsyncClient.session` less `live`."""

        def open_tracker(info: VideoInfo) -> AbstractContextManager[PointStream]:
            return self.session(info.wh, live=info.is_live, picture=info.picture, **options)

        return open_tracker

    def track_video(
        self,
        source: str | Path,
        out: str | Path = ".",
        *,
        model: str | None = None,
        threshold: float | None = None,
        overlap: int = 1,
        codec: Codec = "delta",
        **options: Any,
    ) -> TrackResult:
        """`rallytrace.track_video` with the points of the server. Raises EndpointError too."""
        opener = self.open_tracker(model=model, threshold=threshold, overlap=overlap, codec=codec)
        return track_video(source, out, open_tracker=opener, **options)
