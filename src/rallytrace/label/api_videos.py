"""Routes of videos and their pictures."""

from __future__ import annotations

import struct
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from rallytrace.label.api_common import MAX_FRAME, RAW_BODY, Admin, After, Body, Denied, Id, Limit, Me, Workspace, Ws
from rallytrace.label.book import Video, WrongState
from rallytrace.label.frames import QUALITY, FrameUnavailable, Source

router = APIRouter(tags=["videos"])
Index = Annotated[int, Path(ge=0, le=MAX_FRAME)]
Version = Annotated[str | None, Query(max_length=64)]
FOREVER = "private, max-age=31536000, immutable"
MAX_CHUNK = 16
MAX_PREFETCH = 256


class Prefetch(Body):
    """Frames that will be asked for: `count` from `start` on, or down from it where `direction` is negative."""

    start: Annotated[int, Query(ge=0, le=MAX_FRAME)]
    count: Annotated[int, Query(ge=1, le=MAX_PREFETCH)] = 64
    direction: Annotated[int, Query(ge=-1, le=1)] = 1


def video_json(video: Video) -> dict[str, Any]:
    """As the browser wants it."""
    shown = ("id", "name", "w", "h", "n_frames", "rate", "state", "progress", "error")
    return {name: getattr(video, name) for name in shown} | {"sha": video.sha256}


@router.get("/api/videos")
def videos(ws: Ws, user: Me, after: After = 0, limit: Limit = 1000) -> list[dict[str, Any]]:
    """All of the project."""
    return [video_json(video) for video in ws.library.videos(after, limit)]


@router.post("/api/videos", status_code=201, openapi_extra=RAW_BODY)
async def upload(
    request: Request, ws: Ws, user: Admin, name: Annotated[str, Query(min_length=1, max_length=200)]
) -> dict[str, Any]:
    """A new video, as the raw body; its import begins."""
    return video_json(await ws.library.receive(name, request.stream()))


@router.get("/api/videos/{video_id}")
def video(video_id: Id, ws: Ws, user: Me) -> dict[str, Any]:
    """One, with the presentation times of its frames in seconds."""
    return video_json(ws.library.video(video_id)) | {"pts": ws.book.frame_times(video_id).tolist()}


def _source(ws: Workspace, video_id: int, version: str | None) -> Source:
    source = ws.library.source(video_id)
    if version and not source.sha256.startswith(version):
        raise Denied(404, "not_found", f"video {video_id} has no version {version[:12]}: load the page again")
    return source


def _jpeg(ws: Workspace, source: Source, index: int, width: int | None = None) -> bytes:
    try:
        return ws.frames.jpeg(source, index, width)
    except IndexError as error:
        raise Denied(404, "not_found", str(error)) from None
    except FrameUnavailable:
        found = ws.library.forget(source.id)
        if found.state != "ready":
            raise WrongState(f"video {found.name!r} is {found.state}: {found.error or 'it is read again'}") from None
        raise


@router.get("/frames/{video_id}/{index}.jpg", response_class=Response)
def frame(
    video_id: Id,
    index: Index,
    request: Request,
    ws: Ws,
    user: Me,
    v: Version = None,
    w: Annotated[int | None, Query(ge=1, le=16_384)] = None,
) -> Response:
    """The picture of one frame, which never changes under the same address."""
    source = _source(ws, video_id, v)
    tag = f'"{source.sha256[:12]}-{index}-{w or 0}-{QUALITY}"'
    headers = {"ETag": tag, "Cache-Control": FOREVER if v else "private, no-cache"}
    if index < len(source.table) and tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(_jpeg(ws, source, index, w), media_type="image/jpeg", headers=headers)


@router.get("/frames/{video_id}/chunk", response_class=Response)
def chunk(
    video_id: Id,
    ws: Ws,
    user: Me,
    start: Annotated[int, Query(ge=0, le=MAX_FRAME)],
    count: Annotated[int, Query(ge=1, le=MAX_CHUNK)] = MAX_CHUNK,
    v: Version = None,
) -> Response:
    """Several at once: for each its index and the length of its JPEG (both u32, little-endian), then the JPEG."""
    source = _source(ws, video_id, v)
    parts = [(i, _jpeg(ws, source, i)) for i in range(start, max(start + 1, min(start + count, len(source.table))))]
    data = b"".join(struct.pack("<II", index, len(jpeg)) + jpeg for index, jpeg in parts)
    headers = {"Cache-Control": FOREVER if v else "private, no-cache"}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.post("/frames/{video_id}/prefetch", status_code=202)
def prefetch(video_id: Id, body: Prefetch, ws: Ws, user: Me) -> dict[str, bool]:
    """Makes pictures before they are asked for."""
    step = -1 if body.direction < 0 else 1
    ws.frames.prefetch(ws.library.source(video_id), range(body.start, body.start + step * body.count, step))
    return {"ok": True}
