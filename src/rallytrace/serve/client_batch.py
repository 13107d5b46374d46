"""Where no WebSocket gets through: the frames of one video as short clips, each a request to /invocations.

Every request is a clip of its own to the server, so that its background is the median of some seconds around instead
of ten, and windows begin anew: points near the seams may differ by tenths of a pixel from those of a session.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Any, Literal, Self

from rallytrace.errors import EndpointError
from rallytrace.geometry import FrameTransform
from rallytrace.serve.client_connect import Server, TryAgain
from rallytrace.serve.client_session import MAX_DELAY_S, FrameEncoder
from rallytrace.serve.protocol import FrameRecord, Points, ProtocolError, Start, pack_frames
from rallytrace.types import BallPoint, Frame

CLIP_BYTES = 5_000_000  # a managed endpoint takes 6,291,456
CLIP_FRAMES, LIVE_FRAMES = 180, 45
MARGIN = 12  # frames of a clip that the next one answers, having seen what follows them; and as many before


class AsyncBatches:
    """The interface of `AsyncSession`, without its exactness."""

    def __init__(self, server: Server, start: Start, deadline_s: float) -> None:
        self._server, self._start, self._deadline_s = server, start, deadline_s
        self._encoder = FrameEncoder("jpeg")
        self._clip: list[FrameRecord] = []
        self._bytes = self._pushed = self._points = 0

    async def __aenter__(self) -> Self:
        listed = await self._request("GET", "/v1/models")
        try:
            models = {model["name"]: model for model in listed["models"]}
            model = models[self._start.model or next(name for name in models if models[name].get("default"))]
            size_wh = (int(model["size_wh"][0]), int(model["size_wh"][1]))
            self.transform = FrameTransform.fit_area(self._start.source_wh, size_wh, int(model["multiple"]))
            self.colour: Literal["grey", "rgb"] = "rgb" if model["colour"] == "rgb" else "grey"
        except (KeyError, TypeError, ValueError, StopIteration):
            raise EndpointError(f"{self._server.url} has no network {self._start.model or 'by default'!r}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def encode(self, frame: Frame) -> bytes:
        """The payload for `put`."""
        return self._encoder.encode(frame.image)

    async def push(self, frame: Frame) -> list[BallPoint]:
        """Gives points when a clip is full."""
        return await self.put(frame, await asyncio.to_thread(self.encode, frame))

    async def put(self, frame: Frame, payload: bytes) -> list[BallPoint]:
        """`push` of a frame that is encoded already."""
        if frame.index != self._pushed:
            raise ValueError(f"frame {frame.index} is pushed where {self._pushed} is due")
        self._clip.append(FrameRecord(frame.index, frame.pts_s, payload))
        self._pushed, self._bytes = self._pushed + 1, self._bytes + len(payload)
        full = LIVE_FRAMES if self._start.live else CLIP_FRAMES
        if len(self._clip) < full and (self._bytes < CLIP_BYTES or len(self._clip) <= 3 * MARGIN):
            return []
        points = await self._answered(self._pushed - MARGIN)
        first = len(self._clip) - 2 * MARGIN
        while not self._clip[first].payload:  # a repeat: go back to what it repeats
            first -= 1
        self._clip = self._clip[first:]
        self._bytes = sum(len(record.payload) for record in self._clip)
        return points

    async def flush(self) -> list[BallPoint]:
        """The points of all frames that are left."""
        return await self._answered(self._pushed) if self._points < self._pushed else []

    async def _answered(self, until: int) -> list[BallPoint]:
        """The points of the frames before `until` that are not given yet."""
        start = self._start
        query: dict[str, Any] = {"source_wh": "{}x{}".format(*start.source_wh), "overlap": start.overlap}
        query |= {name: value for name in ("model", "threshold") if (value := getattr(start, name)) is not None}
        # Numbered from 0, as in a clip of its own.
        first = self._clip[0].index
        body = pack_frames(replace(record, index=record.index - first) for record in self._clip)
        kind = {"Content-Type": "application/x-rallytrace-frames", "Accept": "application/json"}
        answer = await self._request("POST", "/invocations", params=query, headers=kind, content=body)
        try:
            found = Points(tuple(answer["points"]), 0).to_points()
        except (KeyError, TypeError, ProtocolError):
            raise EndpointError(f"{self._server.url}/invocations gives no points") from None
        if [point.frame for point in found] != list(range(len(self._clip))):
            raise EndpointError(f"{self._server.url}/invocations gives {len(found)} points, not {len(self._clip)}")
        points = [replace(p, frame=p.frame + first) for p in found if self._points <= p.frame + first < until]
        self._points = until
        return points

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        """With patience."""
        began_s, attempts = time.monotonic(), 0
        while True:
            try:
                return await self._server.request(method, path, **options)
            except TryAgain as error:
                delay_s = max(error.after_s or 0, min(MAX_DELAY_S, 0.2 * 2**attempts) * random.uniform(0.5, 1))
                if time.monotonic() + delay_s > began_s + self._deadline_s:
                    raise EndpointError(str(error)) from None
                attempts += 1
                await asyncio.sleep(delay_s)
