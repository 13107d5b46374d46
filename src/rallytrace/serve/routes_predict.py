"""POST /invocations: windows, pictures or a short clip in, points or heatmaps out, within one request.

The path, the health check and the port are SageMaker's hosting contract; /endpoints/NAME/invocations is what clients of
its runtime call, so that their endpoint URL can point here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from rallytrace.decode.videos import Decoder
from rallytrace.errors import InputError
from rallytrace.serve import bodies, jobs, protocol
from rallytrace.serve.app import Services
from rallytrace.serve.engine import BatchingNetwork, Model
from rallytrace.serve.jobs import TrackOptions
from rallytrace.serve.protocol import FrameRecord
from rallytrace.serve.routes_admin import ERRORS, Whole, admit
from rallytrace.serve.security import ApiError
from rallytrace.track import FILL
from rallytrace.types import BallPoint, Image

router = APIRouter(responses=ERRORS)
NPY, FRAMES = "application/x-npy", "application/x-rallytrace-frames"
KINDS = ("application/json", NPY, FRAMES, "multipart/form-data", "video/mp4")
BINARY = {"schema": {"type": "string", "format": "binary"}}
WINDOW = {"type": "array", "description": "(N, 9, H, W), numbers in [0, 1]", "items": {"type": "array", "items": {}}}
INSTANCES = {"type": "object", "properties": {"instances": WINDOW}, "required": ["instances"]}
BY_ADDRESS = {"type": "object", "properties": {"video": {"type": "string"}}, "required": ["video"]}
BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [WINDOW, INSTANCES, BY_ADDRESS]},
                "examples": {
                    "window": {"summary": "shape (1, 9, 16, 16)", "value": [[[[0.5] * 16] * 16] * 9]},
                    "s3": {"value": {"video": "s3://bucket/rally.mp4"}},
                },
            },
            NPY: BINARY,
            FRAMES: BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"frames": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "video/mp4": BINARY,
        },
    }
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Heatmaps of each window's last picture, or points",
        "content": {
            "application/json": {"example": {"points": [[0, 0.0, 640.25, 200.5, 0.97, "model"]]}},
            "text/csv": {},
            "application/vnd.apache.parquet": {},
            NPY: {},
        },
    }
}


class _Query:
    """What the address says, for all content types."""

    def __init__(
        self,
        model: Annotated[str | None, Query(max_length=100)] = None,
        threshold: Annotated[float | None, Query(gt=0, lt=1)] = None,
        overlap: Annotated[Whole, Query(ge=1, le=64)] = 1,
        fill: Annotated[Whole | None, Query(ge=0, le=1000)] = None,
        source_wh: Annotated[str | None, Query(pattern=r"^[0-9]{1,5}x[0-9]{1,5}$")] = None,
        fps: Annotated[float, Query(gt=0, le=1000)] = 30.0,
    ) -> None:
        self.model, self.threshold, self.overlap, self.fill, self.fps = model, threshold, overlap, fill, fps
        self.is_hint = False  # the model is not a wish
        w, _, h = (source_wh or "0x0").partition("x")
        self.source_wh = (int(w), int(h)) if source_wh else None
        if self.source_wh and not 1 <= min(self.source_wh) <= max(self.source_wh) <= protocol.MAX_SIDE_PX:
            raise InputError(f"source_wh {source_wh}: expected sides of 1 to {protocol.MAX_SIDE_PX} px")

    def options(self, fill: int | None) -> TrackOptions:
        """`fill`: the content type's default."""
        return TrackOptions(self.threshold, self.overlap, fill if self.fill is None else self.fill)


Asked = Annotated[_Query, Depends()]


@router.post("/invocations", openapi_extra=BODIES, responses=ANSWERS)
async def invocations(request: Request, query: Asked) -> Response:
    """Windows, pictures or a clip."""
    return await _answer(request, query)


@router.post("/endpoints/{name}/invocations", summary="As /invocations", openapi_extra=BODIES, responses=ANSWERS)
async def invoke_endpoint(request: Request, query: Asked, name: str) -> Response:
    """AWS clients name an endpoint: the model of that name answers, where there is one and the body suits it."""
    names = [model.name for model in request.app.state.services.engine.models]
    query.is_hint = query.model is None
    query.model = query.model or (name if name in names else None)
    return await _answer(request, query)


async def _answer(request: Request, query: _Query) -> Response:
    services = admit(request, "track")
    services.engine.batcher.check_room()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("video/"):
        return await _video(services, request, query)
    if kind == "multipart/form-data":
        with services.holding(request):
            return await _pictures(services, request, query, await _parts(services, request, query))
    if kind not in ("application/json", NPY, FRAMES):
        raise ApiError(415, "unsupported_type", f"content type {kind[:80]!r}: expected one of {', '.join(KINDS)}")
    async with services.read(request) as body:
        if kind == FRAMES:
            records = protocol.unpack_frames(body, max_bytes=services.options.max_frame_bytes)
            return await _pictures(services, request, query, records)
        if kind == "application/json" and len(body) < 4096 and (url := _address(body)) is not None:
            return await _video(services, request, query, url)
        return await _windows(services, request, query, body, bodies.parse_npy if kind == NPY else bodies.parse_windows)


def _accept(services: Services, request: Request) -> str | None:
    """AWS clients send */* where their caller has no wish."""
    wish = request.headers.get("accept", "*/*")
    return services.options.default_accept if wish == "*/*" else wish


def _address(body: bytes) -> str | None:
    """The address in {"video": ...}."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    url = found.get("video") if isinstance(found, dict) else None
    return url if isinstance(url, str) else None


def _network(services: Services, name: str | None) -> BatchingNetwork:
    return services.engine.network(name, deadline=time.monotonic() + services.options.request_timeout_s)


async def _windows(
    services: Services, request: Request, query: _Query, body: bytes, parse: Callable[[bytes], Image]
) -> Response:
    """Stateless windows: heatmaps of the last picture of each, or its points in pixels of the window."""
    heatmaps_first = parse is bodies.parse_windows
    kind = bodies.choose(_accept(services, request), [*bodies.POINT_TYPES, NPY])
    network = _network(services, None)

    def work() -> bytes:
        windows = parse(body)
        network.model = _window_model(services, query, windows.shape[1])
        spec = network.spec
        ready = bodies.fit_windows(windows, spec)
        runs = [network.run(ready[i : i + 1]) for i in range(len(ready))]
        found = [bodies.last_points(heat, off, spec)[0] for heat, off in runs]
        threshold = query.threshold or spec.threshold
        if kind == NPY or (kind == "application/json" and heatmaps_first):
            maps = bodies.blobs(found, (windows.shape[2], windows.shape[3]), threshold)
            return bodies.npy(maps) if kind == NPY else bodies.heatmaps_json(maps)
        points = [bodies.window_point(i, i / query.fps, *each, threshold) for i, each in enumerate(found)]
        return bodies.points_body(points, bodies.POINT_TYPES[kind], services.jobs.folder)

    return Response(await services.run(request, network.cancel, work), media_type=kind)


def _window_model(services: Services, query: _Query, channels: int) -> Model:
    """The model that is asked for, or the first that takes such windows. Raises InputError where none does."""
    models = [services.engine.model(query.model)] if query.model else []
    if query.is_hint or not models:
        models += services.engine.models
    for model in models:
        if bodies.takes(model.spec, channels):
            return model
    expected = ", ".join(f"{model.spec.channels} for {model.name}" for model in models)
    raise InputError(f"windows of {channels} channels, expected 9 (three RGB pictures) or {expected}")


async def _parts(services: Services, request: Request, query: _Query) -> list[FrameRecord]:
    """The pictures of a form, in order."""
    limit = services.options.max_clip_frames
    async with request.form(max_files=limit, max_fields=8, max_part_size=services.options.max_frame_bytes) as form:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        for file in files:
            if (file.size or 0) > services.options.max_frame_bytes:
                raise ApiError(413, "too_large", f"a picture may have {services.options.max_frame_bytes} bytes here")
        return [FrameRecord(i, i / query.fps, await file.read()) for i, file in enumerate(files)]


async def _pictures(services: Services, request: Request, query: _Query, records: Iterable[FrameRecord]) -> Response:
    """JPEG or PNG pictures of one clip -> points; raw ones, so that a client may link them across bodies."""
    kind = bodies.choose(_accept(services, request), list(bodies.POINT_TYPES))
    network = _network(services, query.model)
    bodies.check_overlap(query.overlap, network.spec)

    def work() -> bytes:
        wh, frames = bodies.clip_frames(
            records,
            network.spec,
            query.source_wh,
            services.pictures,
            max_frames=services.options.max_clip_frames,
            max_pixels=services.options.max_pixels,
        )
        points = jobs.track_frames(frames, network, wh, query.options(None))
        return _points(services, network, points, kind, wh)

    return Response(await services.run(request, network.cancel, work), media_type=kind)


async def _video(services: Services, request: Request, query: _Query, url: str | None = None) -> Response:
    """A short clip, in the body or at an address that the operator allows."""
    options = services.options
    kind = bodies.choose(_accept(services, request), list(bodies.POINT_TYPES))
    network = _network(services, query.model)
    bodies.check_overlap(query.overlap, network.spec)
    with services.jobs.file(request.state.key_id) as path:
        if url is None:
            await jobs.spool(request.stream(), path)

        def work() -> bytes:
            try:
                if url is not None:
                    jobs.fetch(url, options.allow_fetch, path, options.max_video)
                limits = services.jobs.limits(options.max_clip_frames, options.request_timeout_s)
                with Decoder(str(path), network.spec, limits) as frames:
                    wh = frames.source.wh
                    picture = frames.source.picture
                    points = jobs.track_frames(frames, network, wh, query.options(FILL), picture=picture)
                return _points(services, network, points, kind, wh)
            finally:
                path.unlink(missing_ok=True)

        return Response(await services.run(request, network.cancel, work), media_type=kind)


def _points(
    services: Services, network: BatchingNetwork, points: list[BallPoint], kind: str, wh: tuple[int, int]
) -> bytes:
    about = {"source_wh": list(wh), "model": network.model.name, "version": network.model.version}
    return bodies.points_body(points, bodies.POINT_TYPES[kind], services.jobs.folder, **about)
