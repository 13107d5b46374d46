"""POST /v1/track: a whole video in, its trajectory out: at once, with progress, or as a job to come back for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from rallytrace.serve import bodies, jobs
from rallytrace.serve.app import Services
from rallytrace.serve.jobs import Job, TrackOptions
from rallytrace.serve.routes_admin import ERRORS, Whole, admit
from rallytrace.serve.security import ApiError
from rallytrace.track import FILL

router = APIRouter(prefix="/v1/track", responses=ERRORS)
TICK_S = 0.1
EVENTS = "text/event-stream"
VIDEO = "video/mp4"
BINARY = {"schema": {"type": "string", "format": "binary"}}
VIDEO_BODY = {"requestBody": {"required": True, "content": {"video/mp4": BINARY, "application/octet-stream": BINARY}}}
RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The trajectory, or the video with it drawn on, as Accept says",
        "content": {
            "application/json": {
                "example": {
                    "id": "x",
                    "status": "done",
                    "frames_done": 1,
                    "source_wh": [1280, 720],
                    "points": [[0, 0.0, 640.25, 200.5, 0.97, "model"]],
                }
            },
            "text/csv": {
                "example": "Frame,Visibility,X,Y,Time,Score,Source\n0,1,640.25,200.50,00:00:00.000,0.9700,model\n"
            },
            "application/vnd.apache.parquet": {},
            VIDEO: BINARY,
            EVENTS: {"example": 'event: progress\ndata: {"frames_done": 30, "frames_total": 300}\n\n'},
        },
    },
    202: {"description": "A job: ask for it at Location"},
}
DRAWN: dict[int | str, dict[str, Any]] = {200: {"description": "H.264 mp4 with sound", "content": {VIDEO: BINARY}}}


@router.post("", openapi_extra=VIDEO_BODY, responses=RESULT)
async def track(
    request: Request,
    model: Annotated[str | None, Query(max_length=100)] = None,
    threshold: Annotated[float | None, Query(gt=0, lt=1)] = None,
    overlap: Annotated[Whole, Query(ge=1, le=64)] = 1,
    fill: Annotated[Whole, Query(ge=0, le=1000)] = FILL,
    draw: Annotated[bool, Query(description="Make the drawn video too; Accept: video/mp4 says the same")] = False,
    later: Annotated[bool, Query(alias="async", description="Answer 202 with a job at once")] = False,
) -> Response:
    """Track a video."""
    services = admit(request, "track")
    kind = bodies.choose(request.headers.get("accept"), [*bodies.POINT_TYPES, EVENTS, VIDEO])
    network = services.engine.network(model)
    bodies.check_overlap(overlap, network.spec)
    owner = request.state.key_id
    with services.jobs.file(owner) as path:
        await jobs.spool(request.stream(), path)
        options = TrackOptions(threshold, overlap, fill, draw or kind == VIDEO)
        job = services.jobs.start(path, network, owner, options)
    if later:
        where = f"/v1/track/{job.id}"
        return JSONResponse({**job.describe(), "url": where}, 202, {"location": where})
    if kind == EVENTS:
        return StreamingResponse(_events(services, job), media_type=EVENTS)
    try:
        await services.watch(request, job.finished)
        answer = await _result(services, job, kind)
    except BaseException:
        services.jobs.remove(job)
        raise
    if kind == VIDEO or not draw:  # else its video is at the address that the answer names
        answer.background = BackgroundTask(services.jobs.remove, job)
    return answer


@router.get("/{job_id}", responses=RESULT)
async def look(request: Request, job_id: str) -> Response:
    """How far a job is; its trajectory, or drawn video, once it is done."""
    services = admit(request, "track")
    kind = bodies.choose(request.headers.get("accept"), [*bodies.POINT_TYPES, VIDEO])
    job = services.jobs.get(job_id, request.state.key_id)
    return await _look(services, job, kind)


@router.get("/{job_id}/video", response_class=FileResponse, responses=DRAWN)
async def look_at_video(request: Request, job_id: str) -> Response:
    """The drawn video of a job that was asked for one; Range is obeyed."""
    services = admit(request, "track")
    return await _look(services, services.jobs.get(job_id, request.state.key_id), VIDEO)


async def _look(services: Services, job: Job, kind: str) -> Response:
    if kind == "application/json" and job.status != "done":
        return JSONResponse(job.describe())
    if not job.is_finished:
        raise ApiError(409, "not_ready", f"{job.frames_done} frames are tracked: ask again", 1)
    return await _result(services, job, kind)


@router.delete("/{job_id}", status_code=204, response_class=Response)
async def forget(request: Request, job_id: str) -> None:
    """Cancel a job, or forget its result."""
    services = admit(request, "track")
    services.jobs.remove(services.jobs.get(job_id, request.state.key_id))


async def _result(services: Services, job: Job, kind: str) -> Response:
    if job.error is not None:
        raise job.error
    assert job.result is not None
    if kind == VIDEO:
        if job.drawn is None:
            raise ApiError(409, "not_drawn", "no video was drawn: send it with ?draw=true")
        return FileResponse(job.drawn, media_type=VIDEO, filename="tracked.mp4", content_disposition_type="inline")
    points, more = list(job.result), job.describe()
    more.pop("frames_total", None)
    form = bodies.POINT_TYPES[kind]
    body = await asyncio.to_thread(bodies.points_body, points, form, services.jobs.folder, **more)
    return Response(body, media_type=kind)


async def _events(services: Services, job: Job) -> AsyncIterator[str]:
    """Progress as it comes, then "done" (the trajectory is at url) or "error". A client that leaves ends the job."""
    told = -1
    try:
        while not job.is_finished:
            if job.frames_done != told:
                told = job.frames_done
                yield _event("progress", job.describe())
            await asyncio.sleep(TICK_S)
        where = f"/v1/track/{job.id}"
        yield _event("done" if job.error is None else "error", {**job.describe(), "url": where})
    finally:
        if not job.is_finished:
            services.jobs.remove(job)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
